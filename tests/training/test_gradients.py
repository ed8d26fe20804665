"""The norm of gradients before clipping, and skipped steps: on any strategy what one device has, and resumed."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from runs import CONFIG, assert_equal, assert_same_training_state, by_name, fit, on_processes
from torch.optim import SGD, AdamW, Optimizer

from lit_recycle.checkpoints.native import load_whole_checkpoint
from lit_recycle.growth.event import Depth, GrowthEvent, Trigger
from lit_recycle.training.module import LitMoE
from lit_recycle.training.muon import Muon
from lit_recycle.training.spikes import SpikeSkip, SpikeWatch, skips_on_device

RULE = SpikeSkip(window=8, sigmas=6.0)
SPIKES, STEPS, GROWTH = (5, 11), 13, 6
AROUND = (5, 6, 11, 12)
"""Steps before and after a spike."""
"""Each spike after four steps or more of a window; the growth begins a new one."""
STRATEGIES = ("ddp", "fsdp", "fsdp2")
OPTIMIZERS: dict[str, Any] = {
    "adamw": lambda params: AdamW(params, lr=1e-3, fused=True),
    "sgd": lambda params: SGD(params, lr=1e-2, momentum=0.9, weight_decay=0.1),
    "muon": lambda params: Muon(params, lr=1e-3),
}


class Spikes(L.Callback):
    """Makes gradients huge at some steps, and writes down norms and decisions."""

    def __init__(self, *steps: int) -> None:
        self.steps, self.seen = steps, []

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: LitMoE, optimizer: Optimizer) -> None:
        by_hand = [p.grad.double().square().sum() for p in pl_module.parameters() if trainer.world_size == 1]
        self.by_hand = float(sum(by_hand)) ** 0.5
        if trainer.global_step in self.steps:
            for parameter in pl_module.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(1e4)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        values = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("gradient/")}
        self.seen.append(values | {"by hand": self.by_hand})


def spiky(
    root: Path, strategy: str = "auto", *, at: tuple[int, ...] = SPIKES, optimizer: str = "adamw", **options: Any
):
    watched = Spikes(*at)
    events = options.pop("events", [GrowthEvent(Trigger(steps=GROWTH), Depth(2))])
    module = {"optimizer": OPTIMIZERS[optimizer], "spike_skip": RULE} | options.pop("module", {})
    options = {"log_every_n_steps": 1} | options
    trainer, _, _ = fit(root, strategy, steps=STEPS, events=events, module=module, callbacks=[watched], **options)
    if trainer.is_global_zero:
        (root / "seen.json").write_text(json.dumps(watched.seen))


# --- the norm ---


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("gradients")
    everywhere(root, ("auto",))
    on_processes(2, everywhere, root, STRATEGIES)
    return root


def everywhere(root: Path, strategies: tuple[str, ...]) -> None:
    for strategy in strategies:
        free = {"spike_skip": None, "gradient_norm": "groups"}
        spiky(root / f"free-{strategy}", strategy, at=(), module=free, gradient_clip_val=None, saves=())
        spiky(root / f"clipped-{strategy}", strategy, gradient_clip_val=0.1, saves=AROUND)
    for optimizer in ("muon", "sgd") if "fsdp2" in strategies else ():
        spiky(root / f"{optimizer}-fsdp2", "fsdp2", optimizer=optimizer, saves=AROUND)


def seen(folder: Path) -> list[dict[str, float]]:
    return json.loads((folder / "seen.json").read_text())


def test_the_norm_is_that_of_the_gradients_before_clipping(runs: Path) -> None:
    for step, values in enumerate(seen(runs / "clipped-auto")):
        spike = 1e4 if step in SPIKES else 1
        assert values["gradient/norm"] == pytest.approx(values["by hand"] * spike, rel=1e-5), step
    assert min(values["gradient/norm"] for values in seen(runs / "clipped-auto")) > 0.1, "there was something to clip"


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", ["free", "clipped"])
def test_the_norm_on_two_processes_is_that_of_one_device(runs: Path, strategy: str, kind: str) -> None:
    alone, here = (seen(runs / f"{kind}-{s}") for s in ("auto", strategy))
    assert len(alone) == len(here) == STEPS
    for step, (a, b) in enumerate(zip(alone, here, strict=True)):
        del a["by hand"], b["by hand"]
        assert a == pytest.approx(b, rel=2e-5), step


def test_norms_of_groups_make_up_the_total(runs: Path) -> None:
    for values in seen(runs / "free-fsdp2"):
        parts = [value for name, value in values.items() if name.startswith("gradient/norm/")]
        assert len(parts) == 2 and sum(p**2 for p in parts) == pytest.approx(values["gradient/norm"] ** 2, rel=1e-5)


# --- skipped steps ---


def test_the_rule_is_mean_plus_sigmas_of_the_window() -> None:
    """By statistics of the standard library, on losses and norms of which now one and now the other jumps."""
    watch, generator = SpikeWatch(SpikeSkip(window=10, sigmas=6.0)), torch.Generator().manual_seed(0)
    past: list[tuple[float, float]] = []
    decisions = []
    for step in range(60):
        loss, norm = (1 + 0.1 * torch.randn(2, generator=generator)).tolist()
        loss, norm = (loss * 3 if step in (4, 20, 41) else loss), (norm * 3 if step in (30, 41) else norm)
        expected = len(past) >= 5 and any(
            value > statistics.mean(window) + 6 * statistics.stdev(window)
            for value, window in zip((loss, norm), zip(*past[-10:], strict=True), strict=True)
        )
        assert bool(watch.observe(torch.tensor(loss), torch.tensor(norm))) == expected, step
        decisions += [step] * expected
        past.append((loss, norm))
    assert decisions == [20, 30, 41] and watch.state_dict()["skipped"] == 3
    watch.begin_anew()
    assert not any(bool(watch.observe(torch.tensor(10.0**i), torch.tensor(1.0))) for i in range(5))


def test_a_level_that_has_risen_is_taken_for_what_it_is() -> None:
    watch = SpikeWatch(SpikeSkip(window=16))
    levels = [1.0, 1.1] * 10 + [3.0, 3.1] * 10
    skipped = [i for i, level in enumerate(levels) if watch.observe(torch.tensor(level), torch.tensor(1.0))]
    assert skipped and skipped[0] == 20 and skipped[-1] < 24


@pytest.mark.parametrize("name", ["clipped-auto", *(f"clipped-{s}" for s in STRATEGIES), "muon-fsdp2", "sgd-fsdp2"])
def test_a_skipped_step_changes_nothing_and_is_counted(runs: Path, name: str) -> None:
    counts = [values["gradient/skipped_steps"] for values in seen(runs / name)]
    assert counts == [sum(s <= step for s in SPIKES) for step in range(STEPS)], "the same on any number of processes"
    for step in SPIKES:
        saved = [runs / name / f"checkpoints/step={i}.ckpt" for i in (step, step + 1)]
        before, after = (load_whole_checkpoint(path) for path in saved)
        assert_equal(before["state_dict"], after["state_dict"], "weights")
        assert_equal(*(by_name(each["optimizer_states"][0]) for each in (before, after)), "optimizer")
        assert before["progress"]["tokens_seen"] < after["progress"]["tokens_seen"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("step", [3, 9])
def test_a_resumed_run_skips_what_it_would_have(optimizer: str, step: int, tmp_path: Path) -> None:
    spiky(tmp_path / "whole", optimizer=optimizer, saves=(step, STEPS))
    saved = tmp_path / "whole/checkpoints"
    spiky(tmp_path / "again", optimizer=optimizer, ckpt_path=saved / f"step={step}.ckpt", saves=[STEPS])
    last = f"step={STEPS}.ckpt"
    assert_same_training_state(saved / last, tmp_path / "again/checkpoints" / last)
    states = [load_whole_checkpoint(folder / last)["spikes"] for folder in (saved, tmp_path / "again/checkpoints")]
    assert states[0] == states[1] and (states[0]["skipped"], states[0]["count"]) == (2, STEPS - GROWTH)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_rule_that_finds_nothing_changes_nothing(optimizer: str, tmp_path: Path) -> None:
    spiky(tmp_path / "with", optimizer=optimizer, at=(), saves=[STEPS])
    plain = {"spike_skip": None, "gradient_norm": "groups"}
    spiky(tmp_path / "without", optimizer=optimizer, at=(), module=plain, saves=[STEPS])
    last = f"checkpoints/step={STEPS}.ckpt"
    assert_same_training_state(tmp_path / "with" / last, tmp_path / "without" / last)


def test_which_optimizers_are_told_on_the_device() -> None:
    """By a flag of torch's that is not public: here one sees when it moves."""
    params = [torch.nn.Parameter(torch.zeros(2, 2))]
    told = {name: skips_on_device(make([("layers.0.mlp.down.weight", params[0])])) for name, make in OPTIMIZERS.items()}
    assert told == {"adamw": True, "sgd": False, "muon": True}
    assert skips_on_device(SGD(params, fused=True)) and not skips_on_device(AdamW(params))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SpikeSkip(window=3), r"model\.spike_skip\.window must be at least 4, got 3"),
        (lambda: SpikeSkip(sigmas=0), r"model\.spike_skip\.sigmas must be a positive number, got 0"),
        (lambda: LitMoE(CONFIG, gradient_norm="all"), r"model\.gradient_norm must be total or groups, or null"),
        (
            lambda: SpikeWatch(RULE).load_state_dict({"values": [[0.0] * 4] * 2, "count": 1, "skipped": 0}),
            r"model\.spike_skip\.window is 8, and the checkpoint's 4: set it to that",
        ),
    ],
)
def test_rules_that_make_no_sense_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
