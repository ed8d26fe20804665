"""Recovery after a growth, on losses that are made up; and who is whose copy."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lit_recycle.callbacks import GrowthMonitor
from lit_recycle.callbacks.monitor import some_layers
from lit_recycle.growth.event import Depth, GrowthEvent, Trigger, Width
from lit_recycle.growth.history import GrowthRecord
from lit_recycle.growth.native import NativeModel
from lit_recycle.growth.originals import find_originals
from lit_recycle.growth.plan import plan_growth
from lit_recycle.growth.schedule import Progress
from lit_recycle.model.config import MoEConfig

SMALL = MoEConfig(vocab_size=8, hidden_size=8, num_layers=3, num_heads=2, num_experts=2, top_k=1, expert_size=8)


class Scalars:
    """A logger that keeps what it is given."""

    def __init__(self) -> None:
        self.points: dict[str, list[tuple[int, float]]] = {}

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self.points.setdefault(name, []).append((step, value))


SHAPE = NativeModel(SMALL)


def grown(config: MoEConfig, *events: GrowthEvent) -> tuple[NativeModel, list[dict[str, Any]]]:
    records: list[dict[str, Any]] = []
    for event in events:
        plan = plan_growth(NativeModel(config), event.operators)
        records.append(GrowthRecord.of(event, Progress(event.at.value, 0, 0), plan).to_dict())
        config = plan.after.config
    return NativeModel(config), records


def follow(monitor: GrowthMonitor, losses: list[float], begin: int, logger: Scalars, every: int) -> None:
    """Train with these losses, ten tokens and a hundred FLOPs a step, a point every so many steps."""
    trainer = SimpleNamespace(loggers=[logger])
    for step, loss in enumerate(losses, begin + 1):
        progress = Progress(step, 10 * step, 100 * step)
        # Two micro-batches, of which the step's loss is the mean.
        micro = [torch.tensor(loss - 0.5), torch.tensor(loss + 0.5)]
        module = SimpleNamespace(progress=progress, step_losses=micro, growth=[], counts_LE=None, shape=SHAPE)
        monitor.on_step(trainer, module)
        if step % every == 0:
            monitor.scalars(trainer, module)


@pytest.mark.parametrize("every", [1, 7, 100])
@pytest.mark.parametrize("saved", [False, True], ids=["in one go", "through a checkpoint"])
def test_recovery_is_counted_from_the_growth_to_the_step(every: int, saved: bool) -> None:
    """Steady at 2, up to 3 by the growth, 3 more steps there, then 1: known by hand, whatever the points' distance."""
    logger, monitor = Scalars(), GrowthMonitor(smoothing=2)
    trainer, module = (
        SimpleNamespace(loggers=[logger]),
        SimpleNamespace(growth=[], counts_LE=None, shape=SHAPE),
    )
    follow(monitor, [2.0] * 50, 0, logger, every)
    monitor.on_growth_start(trainer, module, None)
    start = {"steps": 50, "tokens": 500, "flops": 5000, "loss_before": 2.0, "loss_after": 3.0}
    monitor.on_growth_end(trainer, module, start)
    follow(monitor, [3.0] * 3, 50, logger, every)
    if saved:
        state = monitor.state_dict()
        torch.save(state, buffer := io.BytesIO())
        buffer.seek(0)
        monitor = GrowthMonitor(smoothing=2)
        monitor.load_state_dict(torch.load(buffer, weights_only=True))
    follow(monitor, [1.0] * 60, 53, logger, every)
    # The mean of 3 and 1 is 2, where it was: back after the fourth step; below 2 after the fifth.
    for what, steps in (("recovery", 4.0), ("paid_back", 5.0)):
        assert {name: points for name, points in logger.points.items() if what in name} == {
            f"growth/{what}_steps": [(49 + steps, steps)],
            f"growth/{what}_tokens": [(49 + steps, 10 * steps)],
            f"growth/{what}_flops": [(49 + steps, 100 * steps)],
        }


def test_one_lucky_batch_after_a_growth_proves_nothing() -> None:
    logger, monitor = Scalars(), GrowthMonitor(smoothing=8)
    trainer, module = SimpleNamespace(loggers=[logger]), SimpleNamespace(growth=[])
    follow(monitor, [2.0] * 20, 0, logger, 1)
    monitor.on_growth_start(trainer, module, None)
    start = {"steps": 20, "tokens": 200, "flops": 2000, "loss_before": None, "loss_after": None}
    monitor.on_growth_end(trainer, module, start)
    follow(monitor, [1.9] * 20, 20, logger, 1)
    assert logger.points["growth/recovery_steps"] == [(27, 8.0)]


DEPTH = GrowthEvent(Trigger(steps=1), depth=Depth(2))
STACK = GrowthEvent(Trigger(steps=1), depth=Depth(2, method="stack"))
WIDTH = GrowthEvent(Trigger(steps=2), width=Width(2))


@pytest.mark.parametrize(
    ("events", "layers", "experts"),
    [
        ((), (0, 1, 2), (0, 1)),
        ((DEPTH,), (0, 0, 2, 2, 4, 4), (0, 1)),
        ((STACK,), (0, 1, 2, 0, 1, 2), (0, 1)),
        ((DEPTH, WIDTH), (0, 0, 2, 2, 4, 4), (0, 0, 2, 2)),
        ((WIDTH, STACK), (0, 1, 2, 0, 1, 2), (0, 0, 2, 2)),
        ((WIDTH, WIDTH), (0, 1, 2), (0, 0, 2, 2, 4, 4, 6, 6)),
    ],
    ids=["none", "depth", "stack", "depth, width", "width, stack", "width twice"],
)
def test_originals_after_growths(
    events: tuple[GrowthEvent, ...], layers: tuple[int, ...], experts: tuple[int, ...]
) -> None:
    originals = find_originals(*grown(SMALL, *events))
    assert originals.layers == layers
    assert originals.experts == (experts,) * len(layers)
    assert originals.layer_copies == [j for j, i in enumerate(layers) if i != j]
    assert originals.expert_copies(0) == [e for e, i in enumerate(experts) if i != e]


def test_originals_of_a_model_with_a_dense_layer() -> None:
    config = SMALL.replace(dense_layers=(0,), dense_size=8)
    originals = find_originals(*grown(config, WIDTH, DEPTH))
    assert originals.experts == ((), (), *[(0, 0, 2, 2)] * 4)


def test_layers_with_curves_of_their_own_are_spread() -> None:
    assert some_layers(range(3), 4) == [0, 1, 2]
    assert some_layers(range(56), 4) == [0, 18, 37, 55]
    assert some_layers(range(56), 1) == [0]
    assert some_layers(range(56), 0) == []


@pytest.mark.parametrize("options", [{"smoothing": 0}, {"compare_every_n_steps": 0}, {"every_n_steps": 0}])
def test_intervals_that_make_no_sense_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        GrowthMonitor(**options)
