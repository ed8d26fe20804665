"""What could be done with a budget, each choice with the loss that finished runs let expect of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lit_recycle.advice.law import Forecast, Part, Parts
from lit_recycle.advice.situation import Situation
from lit_recycle.growth.native import NativeModel
from lit_recycle.growth.operator import Operator
from lit_recycle.growth.operators import DuplicateExperts, Interpose, WidenHeads, WidenHidden, WidenInner
from lit_recycle.growth.plan import plan_growth
from lit_recycle.model.config import MoEConfig
from lit_recycle.text import human

AXES: dict[str, list[Operator]] = {
    "layers × 2 now": [Interpose(2)],
    "experts and top-k × 2 now": [DuplicateExperts(2)],
    "experts × 2 now, top-k kept": [DuplicateExperts(2, top_k="keep")],
    "inner width of experts × 2 now": [WidenInner(factor=2)],
    "hidden size and heads × 2 now": [WidenHidden(factor=2), WidenHeads(factor=2)],
}


def compare(
    now: Situation,
    shapes: Sequence[MoEConfig],
    schedules: Sequence[Sequence[float]],
    forecast: Forecast,
    say: Callable[[str], None],
) -> int | None:
    """Say what is predicted for every choice.

    Args:
        now: What is known.
        shapes: The present shape, and those that are advised after one growth, and after two.
        schedules: FLOPs before each growth, for none, one and two of them.
        forecast: Of the loss at the end of a run.
        say: Takes a line.

    Returns:
        The schedule with the lowest prediction; None where one of them is not covered by the runs.
    """
    scheduled = [_scheduled(now, shapes, at) for at in schedules]
    choices = {_label(now, at): parts for at, parts in zip(schedules, scheduled, strict=True)}
    for label, operators in AXES.items():
        if shape := _grown(now.config, operators):
            choices[label] = (*now.past, _part(now.budget, shape, now.seq_len))
    size = human(shapes[-1].num_active_params())
    choices[f"from scratch, {size} active"] = (_part(now.budget, shapes[-1], now.seq_len),)
    kinds = len({run.kind for run in forecast.runs})
    covered = {label: forecast.covers(parts) for label, parts in choices.items()}
    if any(covered.values()):
        say(f"predicted loss at the end, ± the 95 % interval, from {len(forecast.runs)} runs of {kinds} kinds:")
        say(f"  {forecast.law}")
        say(f"  (arXiv 2501.12486; it misses a kind of run that it has not seen by {forecast.error:.3f})")
        for label, parts in choices.items():
            told = "not known: too far from the runs in size or tokens"
            if covered[label]:
                loss, interval = forecast.predict(parts)
                told = f"{loss:.3f} ± {interval:.3f}"
            say(f"  {label:{max(map(len, choices))}}  {told}")
        say("  (the law knows sizes and tokens, not how layers or experts were copied: docs/evidence.md compares that)")
    if not all(covered[_label(now, at)] for at in schedules):
        say(f"the runs are not within {forecast.reach:g} times the sizes and tokens asked for: rules decide, not a law")
        return None
    losses = [forecast.law(parts) for parts in scheduled]
    return losses.index(min(losses))


def _label(now: Situation, at: Sequence[float]) -> str:
    """Of a schedule: what grows, and when."""
    names = ("layers", "experts")[: len(at)]
    moments = ("now" if flops <= now.progress.flops else f"at {flops:.2g} FLOPs" for flops in at)
    return ", ".join(f"{name} × 2 {moment}" for name, moment in zip(names, moments, strict=True)) or "no growth"


def _scheduled(now: Situation, shapes: Sequence[MoEConfig], at: Sequence[float]) -> Parts:
    borders = [float(now.progress.flops), *at, now.total]
    spent = zip(borders, borders[1:], shapes, strict=False)
    return (*now.past, *(_part(end - begin, shape, now.seq_len) for begin, end, shape in spent if end > begin))


def _part(flops: float, config: MoEConfig, seq_len: int) -> Part:
    shape = NativeModel(config)
    return Part(flops / shape.num_flops_per_token(seq_len), shape.num_active_params(), shape.num_params())


def _grown(config: MoEConfig, operators: Sequence[Operator]) -> MoEConfig | None:
    """None for a model that lacks what would be widened."""
    try:
        after = plan_growth(NativeModel(config), operators).after
    except ValueError:
        return None
    assert isinstance(after, NativeModel)
    return after.config
