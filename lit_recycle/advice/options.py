"""What could be done with a budget, each choice with the loss that finished runs let expect of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lit_recycle.advice.law import Forecast, Part, Parts
from lit_recycle.advice.situation import Situation
from lit_recycle.growth import operators
from lit_recycle.growth.native import NativeModel
from lit_recycle.growth.operator import Operator
from lit_recycle.growth.plan import plan_growth
from lit_recycle.model.config import MoEConfig
from lit_recycle.text import human

Written = list[dict[str, Any]]
"""Operators as a configuration has them."""
_APART = {"factor": 2, "symmetry_break": 0.1}
"""Copies of channels have the same gradient for ever, unless their symmetry is broken."""
AXES: dict[str, Written] = {
    "layers × 2": [{"class_path": "Interpose", "init_args": {"factor": 2}}],
    "experts and top-k × 2": [{"class_path": "DuplicateExperts", "init_args": {"factor": 2, "noise": 0.01}}],
    "experts × 2, with top-k kept,": [
        {"class_path": "DuplicateExperts", "init_args": {"factor": 2, "noise": 0.01, "top_k": "keep"}}
    ],
    "inner width of experts × 2": [{"class_path": "WidenInner", "init_args": _APART}],
    "hidden size and heads × 2": [
        {"class_path": "WidenHidden", "init_args": _APART},
        {"class_path": "WidenHeads", "init_args": _APART},
    ],
}


@dataclass(frozen=True)
class Choice:
    """One way to spend the budget.

    Args:
        label: Of it, in a few words.
        parts: What the model will have been trained through at the end.
        schedule: Number of growths of the schedule that it is; None where it is none.
        grow: Of one growth along another axis; empty where it is none.
    """

    label: str
    parts: Parts
    schedule: int | None = None
    grow: Sequence[Mapping[str, Any]] = ()


def choices(
    now: Situation, shapes: Sequence[MoEConfig], schedules: Sequence[Sequence[float]], first: float
) -> list[Choice]:
    """All that the budget could be spent on.

    Args:
        now: What is known.
        shapes: The present shape, and those that are advised after one growth, and after two.
        schedules: FLOPs before each growth, for none, one and two of them; one that leaves too little is shorter.
        first: FLOPs before a single growth along any axis.
    """
    found = {_label(now, at): Choice(_label(now, at), _scheduled(now, shapes, at), len(at)) for at in schedules}
    for axis, written in AXES.items():
        label = f"{axis} {_when(now, first)}"
        if label not in found and (shape := _grown(now.config, written)):
            found[label] = Choice(label, _scheduled(now, [now.config, shape], [first]), grow=written)
    size = human(shapes[-1].num_active_params())
    scratch = Choice(f"from scratch, {size} active", (_part(now.budget, shapes[-1], now.seq_len),))
    return [*found.values(), scratch]


def compare(now: Situation, found: Sequence[Choice], forecast: Forecast, say: Callable[[str], None]) -> Choice | None:
    """Say what is predicted for every choice.

    Args:
        now: What is known.
        found: The choices.
        forecast: Of the loss at the end of a run.
        say: Takes a line.

    Returns:
        That of the lowest prediction among those that go on with the model; None where a schedule is not covered by
        the runs.
    """
    covered = [choice for choice in found if forecast.covers(choice.parts)]
    predicted = {choice.label: forecast.predict(choice.parts) for choice in covered}
    if covered:
        kinds = len({run.kind for run in forecast.runs})
        say(f"predicted loss at the end, ± the 95 % interval, from {len(forecast.runs)} runs of {kinds} kinds:")
        say(f"  {forecast.law}")
        say(f"  (arXiv 2501.12486; it misses a kind of run that it has not seen by {forecast.error:.3f})")
        for choice in found:
            told = "not known: too far from the runs in size or tokens"
            if choice.label in predicted:
                loss, interval = predicted[choice.label]
                told = f"{loss:.3f} ± {interval:.3f}"
            say(f"  {choice.label:{max(len(one.label) for one in found)}}  {told}")
        say("  (the law knows sizes and tokens, not how layers or experts were copied: docs/evidence.md compares that)")
    if not all(choice in covered for choice in found if choice.schedule is not None):
        say(f"the runs are not within {forecast.reach:g} times the sizes and tokens asked for: rules decide, not a law")
        return None
    best = min(covered, key=lambda choice: predicted[choice.label].loss)
    lowest = min((c for c in covered if c.schedule is not None or c.grow), key=lambda c: predicted[c.label].loss)
    if best is not lowest and now.sunk:
        say(f"  the lowest is {best.label}, which would give up the model; what follows goes on with it")
    elif best is not lowest:
        say(f"  the lowest is {best.label}: to train that, change model.config; what follows begins with what is there")
    loss, interval = predicted[lowest.label]
    close = [c.label for c in covered if c is not lowest and abs(predicted[c.label].loss - loss) <= interval]
    if close:
        say(f"  within the interval of what is advised: {len(close)} of the others, so that their order is not certain")
    return lowest


def _label(now: Situation, at: Sequence[float]) -> str:
    """Of a schedule: what grows, and when."""
    names = ("layers", "experts")[: len(at)]
    return ", ".join(f"{n} × 2 {_when(now, flops)}" for n, flops in zip(names, at, strict=True)) or "no growth"


def _when(now: Situation, flops: float) -> str:
    return "now" if flops <= now.sunk else f"at {flops:.2g} FLOPs"


def _scheduled(now: Situation, shapes: Sequence[MoEConfig], at: Sequence[float]) -> Parts:
    borders = [now.sunk, *at, now.total]
    spent = zip(borders, borders[1:], shapes, strict=False)
    return (*now.past, *(_part(end - begin, shape, now.seq_len) for begin, end, shape in spent if end > begin))


def _part(flops: float, config: MoEConfig, seq_len: int) -> Part:
    shape = NativeModel(config)
    return Part(flops / shape.num_flops_per_token(seq_len), shape.num_active_params(), shape.num_params())


def _grown(config: MoEConfig, written: Written) -> MoEConfig | None:
    """None for a model that lacks what would be widened."""
    made: list[Operator] = [getattr(operators, one["class_path"])(**one["init_args"]) for one in written]
    try:
        after = plan_growth(NativeModel(config), made).after
    except ValueError:
        return None
    assert isinstance(after, NativeModel)
    return after.config
