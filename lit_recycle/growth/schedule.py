"""When events fire, and what a run's stages are: arithmetic on configs, before any compute is spent."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lit_recycle.data.pace import Pace, Step
from lit_recycle.data.span import FOREVER
from lit_recycle.growth.event import GrowthEvent, Trigger
from lit_recycle.growth.facts import OF_STEPS, Unmeasured
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
        pace: Sizes of the optimizer steps.
        micro_batches: Micro-batches before its beginning.
        event: The growth that began it; None for the first stage.
        plan: That growth's source map.
    """

    shape: Shape
    start: Progress
    end: Progress
    pace: Pace
    micro_batches: int = 0
    event: GrowthEvent | None = None
    plan: GrowthPlan | None = None

    @property
    def label(self) -> str | None:
        """What grew at its beginning, in a few words; None for the first stage."""
        return self.event.label(self.plan.label) if self.event and self.plan else None

    @property
    def first(self) -> Step:
        """Size of its first optimizer step."""
        return self.pace.step(self.start.steps, self.start.tokens, self.micro_batches)

    @property
    def last(self) -> Step:
        """Size of its last optimizer step; of its first if it has none."""
        return (deque(self._sizes(self.end.steps), maxlen=1) or [self.first])[0]

    def after(self, step: int) -> Progress:
        """Progress before an optimizer step of it, or of the run as it would go on without an end."""
        at = _Place(self.start, self.micro_batches)
        for size in self._sizes(step):
            at = at.after(min(size.holds, step - at.now.steps), size, self.shape)
        return at.now

    def step_at(self, flops: float) -> int:
        """The optimizer step, before or after its end, before which the run has spent about so many FLOPs in all."""
        at = _Place(self.start, self.micro_batches)
        for size in self._sizes(FOREVER):
            missing = (flops - at.now.flops) / flops_of(size, self.shape)
            if missing <= size.holds:
                return at.now.steps + max(round(missing), 0)
            at = at.after(size.holds, size, self.shape)
        raise AssertionError("the last size holds for good")

    def _sizes(self, until: int) -> Iterator[Step]:
        """Sizes of the steps before one, each once for as long as it holds."""
        at = _Place(self.start, self.micro_batches)
        while at.now.steps < until:
            yield (size := at.next_step(self.pace))
            at = at.after(min(size.holds, until - at.now.steps), size, self.shape)


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
    pace: Pace,
    max_steps: int,
    start: Progress | None = None,
    micro_batches: int = 0,
    seed: int = 0,
    first_event: int = 0,
    numbers: Sequence[int] = (),
) -> list[Stage]:
    """What a run will be, stage by stage.

    Args:
        shape: The model at the start.
        events: The growths to come, in order.
        pace: Sizes of the optimizer steps.
        max_steps: Optimizer steps of the run.
        start: Progress at the start; the run's beginning when not given.
        micro_batches: Micro-batches before the start.
        seed: Seed of the noise.
        first_event: Number of the first event in the life of the model.
        numbers: Of the events in the configuration, by which messages call them; 1, 2, … when not given.

    Raises:
        ValueError: For events out of order, in the past, after the end of the run, or without the steps that they
            choose by.
    """
    at, result, event, plan = _Place(start or Progress(0, 0, 0), micro_batches), [], None, None
    for number, following in enumerate([*events, None]):
        name = following.name(numbers[number] if numbers else number + 1) if following is not None else ""
        begin = at
        at = _end(at, shape, pace, following, name, max_steps, is_first=number == 0)
        result.append(Stage(shape, begin.now, at.now, pace, begin.micro_batches, event, plan))
        if following is not None:
            if at.now.steps == begin.now.steps and (number or not begin.now.steps):
                _check_needs_no_steps(following, name)
            # What operators choose by weights cannot be known yet; the shape that they lead to can.
            try:
                plan = plan_growth(shape, following.operators, seed=seed, event=first_event + number, facts=Unmeasured)
            except ValueError as error:
                raise ValueError(f"{name} cannot be: {error}") from error
            assert isinstance(plan.after, Shape)
            shape = plan.after
            if following.seq_len is not None:
                pace = pace.with_length(following.seq_len, name)
        event = following
    return result


def unfinished_warmup(parts: Sequence[Stage]) -> str | None:
    """A sentence where the size of steps would change once more after the last step of a run: nothing else says so."""
    last, end = parts[-1].last, parts[-1].end.steps
    if last.holds == FOREVER:
        return None
    return (
        f"a warm-up ends after the run: the last step before trainer.max_steps {end:,} has {last.seq_len:,} tokens per "
        f"sample and {last.accumulate:,} micro-batches; let SequenceLengthWarmup or BatchSizeWarmup end earlier"
    )


def flops_of(size: Step, shape: Shape) -> int:
    """Training FLOPs of an optimizer step."""
    return size.tokens * shape.num_flops_per_token(size.seq_len)


@dataclass(frozen=True)
class _Place:
    """Where a run is; Lightning counts micro-batches, too."""

    now: Progress
    micro_batches: int

    def next_step(self, pace: Pace) -> Step:
        return pace.step(self.now.steps, self.now.tokens, self.micro_batches)

    def after(self, steps: int, size: Step, shape: Shape) -> _Place:
        """After so many optimizer steps of one size."""
        now, flops = self.now, flops_of(size, shape)
        done = Progress(now.steps + steps, now.tokens + steps * size.tokens, now.flops + steps * flops)
        return _Place(done, self.micro_batches + steps * size.accumulate)


def _end(
    at: _Place, shape: Shape, pace: Pace, event: GrowthEvent | None, name: str, max_steps: int, is_first: bool
) -> _Place:
    """Where an event comes, or a run ends."""
    while True:
        size = at.next_step(pace)
        step = max(max_steps, at.now.steps)
        if event is not None:
            step = _first_step(event.at, at.now, shape, size.tokens, flops_of(size, shape))
            if at.now.steps + size.holds >= min(step, max_steps):
                _check(event, name, step, at.now, max_steps, is_first)
        at = at.after(min(step - at.now.steps, size.holds), size, shape)
        if at.now.steps == step:
            return at


def _check_needs_no_steps(event: GrowthEvent, name: str) -> None:
    """Raises ``ValueError`` for an event that chooses by the steps before it, where there are none."""
    for operator in event.operators:
        for fact in set(OF_STEPS) & {*operator.asks}:
            raise ValueError(
                f"{name} cannot be: {type(operator).__name__} chooses by {fact}, which is measured in the steps since "
                "the event before it or the beginning, and there are none: let it come later, or choose by norm"
            )


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


def _check(event: GrowthEvent, name: str, step: int, now: Progress, max_steps: int, is_first: bool) -> None:
    name = name if event.at.steps is not None else f"{name}, at step {step:,},"
    if step < now.steps:
        if not is_first:
            raise ValueError(f"{name} lies before the event that precedes it; put the events in order of time")
        raise ValueError(
            f"{name} lies in the past: the run is at step {now.steps:,}; let it come later, leave it out, or go on "
            "from an older checkpoint"
        )
    if step >= max_steps:
        raise ValueError(
            f"{name} cannot be reached: the run ends at trainer.max_steps "
            f"{max_steps:,}; raise max_steps or let the event come earlier (--growth.events.N.at, N from 0)"
        )
