"""Rules for a schedule of growths: arithmetic on shapes, FLOPs and weight norms. Each names where it is from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lit_recycle.advice.law import Forecast
from lit_recycle.advice.options import choices, compare
from lit_recycle.advice.remarks import DECAYED, g_stack_remarks, is_formed, profile_remarks, rate_remarks
from lit_recycle.advice.situation import PAPER, Situation
from lit_recycle.growth.native import NativeModel
from lit_recycle.growth.operators import DuplicateExperts, Interpose
from lit_recycle.growth.plan import plan_growth
from lit_recycle.growth.shape import chinchilla_flops
from lit_recycle.model.config import MoEConfig
from lit_recycle.text import human

CHINCHILLA = "compute-optimal size √(C/120), arXiv 2203.15556 at 20 tokens per active parameter"
DEPTH = "at 102k active parameters, docs/evidence.md, a"
FACTOR = "factor 2 is the most reliable, arXiv 2605.13405"
EVIDENCE = "at 76k active parameters, docs/evidence.md"
FORMED = 1.0
"""F_c after which interposition beats stacking; the norm profile is formed at about 1.2 (arXiv 2510.08008)."""
TOO_LITTLE, ENOUGH = 4.0, 16.0
"""F_c in all at which going on small had a lower loss than growing in depth and width, and at which a higher one
(docs/evidence.md, e). The paper's first growth came after 14 F_c.
"""
QUARTER, HALF = 0.25, 0.5
"""Shares of all FLOPs after which the runs of docs/evidence.md, e, grow. After half of them no more is left than is
sunk, which the paper (arXiv 2510.08008) asks for.
"""
NO_LESS = f"no less is left than is sunk, {PAPER}"
FAR = 2.0
"""By what factor the best size must exceed that after the last growth to be worth a word: as much as one more makes."""
DECAY = 0.2
"""Share of the whole FLOPs in which the rate decays, at the end: this program's default."""


@dataclass(frozen=True)
class Line:
    """A line of YAML and where it comes from."""

    key: str
    value: Any
    source: str


@dataclass
class Growth:
    """A recommended event, line by line; ``when`` says where its moment is from.

    Args:
        at_flops: By the counter of the run.
    """

    at_flops: float
    when: str
    axis: str
    lines: list[Line]

    def event(self) -> dict[str, Any]:
        """As GrowthCallback takes it."""
        event: dict[str, Any] = {"at": {"flops": round(self.at_flops)}, self.axis: {}}
        for line in self.lines:
            *outer, last = line.key.split(".")
            place = event
            for part in outer:
                place = place.setdefault(part, {})
            place[last] = line.value
        return event


@dataclass
class Advice:
    """Growths to make, none for going on as it is, and what was weighed."""

    growths: list[Growth] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def advise(now: Situation, forecast: Forecast | None = None) -> Advice:
    """A schedule for spending a budget; with a forecast the one of the lowest predicted loss."""
    advice = Advice()
    say = advice.remarks.append
    unit, sunk = chinchilla_flops(now.config), now.sunk_multiples
    say(f"{human(now.config.num_active_params())} active parameters: F_c = {unit:.3g} FLOPs; {sunk:.2f} F_c are sunk")
    best = math.sqrt(now.total / 120)
    say(f"in all there are {now.total / unit:.2f} F_c, for which {human(best)} active parameters are best")
    say(f"  ({CHINCHILLA})")
    shapes = shapes_to_come(now.config)
    wanted = min(range(len(shapes)), key=lambda i: abs(math.log(shapes[i].num_active_params() / best)))
    lowest = None
    if forecast is None:
        say("not known: the loss of any of these choices; --runs takes finished runs to predict it from")
    else:
        found = choices(now, shapes, [moments(now, i) for i in range(len(shapes))], _single(now))
        lowest = compare(now, found, forecast, say)
    target: MoEConfig | None = None
    if lowest and lowest.grow:
        _grow_along(now, lowest.label, lowest.grow, advice)
    else:
        if lowest and lowest.schedule is not None:
            wanted = lowest.schedule
        elif wanted:
            wanted = _held_against_runs(now.total / unit, wanted, say)
        _grow(now, shapes, wanted, advice)
        target = shapes[wanted] if advice.growths else None
        if target and wanted == len(shapes) - 1 and best > FAR * target.num_active_params():
            say(f"these growths do not reach the best size, {human(best)}: ask again with a checkpoint of after them")
    first = now.before + advice.growths[0].at_flops if advice.growths else None
    for remark in (*rate_remarks(now, first), *profile_remarks(now), *g_stack_remarks(now, target, first)):
        say(remark)
    return advice


def _held_against_runs(total: float, wanted: int, say: Callable[[str], None]) -> int:
    """The growths that the formula wants, or none where the nearest runs have not shown one of layers to pay."""
    if total < math.sqrt(TOO_LITTLE * ENOUGH):
        near = (
            ""
            if total <= TOO_LITTLE
            else f", and {total:.2g} is nearer to that than to the {ENOUGH:g} where it did pay"
        )
        say(
            f"no growth in spite of that: with {TOO_LITTLE:g} F_c in all going on small had a lower loss than growing "
            f"layers and experts (e), with 3 a lower one than growing layers (g), {EVIDENCE}{near}; experts alone with "
            "top-k kept had a lower one still (g)"
        )
        return 0
    where = f"with {TOO_LITTLE:g} F_c in all had a lower loss than growing, with {ENOUGH:g} a higher one"
    say(f"going on small {where}, {EVIDENCE}, e" + ("" if total >= ENOUGH else ": this lies between"))
    return wanted


def shapes_to_come(config: MoEConfig) -> list[MoEConfig]:
    """As it is; twice as deep; twice as deep and, where there are experts, as wide."""
    operators = [Interpose(2)] + ([DuplicateExperts(2)] if config.num_moe_layers else [])
    plan = plan_growth(NativeModel(config), operators)
    return [config, *(step.after.config for step in plan.steps if isinstance(step.after, NativeModel))]


def moments(now: Situation, wanted: int) -> list[float]:
    """FLOPs before each growth on the way to a shape; fewer where too little would be left after one."""
    if wanted == 0 or now.budget < now.sunk:
        return []
    if wanted == 1:
        return [_single(now)]
    first, second = max(now.sunk, QUARTER * now.total), HALF * now.total
    return [first, second] if second - first >= first / 4 else [first]


def _single(now: Situation) -> float:
    """FLOPs before the only growth of a run."""
    return max(now.sunk, HALF * now.total)


def _grow(now: Situation, shapes: Sequence[MoEConfig], wanted: int, advice: Advice) -> None:
    say, unit = advice.remarks.append, chinchilla_flops(now.config)
    if wanted == 0:
        say("so: go on with this model")
        return
    if not (found := moments(now, wanted)):
        say(f"so: go on with this model, or spend more: at least the sunk FLOPs belong after a growth ({PAPER})")
        return
    first = found[0]
    moment = "now" if first == now.sunk else f"at {first / unit:.2f} F_c"
    say(f"so: grow to {human(shapes[wanted].num_active_params())} active parameters, beginning {moment}")
    if not now.sunk:
        say(
            f"nothing is sunk: from scratch the large model had a higher loss than the grown one with {TOO_LITTLE:g} "
            f"F_c in all, and was not to be told from it with {ENOUGH:g}, {EVIDENCE}, e"
        )
    advice.growths.append(Growth(first - now.before, _when(now, first), "depth", _depth_lines(now, first)))
    if wanted == 2 and len(found) == 1:
        say(f"no second growth: after it at least what was sunk before it must be left ({PAPER})")
    elif wanted == 2:
        say(f"a second growth when {found[1] / unit:.2f} F_c are spent: {NO_LESS}")
        advice.growths.append(Growth(found[1] - now.before, _when(now, found[1]), "width", _width_lines()))


def _when(now: Situation, flops: float) -> str:
    """Where the moment of a growth of layers or experts is from."""
    if flops == now.sunk:
        return f"now: {NO_LESS}"
    if flops == QUARTER * now.total:
        return f"a quarter of all FLOPs, as the runs of e {EVIDENCE}"
    return (
        f"half of all FLOPs: {NO_LESS}; of {TOO_LITTLE:g} F_c in all half had a lower loss than a quarter, and three "
        f"quarters could not be told from half {EVIDENCE}, d"
    )


def _grow_along(now: Situation, label: str, grow: Sequence[Mapping[str, Any]], advice: Advice) -> None:
    """One growth along an axis of which the paper says nothing, because finished runs let expect the most of it."""
    advice.remarks.append(f"so: {label}, of which the lowest loss is predicted")
    at = _single(now)
    lines = [Line("grow", list(grow), "lowest predicted loss of all choices, --runs"), *_state_lines(now, at)]
    advice.growths.append(Growth(at - now.before, "the moment that the prediction is for", "grow", lines))


def _depth_lines(now: Situation, first: float) -> list[Line]:
    if first > FORMED * chinchilla_flops(now.config):
        why = f"beats stack past about {FORMED:g} F_c, {PAPER}; not to be told from it from 2 on {DEPTH}"
        method = Line("depth.method", "interposition", why)
    elif is_formed(now.profile):
        method = Line("depth.method", "interposition", f"the norm profile has formed, and a stack breaks it, {PAPER}")
    else:
        method = Line("depth.method", "stack", f"had a lower loss than interposition up to {FORMED:g} F_c {DEPTH}")
    return [Line("depth.factor", 2, FACTOR), method, *_state_lines(now, first)]


def _state_lines(now: Situation, first: float) -> list[Line]:
    """What becomes of the optimizer's state and of the rate at a first growth.

    What a checkpoint lacks, or how low its rate stands, matters to a growth now: a later one finds a state and a rate
    that the run has built by then.
    """
    is_now = first <= now.sunk
    if is_now and not now.optimizer:
        return [
            Line("optimizer_state", "reset", "the checkpoint holds no optimizer state"),
            Line(
                "rewarm",
                {"steps": 100},
                f"a reset is followed by a warm-up, {PAPER}; without one the loss was lower {EVIDENCE}, f",
            ),
        ]
    lines = [Line("optimizer_state", "carry", f"nothing is lost; a reset was not to be told from it {EVIDENCE}, f")]
    if is_now and now.rate is not None and now.rate < DECAYED:
        why = f"the checkpoint's rate is at {now.rate:.0%}; growing from the constant phase is better, {PAPER}"
        lines.append(Line("rewarm", {"steps": 100}, why))
    return lines


def _width_lines() -> list[Line]:
    return [
        Line("width.factor", 2, FACTOR),
        Line("width.noise", 0.01, f"α of {PAPER}; a larger one had a lower loss {EVIDENCE}, b"),
        Line(
            "width.top_k", "scale", f"128 experts, top-8 beat 128, top-4, {PAPER}; keep had a lower loss {EVIDENCE}, b"
        ),
        Line("optimizer_state", "carry", "copies' moments follow their gradients: derived"),
    ]
