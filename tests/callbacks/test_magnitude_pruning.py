"""Magnitude pruning in a run: how much and when, held at zero, through growths, resumes and shards."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from runs import CONFIG, SaveAtOnce, assert_equal, assert_same_training_state, fit, on_processes
from torch.optim import SGD, AdamW

from lit_recycle.callbacks import GrowthCallback, MagnitudePruning
from lit_recycle.checkpoints.grow import grow_checkpoint
from lit_recycle.checkpoints.native import load_whole_checkpoint
from lit_recycle.checkpoints.sharded import MASKS
from lit_recycle.growth.event import GrowthEvent, Trigger, Width
from lit_recycle.growth.operators import PruneInner, WidenInner
from lit_recycle.training.muon import Muon
from lit_recycle.training.strategies import FSDPStrategy

STEPS, GROWS = 8, 4
OPERATORS = [WidenInner("shared"), Width(2, noise=0.3).operator]


class Zeros(L.Callback):
    """The share of weights that are zero at each batch's end, of the matrices that are pruned."""

    def __init__(self) -> None:
        self.shares: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
        found = [p for n, p in pl_module.named_parameters() if "experts." in n or ("attn." in n and "_proj" in n)]
        self.shares.append(sum(int((p == 0).sum()) for p in found) / sum(p.numel() for p in found))


def run(root: Path, strategy: str = "auto", *, first: bool = True, **options: Any) -> tuple[Any, Zeros]:
    events = [GrowthEvent(Trigger(steps=GROWS), grow=OPERATORS)]
    pruning = MagnitudePruning(0.5, begin=0.1, end=0.6, every_n_steps=1 if first else 3)
    options = {"before_growth": [pruning], "events": events, "callbacks": [zeros := Zeros()], **options}
    trainer, *_ = fit(root, strategy, steps=STEPS, **options)
    return trainer, zeros


@pytest.mark.parametrize("optimizer", ["AdamW", "SGD", "Muon"])
def test_what_is_pruned_stays_zero_with_any_optimizer(optimizer: str, tmp_path: Path) -> None:
    made = {"AdamW": AdamW, "SGD": partial(SGD, momentum=0.9), "Muon": Muon}[optimizer]
    trainer, zeros = run(tmp_path, module={"optimizer": partial(made, lr=0.01, weight_decay=0.1)}, events=[])
    (pruning,) = (c for c in trainer.callbacks if isinstance(c, MagnitudePruning))
    total = trainer.lightning_module.flops_spent
    assert pruning._total == total, "the run's FLOPs are known at its beginning"
    expected = [pruning.share_at(total * step // STEPS) for step in range(STEPS)]
    assert expected[0] == 0 and expected[-1] > 0.49
    for found, share in zip(zeros.shares, expected, strict=True):
        assert share - 0.02 < found <= share + 0.01
    assert expected == sorted(expected) and expected[2] - expected[1] > expected[6] - expected[5], "fast at first"


def test_a_linear_schedule_rises_evenly() -> None:
    pruning = MagnitudePruning(0.8, begin=0.25, end=0.75, schedule="linear")
    pruning._total = 100
    assert [pruning.share_at(f) for f in (0, 25, 50, 75, 100)] == [0, 0, 0.4, 0.8, 0.8]


def grow_in_run(root: Path, strategy: str) -> None:
    run(root, strategy, first=False, callbacks=[SaveAtOnce(root / "grown.ckpt", GROWS)], saves=(2, 6, STEPS))


def check_growth(root: Path) -> None:
    """What a run has grown into is what its anchor grows into on disk, masks and all."""
    grow_checkpoint(root / f"checkpoints/anchor-step={GROWS}.ckpt", root / "disk.ckpt", *OPERATORS)
    disk, grown = (load_whole_checkpoint(root / f"{name}.ckpt") for name in ("disk", "grown"))
    assert_equal(grown["state_dict"], disk["state_dict"], "weights")
    assert_equal(grown[MASKS], disk[MASKS], "masks")
    name = "model.layers.0.moe.experts.down"
    held = grown[MASKS][name].bool()
    assert 0.1 < held.float().mean() < 0.5 and held.shape == grown["state_dict"][name].shape
    assert not grown["state_dict"][name][held].any(), "noise on copies is taken back"


def test_masks_grow_with_the_model_and_on_disk(tmp_path: Path) -> None:
    grow_in_run(tmp_path, "auto")
    check_growth(tmp_path)
    first = load_whole_checkpoint(tmp_path / "checkpoints/step=2.ckpt")
    assert MASKS not in first, "before anything is pruned"


def test_a_resumed_run_is_the_undisturbed_one_bit_for_bit(tmp_path: Path) -> None:
    run(tmp_path / "whole", first=False)
    saved = tmp_path / "whole/checkpoints"
    for name in ("step=3", f"anchor-step={GROWS}", "step=5"):
        run(tmp_path / name, first=False, ckpt_path=saved / f"{name}.ckpt")
        again = tmp_path / name / f"checkpoints/step={STEPS}.ckpt"
        assert_same_training_state(saved / f"step={STEPS}.ckpt", again)
        a, b = (load_whole_checkpoint(path)[MASKS] for path in (saved / f"step={STEPS}.ckpt", again))
        assert_equal(a, b, "masks")


def all_strategies(root: Path) -> None:
    for strategy in ("ddp", "fsdp2"):
        grow_in_run(root / strategy, strategy)
        part = root / strategy / "checkpoints/step=6.ckpt"
        run(root / f"{strategy}-on", strategy, first=False, ckpt_path=part, saves=[STEPS])


def test_shards_hold_what_one_device_does(tmp_path: Path) -> None:
    on_processes(2, all_strategies, tmp_path)
    grow_in_run(tmp_path / "auto", "auto")
    run(tmp_path / "auto-on", first=False, ckpt_path=tmp_path / "fsdp2/checkpoints/step=6.ckpt")
    for strategy in ("ddp", "fsdp2"):
        check_growth(tmp_path / strategy)
        last, again = (tmp_path / f"{strategy}{on}" / f"checkpoints/step={STEPS}.ckpt" for on in ("", "-on"))
        assert_same_training_state(last, again)
        assert_equal(load_whole_checkpoint(last)[MASKS], load_whole_checkpoint(again)[MASKS], "masks")
    one, two = (load_whole_checkpoint(tmp_path / f"{n}/checkpoints/step={STEPS}.ckpt") for n in ("auto", "fsdp2"))
    same = [torch.equal(one[MASKS][name], two[MASKS][name]) for name in one[MASKS]]
    assert sum(same) > 0.8 * len(same), "but for roundings"
    elsewhere = load_whole_checkpoint(tmp_path / f"auto-on/checkpoints/step={STEPS}.ckpt")
    assert elsewhere[MASKS].keys() == two[MASKS].keys()


def test_the_share_and_what_is_left_are_logged(tmp_path: Path) -> None:
    trainer, _ = run(tmp_path, logger=CSVLogger(tmp_path / "csv"), log_every_n_steps=1, events=[])
    (file,) = (tmp_path / "csv").rglob("metrics.csv")
    with file.open() as opened:
        rows = [row for row in csv.DictReader(opened) if row.get("sparsity/share")]
    module = trainer.lightning_module
    params = module.shape.num_params()
    assert len(rows) == STEPS and float(rows[0]["sparsity/nonzero_params"]) == params
    (pruning,) = (c for c in trainer.callbacks if isinstance(c, MagnitudePruning))
    pruned = sum(int(mask.sum()) for mask in pruning.masks.values())
    assert float(rows[-1]["sparsity/nonzero_params"]) == params - pruned > 0
    assert float(rows[-1]["sparsity/nonzero_active_params"]) < module.shape.num_active_params()
    assert 0.45 < float(rows[-1]["sparsity/share"]) <= 0.5


def test_a_run_without_the_callback_says_that_weights_are_free_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path / "whole", events=[])
    saved = tmp_path / "whole/checkpoints/step=6.ckpt"
    with caplog.at_level("INFO"):
        run(tmp_path / "on", events=[], before_growth=[], ckpt_path=saved)
    assert "no MagnitudePruning holds them" in caplog.text + capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.0}, "between 0 and 1"),
        ({"sparsity": 0.5, "begin": 0.8}, "0 <= begin < end <= 1"),
        ({"sparsity": 0.5, "schedule": "steep"}, "cubic or linear"),
        ({"sparsity": 0.5, "every_n_steps": 0}, "every_n_steps must be at least 1"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MagnitudePruning(**arguments)


def test_what_cannot_be_is_told_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'nowhere' is found in no matrix of the layers"):
        run(tmp_path, before_growth=[MagnitudePruning(0.5, pattern="nowhere")])
    with pytest.raises(ValueError, match=r"every_n_steps 100: no choice falls between step \d"):
        run(tmp_path, before_growth=[MagnitudePruning(0.5)])


def test_structured_and_unstructured_pruning_stand_side_by_side(tmp_path: Path) -> None:
    """Channels that are left keep their masks; in the order that puts the growth first, too."""
    events = [GrowthEvent(Trigger(steps=GROWS), grow=[PruneInner(4, "experts")])]
    after = [GrowthCallback(events), MagnitudePruning(0.5, begin=0.1, end=0.9, every_n_steps=1)]
    trainer, zeros = run(tmp_path, before_growth=after, events=[])
    assert trainer.lightning_module.config.expert_size == 4 and CONFIG.expert_size == 8
    assert zeros.shares == sorted(zeros.shares) and zeros.shares[-1] > 0.4


def test_fsdp1_is_refused() -> None:
    trainer: Any = SimpleNamespace(strategy=FSDPStrategy())
    with pytest.raises(ValueError, match="FSDP1 holds flat slices of them"):
        MagnitudePruning(0.5).setup(trainer, L.LightningModule(), "fit")
