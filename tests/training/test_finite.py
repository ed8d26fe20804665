"""A loss, a norm or a weight that is no number ends a run before anything good is lost."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from processes import config, start
from runs import assert_same_training_state, fit, on_processes
from torch.distributed.tensor import DTensor

from lit_recycle.checkpoints.native import load_whole_checkpoint
from lit_recycle.training.finite import FiniteWatch, check_weights
from lit_recycle.training.spikes import IN_A_ROW, SpikeSkip

AT = 3
"""The step that goes wrong."""


class Spoil(L.Callback):
    """Makes the loss, or a gradient, or a weight of one step infinite or no number; on one process alone if told so."""

    def __init__(self, what: str, value: float, rank: int = 0) -> None:
        self.what, self.value, self.rank = what, value, rank

    def _due(self, trainer: L.Trainer) -> bool:
        return trainer.global_step == AT and trainer.global_rank == self.rank

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        if self.what == "loss" and self._due(trainer):
            forward = module.next_token_loss

            def spoilt(batch: Any) -> Any:
                ce, routing = forward(batch)
                return ce * self.value, routing

            module.next_token_loss = spoilt

    def on_after_backward(self, trainer: L.Trainer, module: Any) -> None:
        if self.what == "gradient" and self._due(trainer):
            grads = [p.grad.to_local() if isinstance(p.grad, DTensor) else p.grad for p in module.parameters()]
            next(grad for grad in grads if grad is not None and grad.numel()).view(-1)[0] = self.value

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        if self.what == "weight" and trainer.global_step == AT + 1:
            next(module.parameters()).data.view(-1)[0] = self.value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(("what", "named"), [("loss", "loss"), ("gradient", "gradient norm"), ("weight", "weights")])
def test_a_run_stops_and_keeps_what_was_saved(tmp_path: Path, what: str, named: str, value: float) -> None:
    with pytest.raises(
        ValueError,
        match=rf"the {named} (of|after) step {AT + (what == 'weight')} .*/step=3.ckpt, --ckpt_path last, with clipped "
        r"gradients .* or begin anew from its weights \(model.init_from .*/step=3.ckpt\) with a lower learning rate",
    ):
        fit(tmp_path / "run", steps=6, events=[], callbacks=[Spoil(what, value)])
    saved = sorted((tmp_path / "run/checkpoints").glob("*.ckpt"))
    assert [path.name for path in saved] == ["step=1.ckpt", "step=2.ckpt", "step=3.ckpt"]
    for path in saved:
        assert all(torch.isfinite(t).all() for t in load_whole_checkpoint(path)["state_dict"].values())


def test_without_clipping_nothing_broken_is_saved_either(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"weights after step {AT + 1} are not finite"):
        fit(tmp_path / "run", steps=6, events=[], callbacks=[Spoil("gradient", float("nan"))], gradient_clip_val=None)


@pytest.mark.parametrize("clip", [1.0, None])
def test_on_request_a_broken_step_is_passed_over(tmp_path: Path, clip: float | None) -> None:
    options = {"events": [], "gradient_clip_val": clip, "module": {"spike_skip": SpikeSkip(window=4, non_finite=True)}}
    _, module, losses = fit(tmp_path / "run", steps=7, callbacks=[Spoil("gradient", float("nan"))], **options)
    assert len(losses) == 7 and all(map(math.isfinite, losses)) and int(module.spikes.skipped) == 1
    before, after = (load_whole_checkpoint(tmp_path / f"run/checkpoints/step={step}.ckpt") for step in (AT, AT + 1))
    for name, weight in before["state_dict"].items():
        assert torch.equal(weight, after["state_dict"][name]), name
    assert after["spikes"]["in_a_row"] == 1
    fit(tmp_path / "again", steps=7, ckpt_path=tmp_path / "run/checkpoints/step=5.ckpt", **options)
    assert_same_training_state(tmp_path / "run/checkpoints/step=7.ckpt", tmp_path / "again/checkpoints/step=7.ckpt")


def test_what_stays_broken_ends_the_run(tmp_path: Path) -> None:
    """From step 3 on every loss is NaN: the eighth in a row is not passed over."""
    rule = {"spike_skip": SpikeSkip(window=4, non_finite=True)}
    with pytest.raises(ValueError, match=f"the loss of step {AT + IN_A_ROW - 1} is nan"):
        fit(tmp_path / "run", steps=20, events=[], callbacks=[Spoil("loss", float("nan"))], module=rule)


def _each_process(root: Path, strategy: str, what: str) -> None:
    with pytest.raises(ValueError, match=f"step {AT}"):
        fit(root, strategy, steps=6, events=[], callbacks=[Spoil(what, float("nan"), rank=1)])


@pytest.mark.parametrize(("strategy", "what"), [("ddp", "loss"), ("fsdp", "gradient"), ("fsdp2", "gradient")])
def test_all_processes_stop(tmp_path: Path, strategy: str, what: str) -> None:
    on_processes(2, _each_process, tmp_path / "run", strategy, what)
    assert len(list((tmp_path / "run/checkpoints").glob("step=*"))) == 3


def test_a_rate_that_is_far_too_high_ends_in_a_sentence(tmp_path: Path) -> None:
    """Before the growth, of which a NaN would otherwise make another NaN."""
    rate = ("--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "1e30")
    run = start("fit", "--config", config(tmp_path / "run", trainer__max_steps=60), *rate, log=tmp_path / "log")
    assert run.wait() == [2] and len(run.errors) == 1 and "Traceback" not in run.output
    assert " is nan, and the run stops there" in run.errors[0] or "not finite" in run.errors[0]


@pytest.mark.parametrize("values", [[1.0, float("nan")], [float("-inf"), 0.0]])
def test_weights_are_looked_at_each_and_all(values: list[float]) -> None:
    check_weights([torch.ones(3), torch.empty(0)], 1, lambda: None)
    with pytest.raises(
        ValueError, match=r"after step 7 .*: begin anew with clipped gradients .* or begin anew with a lower"
    ):
        check_weights([torch.ones(2), torch.tensor(values)], 7, lambda: None)


@pytest.mark.gpu
def test_on_a_gpu_the_next_look_finds_it_without_a_wait() -> None:
    watch = FiniteWatch(lambda: None)
    for step, loss in enumerate([1.0, float("nan")]):
        watch.add_loss(torch.tensor(loss, device="cuda"))
        with torch.cuda.device("cuda"):
            torch.cuda.set_sync_debug_mode("error")
            try:
                if step == 0:
                    watch.end_step(step, None)
            finally:
                torch.cuda.set_sync_debug_mode("default")
    watch.end_step(1, None)
    with pytest.raises(ValueError, match="step 1"):
        watch.check(wait=True)
