"""When events fire, and what a run's stages are: arithmetic on configs, before any compute is spent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lit_recycle.growth.event import GrowthEvent, Trigger
from lit_recycle.growth.facts import Unmeasured
from lit_recycle.growth.plan import GrowthPlan, plan_growth
from lit_recycle.growth.shape import Shape, chinchilla_flops


@dataclass(frozen=True)
class Progress:
    """How far a run is; equal on all processes."""

    steps: int
    tokens: int
    flops: int


@dataclass(frozen=True)
class Stage:
    """A stretch of a run between growths.

    Args:
        shape: Shape of the model in this stage.
        start: Progress at its beginning.
        end: Progress at its end.
        event: The growth that began it; None for the first stage.
        plan: That growth's source map.
    """

    shape: Shape
    start: Progress
    end: Progress
    event: GrowthEvent | None = None
    plan: GrowthPlan | None = None


def is_due(trigger: Trigger, progress: Progress, shape: Shape) -> bool:
    """Whether an event fires before the next batch, for a model of this shape."""
    if trigger.steps is not None:
        return progress.steps >= trigger.steps
    if trigger.tokens is not None:
        return progress.tokens >= trigger.tokens
    return progress.flops >= _flops(trigger, shape)


def stages(
    shape: Shape,
    events: Sequence[GrowthEvent],
    *,
    seq_len: int,
    tokens_per_step: int,
    max_steps: int,
    start: Progress | None = None,
    seed: int = 0,
    first_event: int = 0,
) -> list[Stage]:
    """What a run will be, stage by stage.

    Args:
        shape: The model at the start.
        events: The growths to come, in order.
        seq_len: Tokens per sample.
        tokens_per_step: Tokens of one optimizer step, over all processes.
        max_steps: Optimizer steps of the run.
        start: Progress at the start; the run's beginning when not given.
        seed: Seed of the noise.
        first_event: Number of the first event in the life of the model.

    Raises:
        ValueError: For events out of order, in the past, or after the end of the run.
    """
    now, result, event, plan = start or Progress(0, 0, 0), [], None, None
    for number, following in enumerate([*events, None]):
        flops_per_step = tokens_per_step * shape.num_flops_per_token(seq_len)
        if following is None:
            step = max(max_steps, now.steps)
        else:
            step = _first_step(following.at, now, shape, tokens_per_step, flops_per_step)
            _check(following, step, now, max_steps, is_first=number == 0)
        taken = step - now.steps
        end = Progress(step, now.tokens + taken * tokens_per_step, now.flops + taken * flops_per_step)
        result.append(Stage(shape, now, end, event, plan))
        if following is not None:
            # What operators choose by weights cannot be known yet; the shape that they lead to can.
            try:
                plan = plan_growth(shape, following.operators, seed=seed, event=first_event + number, facts=Unmeasured)
            except ValueError as error:
                raise ValueError(f"the growth at {following.at} cannot be: {error}") from error
            assert isinstance(plan.after, Shape)
            shape = plan.after
        now, event = end, following
    return result


def _first_step(trigger: Trigger, now: Progress, shape: Shape, tokens: int, flops: int) -> int:
    """The first step before which the trigger holds; before the present one if it has held for longer."""
    if trigger.steps is not None:
        return trigger.steps
    # Whole numbers, because FLOPs outgrow what a float counts exactly; `is_due` compares exactly, too.
    if trigger.tokens is not None:
        missing, per_step = math.ceil(trigger.tokens) - now.tokens, tokens
    else:
        missing, per_step = math.ceil(_flops(trigger, shape)) - now.flops, flops
    # Rounded up: an anchor checkpoint stands on the first step at which the trigger holds, and up to one step too far
    # is no past.
    return now.steps - (-missing // per_step)


def _flops(trigger: Trigger, shape: Shape) -> float:
    return trigger.flops if trigger.flops is not None else trigger.value * chinchilla_flops(shape)


def _check(event: GrowthEvent, step: int, now: Progress, max_steps: int, is_first: bool) -> None:
    if step < now.steps:
        where = f"in the past: the run is at step {now.steps:,}" if is_first else "before the event that precedes it"
        raise ValueError(f"the growth at {event.at} (step {step:,}) lies {where}; put the events in order of time")
    if step >= max_steps:
        raise ValueError(
            f"the growth at {event.at} (step {step:,}) cannot be reached: the run ends at trainer.max_steps "
            f"{max_steps:,}; raise max_steps or let the event come earlier"
        )
