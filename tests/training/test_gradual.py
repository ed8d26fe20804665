"""Shrinking spread over several events: their moments and sizes, a run as planned, and resumed within the stretch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser
from runs import CONFIG, assert_equal, assert_same_training_state, fit

from lit_recycle.callbacks import GrowthCallback
from lit_recycle.checkpoints.grow import grow_checkpoint
from lit_recycle.checkpoints.native import load_whole_checkpoint
from lit_recycle.data.pace import Pace
from lit_recycle.growth.event import Depth, GrowthEvent, Rewarm, Trigger
from lit_recycle.growth.native import NativeModel
from lit_recycle.growth.operator import Operator
from lit_recycle.growth.operators import Interpose, PruneExperts, PruneInner
from lit_recycle.growth.schedule import stages

STEPS = 7
SEPARATE = [GrowthEvent(Trigger(steps=2), grow=[PruneInner(1, "experts")], until=Trigger(steps=5), times=3)]


def test_an_event_is_short_for_several() -> None:
    parts = SEPARATE[0].spread()
    assert [part.at for part in parts] == [Trigger(steps=2), Trigger(steps=4), Trigger(steps=5)]
    assert [part.operators[0].events_left for part in parts] == [3, 2, 1]  # type: ignore[attr-defined]
    flops = GrowthEvent(Trigger(flops=1e9), grow=[PruneExperts(1)], until=Trigger(flops=2e9), times=5).spread()
    assert [part.at.flops for part in flops] == [1e9, 1.25e9, 1.5e9, 1.75e9, 2e9]
    alone = GrowthEvent(Trigger(steps=2), depth=Depth())
    assert alone.spread() == [alone]


@pytest.mark.parametrize(
    ("size", "target", "unit", "times", "expected"),
    [
        (8, 1, 8, 3, [5, 3, 1]),
        (128, 64, 8, 8, [120, 112, 104, 96, 88, 80, 72, 64]),
        (128, 64, 8, 3, [104, 80, 64]),
        (12, 4, 1, 3, [9, 6, 4]),
    ],
)
def test_sizes_are_equal_parts_of_the_way(size: int, target: int, unit: int, times: int, expected: list[int]) -> None:
    found = []
    for part in PruneInner(target, "experts").gradual(times):
        size = part.next_size("channels", size, target, unit)  # type: ignore[attr-defined]
        found.append(size)
    assert found == expected


def run(root: Path, **options: Any) -> Any:
    _, module, _ = fit(root, steps=STEPS, events=SEPARATE, **options)
    return module


def test_a_run_shrinks_as_planned_and_goes_on_within_the_stretch(tmp_path: Path) -> None:
    module = run(tmp_path / "whole")
    pace = Pace.even(32, 4 * 32)
    events = [part for event in SEPARATE for part in event.spread()]
    planned = stages(NativeModel(CONFIG), events, pace=pace, max_steps=STEPS)
    assert [stage.shape.size("F") for stage in planned] == [8, 5, 3, 1] and module.config.expert_size == 1
    for record, stage in zip(module.growth, planned[1:], strict=True):
        assert (record["steps"], record["tokens"], record["flops"]) == tuple(vars(stage.start).values())
        assert record["label"] == stage.label
    saved = tmp_path / "whole/checkpoints"
    for step in (3, 5):
        run(tmp_path / f"from-{step}", ckpt_path=saved / f"step={step}.ckpt")
        again = tmp_path / f"from-{step}/checkpoints/step={STEPS}.ckpt"
        assert_same_training_state(saved / f"step={STEPS}.ckpt", again)
    grow_checkpoint(saved / "anchor-step=4.ckpt", tmp_path / "disk.ckpt", *events[1].operators)
    on_disk, before = (load_whole_checkpoint(p) for p in (tmp_path / "disk.ckpt", saved / "anchor-step=5.ckpt"))
    (_, first), (_, second) = on_disk["hyper_parameters"]["growth"], before["hyper_parameters"]["growth"]
    assert first["maps"] == second["maps"] and first["event"]["grow"] == second["event"]["grow"]
    assert_equal(on_disk["hyper_parameters"]["config"], before["hyper_parameters"]["config"], "config")


def test_the_page_on_schedules_shrinks_by_and_by() -> None:
    page = (Path(__file__).parents[2] / "docs/design-a-schedule.md").read_text()
    (block,) = [b.split("```")[0] for b in page.split("```yaml")[1:] if "until" in b]
    (callback,) = yaml.safe_load(block)["trainer"]["callbacks"]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--event", type=GrowthEvent)
    (event,) = callback["init_args"]["events"]
    parts = parser.instantiate(parser.parse_object({"event": event})).event.spread()
    assert [part.at.tokens for part in parts][:2] == [400e9, 400e9 + 200e9 / 7] and len(parts) == 8
    assert all(isinstance(part.operators[0], PruneInner) for part in parts)


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "alone": ({"until": Trigger(steps=9)}, "until and times stand together"),
    "once": ({"until": Trigger(steps=9), "times": 1}, "times is at least 2, got 1"),
    "unit": ({"until": Trigger(tokens=9), "times": 2}, "until must be in its unit"),
    "room": ({"until": Trigger(steps=4), "times": 5}, "no room for 5 events until 4 steps"),
    "rewarm": ({"until": Trigger(steps=9), "times": 2, "rewarm": Rewarm(2)}, "belong to a single event"),
    "at once": ({"until": Trigger(steps=9), "times": 2, "grow": [Interpose()]}, "Interpose is done at once"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence(name: str) -> None:
    values, message = MISTAKES[name]
    operators: list[Operator] = [PruneExperts(1)]
    with pytest.raises(ValueError, match=message):
        GrowthEvent(Trigger(steps=2), **{"grow": operators, **values})


def test_too_many_events_for_a_width_are_refused_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"event 2 \(at 2 steps\) cannot be: PruneInner: 4 leaves nothing out of 4"):
        event = GrowthEvent(Trigger(steps=1), grow=[PruneInner(4, "experts")], until=Trigger(steps=3), times=3)
        fit(tmp_path, steps=STEPS, events=[], callbacks=[GrowthCallback([event])])
    assert not list(tmp_path.rglob("*.ckpt"))
