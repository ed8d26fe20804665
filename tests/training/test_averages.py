"""Averages of weights, as Lightning's callbacks keep them, through growths and resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging, WeightAveraging
from runs import CONFIG, EVENTS, SaveAtOnce, assert_equal, fit, on_processes

from lit_recycle.checkpoints.grow import grow_checkpoint
from lit_recycle.checkpoints.merge import merge_checkpoints
from lit_recycle.checkpoints.native import CURRENT, load_checkpoint, load_whole_checkpoint
from lit_recycle.growth.native import NativeModel
from lit_recycle.training.averages import averages

DECAY = 0.7
KEYS = ("state_dict", CURRENT, "averaging_state", "optimizer_states", "progress", "hyper_parameters", "callbacks")


def ema() -> EMAWeightAveraging:
    return EMAWeightAveraging(decay=DECAY)


def run(root: Path, first: bool = False, average: Any = ema, **options: Any) -> None:
    """The average's callback stands before the one that grows, or behind it."""
    now, later = ([average()], []) if first else ([], [average()])
    saves = SaveAtOnce(root / "grown-{step}.ckpt", 3, 6)
    fit(root, before_growth=now, callbacks=[*later, saves], **options)


@pytest.fixture(scope="module", params=[False, True], ids=["behind", "before"])
def whole(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    root = tmp_path_factory.mktemp("averages") / "whole"
    run(root, request.param)
    return root


def load(path: Path) -> dict[str, Any]:
    loaded = load_whole_checkpoint(path)
    for name in list(loaded["callbacks"]):  # the path of the run's folder is in it
        if not name.endswith("WeightAveraging"):
            del loaded["callbacks"][name]
    return loaded


def test_it_is_the_average_of_the_weights_and_goes_on_after_growths(whole: Path) -> None:
    for step in range(1, 9):
        start = whole / (f"grown-{step}.ckpt" if step in (3, 6) else f"checkpoints/step={step}.ckpt")
        before, after = load(start), load(whole / f"checkpoints/step={step + 1}.ckpt")
        assert int(after["averaging_state"]["n_averaged"]) == step + 1
        for name, tensor in after["state_dict"].items():
            expected = DECAY * before["state_dict"][name] + (1 - DECAY) * after[CURRENT][name]
            assert torch.equal(tensor, expected), (step, name)


@pytest.mark.parametrize(("step", "event"), list(zip((3, 6), EVENTS, strict=True)))
def test_the_average_grown_in_a_run_is_its_anchor_s_grown_on_disk(
    whole: Path, tmp_path: Path, step: int, event: Any
) -> None:
    grow_checkpoint(whole / f"checkpoints/anchor-step={step}.ckpt", tmp_path / "grown.ckpt", *event.operators)
    on_disk, in_run = load(tmp_path / "grown.ckpt"), load(whole / f"grown-{step}.ckpt")
    for key in ("state_dict", CURRENT, "averaging_state"):
        assert_equal(in_run[key], on_disk[key], key)
    assert not torch.equal(in_run["state_dict"]["model.embed.weight"], in_run[CURRENT]["model.embed.weight"])


@pytest.mark.parametrize("name", ["step=2", "anchor-step=3", "step=5", "anchor-step=6", "step=7"])
def test_resumed_anywhere_it_ends_bit_for_bit_the_same(whole: Path, tmp_path: Path, name: str) -> None:
    run(tmp_path / "run", ckpt_path=whole / f"checkpoints/{name}.ckpt")
    ends = [load(root / "checkpoints/step=9.ckpt") for root in (whole, tmp_path / "run")]
    for key in KEYS:
        assert_equal(ends[0][key], ends[1][key], key)


def test_resuming_needs_no_word_of_the_growth(whole: Path, tmp_path: Path) -> None:
    class Unprepared(L.Callback):
        def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
            pl_module.set_shape(NativeModel(CONFIG), [])

    fit(
        tmp_path / "run",
        ckpt_path=whole / "checkpoints/step=7.ckpt",
        before_growth=[Unprepared(), ema()],
    )
    ends = [load(root / "checkpoints/step=9.ckpt") for root in (whole, tmp_path / "run")]
    for key in KEYS:
        assert_equal(ends[0][key], ends[1][key], key)


def test_without_the_callback_a_run_goes_on_with_what_was_trained(whole: Path, tmp_path: Path) -> None:
    path = whole / "checkpoints/step=7.ckpt"
    fit(tmp_path / "run", ckpt_path=path)
    end, expected = (load(root / "checkpoints/step=9.ckpt") for root in (tmp_path / "run", whole))
    assert_equal(end["state_dict"], expected[CURRENT], "weights")
    merge_checkpoints([path, whole / "checkpoints/step=8.ckpt"], tmp_path / "merged.ckpt", "mean")
    merged = load_checkpoint(tmp_path / "merged.ckpt")
    assert CURRENT not in merged and "averaging_state" not in merged
    first, second = (load(whole / f"checkpoints/step={step}.ckpt")[CURRENT]["model.norm.weight"] for step in (7, 8))
    assert merged["state_dict"]["model.norm.weight"].sub((first + second) / 2).abs().max() < 1e-6


def test_a_mean_of_all_steps_grows_too(tmp_path: Path) -> None:
    run(tmp_path / "run", average=WeightAveraging, steps=7)
    assert int(load(tmp_path / "run/checkpoints/step=7.ckpt")["averaging_state"]["n_averaged"]) == 7


def test_a_copy_of_the_module_leaves_the_source_of_its_weights_behind(whole: Path, tmp_path: Path) -> None:
    callback = ema()
    source = {"init_from": str(whole / "checkpoints/step=2.ckpt")}

    class Look(L.Callback):
        def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
            (average,) = averages(trainer)
            assert pl_module._source is not None and average.module._source is None
            assert_equal(dict(average.module.state_dict()), dict(pl_module.state_dict()), "weights")

    fit(tmp_path / "run", steps=2, config=None, events=[], module=source, callbacks=[callback, Look()])


@pytest.mark.parametrize("first", [False, True])
def test_some_averages_are_refused(first: bool, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"EMAWeightAveraging keeps a copy of the module's tensors.*fsdp2, auto or ddp"
    ):
        run(tmp_path / "run", first, strategy="fsdp")
    with pytest.raises(ValueError, match=r"EMAWeightAveraging.device: under FSDP2"):
        run(tmp_path / "run", first, average=lambda: EMAWeightAveraging("cpu"), strategy="fsdp2")
    with pytest.raises(ValueError, match="StochasticWeightAveraging goes by epochs"):
        fit(tmp_path / "run", callbacks=[StochasticWeightAveraging(1e-3)])


def on_two(root: Path) -> None:
    run(root / "ddp", strategy="ddp", saves=[9])
    run(root / "resumed", strategy="ddp", ckpt_path=root / "ddp/checkpoints/anchor-step=3.ckpt", saves=[9])


def test_under_ddp(tmp_path: Path) -> None:
    run(tmp_path / "auto")
    on_processes(2, on_two, tmp_path)
    ends = [load(tmp_path / name / "checkpoints/step=9.ckpt") for name in ("ddp", "resumed", "auto")]
    for key in KEYS:
        assert_equal(ends[0][key], ends[1][key], key)
    for key in ("state_dict", CURRENT):
        for name, tensor in ends[2][key].items():
            torch.testing.assert_close(ends[0][key][name], tensor, rtol=0, atol=1e-5)


# --- under FSDP2 -----------------------------------------------------------------------------------------------------


class Validation(L.Callback):
    """Keeps the losses of validation, which are those of the average."""

    def __init__(self, path: Path) -> None:
        self.path, self.losses = path, []

    def on_validation_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.losses.append(float(trainer.callback_metrics["loss/val"]))
        if trainer.is_global_zero:
            self.path.write_text(json.dumps(self.losses))


class SharedOut(L.Callback):
    """The average lies on the processes as the weights do, also after growths, so that nothing is sent to update it."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        (average,) = averages(trainer)
        for mine, trained in zip(average.module.parameters(), pl_module.parameters(), strict=True):
            assert mine.placements == trained.placements and mine.shape == trained.shape


def validated(root: Path, name: str, strategy: str) -> None:
    now, saves = [Validation(root / f"{name}.json"), ema()], SaveAtOnce(root / name / "grown-{step}.ckpt", 3, 6)
    now += [SharedOut()] if strategy == "fsdp2" else []
    options = {"limit_val_batches": 2, "val_check_interval": 2}
    fit(root / name, strategy, before_growth=now, callbacks=[saves], **options)


def sharded(root: Path) -> None:
    validated(root, "two", "fsdp2")
    run(root / "resumed", True, strategy="fsdp2", ckpt_path=root / "two/checkpoints/anchor-step=3.ckpt", saves=[9])
    run(root / "full", strategy="fsdp2_full", saves=[9])
    run(root / "from-one", strategy="fsdp2", ckpt_path=root / "one/checkpoints/anchor-step=6.ckpt", steps=7, saves=())
    path = root / "two/checkpoints/step=7.ckpt"
    fit(root / "without", strategy="fsdp2", ckpt_path=path, steps=8, saves=[8])
    run(root / "begun", strategy="fsdp2", ckpt_path=root / "without/checkpoints/step=8.ckpt", saves=[9])
    run(root / "mean", average=WeightAveraging, strategy="fsdp2", steps=7, saves=[7])


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    validated(root, "one", "auto")
    on_processes(2, sharded, root)
    run(root / "alone", ckpt_path=root / "two/checkpoints/anchor-step=6.ckpt", steps=7, saves=())
    return root


def end(root: Path, step: int = 9) -> dict[str, Any]:
    return load(root / f"checkpoints/step={step}.ckpt")


def test_a_sharded_average_is_that_of_the_weights(shards: Path) -> None:
    test_it_is_the_average_of_the_weights_and_goes_on_after_growths(shards / "two")
    assert (shards / "two/checkpoints/step=9.ckpt").is_dir()
    one, two = end(shards / "one"), end(shards / "two")
    for key in ("state_dict", CURRENT):
        for name, tensor in one[key].items():
            torch.testing.assert_close(two[key][name], tensor, rtol=0, atol=1e-5)
    one, two = (json.loads((shards / f"{name}.json").read_text()) for name in ("one", "two"))
    assert len(one) == 4 and two == pytest.approx(one, abs=1e-4)


@pytest.mark.parametrize(("step", "event"), list(zip((3, 6), EVENTS, strict=True)))
def test_a_sharded_average_grown_in_a_run_is_its_anchor_s_grown_on_disk(
    shards: Path, tmp_path: Path, step: int, event: Any
) -> None:
    test_the_average_grown_in_a_run_is_its_anchor_s_grown_on_disk(shards / "two", tmp_path, step, event)


def test_a_sharded_average_is_resumed_bit_for_bit(shards: Path) -> None:
    """Whatever was validated with it meanwhile, and whether it was kept in shards or in one file."""
    for name in ("resumed", "full"):
        for key in KEYS:
            assert_equal(end(shards / "two")[key], end(shards / name)[key], f"{name} {key}")


@pytest.mark.parametrize(("source", "here"), [("two", "alone"), ("one", "from-one")])
def test_a_sharded_average_fits_any_number_of_processes(shards: Path, source: str, here: str) -> None:
    there, here_ = (load(shards / name / "grown-6.ckpt") for name in (source, here))
    for key in ("state_dict", CURRENT, "averaging_state"):
        assert_equal(there[key], here_[key], key)


def test_a_sharded_run_goes_on_without_its_average_and_begins_another(shards: Path) -> None:
    without, two = end(shards / "without", 8), end(shards / "two", 8)
    assert_equal(without["state_dict"], two[CURRENT], "weights")
    assert CURRENT not in without
    begun = end(shards / "begun")
    assert int(begun["averaging_state"]["n_averaged"]) == 1
    assert_equal(begun["state_dict"], begun[CURRENT], "the first average")
    mean = end(shards / "mean", 7)
    assert int(mean["averaging_state"]["n_averaged"]) == 7
    assert not torch.equal(mean["state_dict"]["model.embed.weight"], mean[CURRENT]["model.embed.weight"])
