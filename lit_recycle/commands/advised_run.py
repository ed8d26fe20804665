"""Configuration of an advised run: its length, its growths with their sources, and what of the old one is left out."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, NamedTuple

import yaml

from lit_recycle.advice.rules import DECAY, Advice, Growth
from lit_recycle.advice.situation import Situation
from lit_recycle.commands.growth_callback import GROWTH_CALLBACK, growth_callbacks
from lit_recycle.commands.run_shape import RunShape, run_shape, warmups
from lit_recycle.growth.native import NativeModel
from lit_recycle.growth.schedule import flops_of, stages

SCHEDULE = "WarmupStableDecay"
EVENTS = "EVENTS"
LENGTHS = ("start_seq_len", "constant_tokens")
"""Keys of the growth callback about lengths of samples, which its events change."""
NO_END = 10**15
"""Optimizer steps, or tokens, that no run comes to."""


def shape_with(config: dict[str, Any], events: list[dict[str, Any]]) -> RunShape:
    """A run's shape with these events and no others."""
    trainer = (config.get("trainer") or {}) | {"max_steps": NO_END}
    growth = [{"class_path": GROWTH_CALLBACK, "init_args": {"events": deepcopy(events)}}] if events else []
    trainer["callbacks"] = [*warmups(trainer.get("callbacks")), *growth]
    return run_shape(deepcopy(config | {"trainer": trainer}))


class Length(NamedTuple):
    """Optimizer steps of a run, of the decay at its end, and the FLOPs that they spend from here on."""

    steps: int
    decay: int
    flops: float


def length(config: dict[str, Any], now: Situation, advice: Advice, past: int) -> Length:
    """How long the run will be, with what is advised and so many growths behind it."""
    shape = shape_with(config, [growth.event() for growth in advice.growths])
    parts = stages(
        NativeModel(now.config),
        shape.events,
        pace=shape.pace,
        max_steps=NO_END,
        start=now.progress,
        first_event=past,
        numbers=range(past + 1, past + 1 + len(shape.events)),
    )
    last = parts[-1]
    per_step = flops_of(last.last, last.shape)
    steps = max(last.step_at(now.total - now.before), last.start.steps + 1)
    # The end of the decay is the end of the run, its beginning not before the last growth.
    decay = min(round(DECAY * (now.total - now.before) / per_step), (steps - last.start.steps) // 2)
    return Length(steps, decay, now.budget)


def to_yaml(written: dict[str, Any], run: Length, advice: Advice, past: list[dict[str, Any]]) -> str:
    """The whole configuration, as it is written, with the schedule in it and its sources as comments."""
    made = deepcopy(written)
    made["trainer"] = made.get("trainer") or {}
    made["trainer"]["max_steps"] = run.steps
    schedule = (made.get("model") or {}).get("lr_scheduler") or {}
    if SCHEDULE in str(schedule.get("class_path")):
        total = schedule["init_args"].get("total_steps")
        kept = total if isinstance(total, str) else run.steps  # ${trainer.max_steps} says it for every length
        schedule["init_args"] |= {"total_steps": kept, "decay_steps": run.decay}
    made["trainer"]["callbacks"] = _callbacks(made["trainer"].get("callbacks") or [], bool(advice.growths or past))
    dumped = yaml.safe_dump(made, sort_keys=False, allow_unicode=True)
    dumped = _with_events(dumped, past, advice.growths)
    comments = {
        f"max_steps: {run.steps}": f"{run.flops:.3g} FLOPs from here on",
        f"decay_steps: {run.decay}": f"the last {DECAY:.0%} of the run's FLOPs, or half of the last stage: our default",
    }
    for line, why in comments.items():
        dumped = dumped.replace(f"{line}\n", f"{line}  # {why}\n", 1)
    return "\n".join([*(f"# {remark}" for remark in advice.remarks), dumped])


def _callbacks(callbacks: list[dict[str, Any]], grows: bool) -> list[dict[str, Any]]:
    """The run's callbacks, with a GrowthCallback that keeps its place and its other settings, or without one."""
    own = growth_callbacks(callbacks)
    others = [c for c in callbacks if c not in own]
    if grows:
        settings = {k: v for k, v in _settings(own[0]).items() if k not in LENGTHS} if own else {}
        place = callbacks.index(own[0]) if own else 0
        others.insert(place, {"class_path": GROWTH_CALLBACK, "init_args": settings | {"events": EVENTS}})
    return others


def left_out(config: dict[str, Any], past: int) -> list[str]:
    """What of the configuration's own growths, of which so many have happened, does not stand in the advice."""
    said = []
    for callback in growth_callbacks((config.get("trainer") or {}).get("callbacks")):
        settings = _settings(callback)
        if (count := len(settings.get("events") or ()) - past) > 0:
            said.append(f"left out: the configuration's own {'growth' if count == 1 else f'{count} growths'}")
        if any(settings.get(key) for key in LENGTHS):
            said.append(
                f"left out: {' and '.join(key for key in LENGTHS if settings.get(key))}, for samples get longer at "
                "growths that are left out, too; SequenceLengthWarmup does it by steps"
            )
    return said


def _settings(callback: dict[str, Any]) -> dict[str, Any]:
    return callback.get("init_args") or {}


def _with_events(dumped: str, past: list[dict[str, Any]], growths: list[Growth]) -> str:
    """Put the events in the place that was kept for them, each line with its source."""
    place = next((line for line in dumped.splitlines() if line.strip() == f"events: {EVENTS}"), None)
    if place is None:
        return dumped
    indent = " " * (len(place) - len(place.lstrip()))
    lines = [f"{indent}events:"]
    for event in past:
        lines += [f"{indent}- {_flow(event)}  # has happened"]
    for growth in growths:
        sources = {line.key.split(".")[-1]: line.source for line in growth.lines}
        event = growth.event()
        lines.append(f"{indent}- at: {_flow(event.pop('at'))}  # {growth.when}")
        for key, value in event.items():
            if isinstance(value, dict) and key == growth.axis:
                lines.append(f"{indent}  {key}:")
                lines += [f"{indent}    {k}: {_flow(v)}  # {sources[k]}" for k, v in value.items()]
            else:
                lines.append(f"{indent}  {key}: {_flow(value)}  # {sources[key]}")
    return dumped.replace(place, "\n".join(lines), 1)


def _flow(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False).removesuffix("...\n").strip()
