"""What a user writes about a growth: when it happens, along which axes, and what becomes of the optimizer.

Plain dataclasses that check themselves; a YAML file is parsed into them, and ``asdict`` records them in a checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lit_recycle.growth.operator import Operator
from lit_recycle.growth.operators import DuplicateExperts, Interpose, Layers, Stack
from lit_recycle.growth.policy import POLICIES, OptimizerPolicy

METHODS: dict[str, type[Interpose] | type[Stack]] = {"interposition": Interpose, "stack": Stack}
TRIGGERS: tuple[str, ...] = ("steps", "tokens", "flops", "chinchilla")


@dataclass(frozen=True)
class Trigger:
    """The moment of an event; exactly one is given.

    Args:
        steps: Optimizer steps taken.
        tokens: Training tokens seen by all processes.
        flops: Training FLOPs spent.
        chinchilla: Training FLOPs spent, in multiples of F_c = 120·N_a² of the model before the growth.
    """

    steps: int | None = None
    tokens: float | None = None
    flops: float | None = None
    chinchilla: float | None = None

    def __post_init__(self) -> None:
        given = [name for name in TRIGGERS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"at: give exactly one of {', '.join(TRIGGERS)}; got {', '.join(given) or 'none'}")
        if not 0 <= self.value < math.inf:
            raise ValueError(f"at.{self.unit} must be a finite number and not negative, got {self.value}")

    @property
    def unit(self) -> str:
        return next(name for name in TRIGGERS if getattr(self, name) is not None)

    @property
    def value(self) -> float:
        return getattr(self, self.unit)

    def __str__(self) -> str:
        return {
            "steps": f"{self.value:,} steps",
            "tokens": f"{self.value:,.0f} tokens",
            "flops": f"{self.value:.4g} FLOPs",
            "chinchilla": f"{self.value:g} × F_c",
        }[self.unit]


@dataclass(frozen=True)
class Depth:
    """Growth in depth in short: :class:`Interpose`, :class:`Stack` or :class:`Layers`.

    Args:
        factor: How often each layer stands in the grown model.
        method: ``interposition`` copies each layer in place (0 0 1 1 2 2), ``stack`` repeats the block (0 1 2 0 1 2).
        keep_first: Number of leading layers that are not copied.
        keep_last: Number of trailing layers that are not copied.
        layers: The source layer of every grown layer, written out; replaces the four keys above.
        zero_output: Zero the output projections of the copies, so that the growth leaves the function as it was.
    """

    factor: int = 2
    method: Literal["interposition", "stack"] = "interposition"
    keep_first: int | None = None
    keep_last: int = 0
    layers: Sequence[int] | None = None
    zero_output: bool = False

    def __post_init__(self) -> None:
        if self.layers is not None:
            object.__setattr__(self, "layers", tuple(self.layers))
        if self.factor < 2 and self.layers is None:
            raise ValueError(f"depth.factor must be at least 2, got {self.factor}")
        if self.method not in METHODS:
            raise ValueError(f"depth.method must be one of {', '.join(METHODS)}, got {self.method!r}")
        if (self.keep_first or 0) < 0 or self.keep_last < 0:
            raise ValueError("depth.keep_first and depth.keep_last must not be negative")

    @property
    def operator(self) -> Operator:
        """What it is short for."""
        if self.layers is not None:
            return Layers(self.layers, zero_output=self.zero_output)
        first = self.keep_first if self.method == "stack" else self.keep_first or 0
        return METHODS[self.method](
            self.factor,
            keep_first=first,  # type: ignore[arg-type]
            keep_last=self.keep_last,
            zero_output=self.zero_output,
        )


@dataclass(frozen=True)
class Width:
    """Growth in width in short: :class:`DuplicateExperts`.

    Args:
        factor: How often each expert stands in the grown model.
        noise: Standard deviation of the Gaussian noise on the copies, relative to that of the matrix copied (α).
        top_k: ``scale`` multiplies the experts per token by the factor too, ``keep`` leaves them.
        reset_balance: Zero the balancing bias instead of copying it.
    """

    factor: int = 2
    noise: float = 0.01
    top_k: Literal["scale", "keep"] = "scale"
    reset_balance: bool = False

    def __post_init__(self) -> None:
        if self.factor < 2:
            raise ValueError(f"width.factor must be at least 2, got {self.factor}")
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"width.noise must be a finite number and not negative, got {self.noise}")
        if self.top_k not in ("scale", "keep"):
            raise ValueError(f"width.top_k must be scale or keep, got {self.top_k!r}")

    @property
    def operator(self) -> Operator:
        """What it is short for."""
        return DuplicateExperts(self.factor, noise=self.noise, top_k=self.top_k, reset_balance=self.reset_balance)


Form = Operator | Depth | Width
"""An operator, or a short form of one."""


def operators_of(forms: Sequence[Form]) -> tuple[Operator, ...]:
    """The operators that forms stand for."""
    return tuple(form if isinstance(form, Operator) else form.operator for form in forms)


@dataclass(frozen=True)
class Rewarm:
    """A second warm-up, multiplied onto the learning rate of the run's own schedule.

    Args:
        steps: Length of the linear ramp, in optimizer steps.
        start_factor: Factor at its beginning.
        peak: Factor at its end; one is the schedule's own rate.
        back_steps: Number of steps in which it goes from the peak to one, in a line; 0 for at once, null for never.
        who: Whose rate: ``all``, or only ``new`` rows, those that the growth has added.
    """

    steps: int
    start_factor: float = 0.1
    peak: float = 1.0
    back_steps: int | None = 0
    who: Literal["all", "new"] = "all"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"rewarm.steps must be at least 1, got {self.steps}")
        if not 0 < self.peak < math.inf:
            raise ValueError(f"rewarm.peak must be a finite number greater than 0, got {self.peak}")
        if not 0 <= self.start_factor <= max(self.peak, 1.0):
            raise ValueError(
                f"rewarm.start_factor must lie in 0..1, or 0..rewarm.peak where that is more, got {self.start_factor}"
            )
        if self.back_steps is not None and self.back_steps < 0:
            raise ValueError(f"rewarm.back_steps must not be negative, got {self.back_steps}: null for never")
        if self.who not in ("all", "new"):
            raise ValueError(f"rewarm.who must be all or new, got {self.who!r}")

    def factor(self, steps_since: int) -> float:
        """Factor on the learning rate, a number of optimizer steps after the growth."""
        since = max(steps_since, 0)
        if since < self.steps:
            return self.start_factor + (self.peak - self.start_factor) * (since / self.steps)
        if self.back_steps is None:
            return self.peak
        back = (since - self.steps) / self.back_steps if self.back_steps else 1.0
        return self.peak + (1.0 - self.peak) * min(back, 1.0)

    def is_over(self, steps_since: int) -> bool:
        """Whether the factor is one from then on."""
        if self.back_steps is None:
            return self.peak == 1.0 and steps_since >= self.steps
        return steps_since >= self.steps + (self.back_steps if self.peak != 1.0 else 0)


@dataclass(frozen=True)
class GrowthEvent:
    """One growth of the model, by one operator or by several in a row.

    Args:
        at: When it happens.
        depth: Growth in depth, in short.
        width: Growth in width, in short; follows ``depth``.
        grow: Any operators (``lit-recycle operators`` lists them), one after the other; they follow the short forms.
        optimizer_state: ``carry`` gives copies their source's state, rescaled where the growth rescales the gradient;
            ``fresh_copies`` starts copies at zero; ``reset`` starts everything at zero.
        rewarm: Ramp the learning rate up again after the growth.
        train: What is trained from then on: ``all``, only the ``new`` rows, those that the growth has added (copied
            layers, experts, channels and heads), or only the ``old`` ones. The others stay as they are, bit for bit.
        train_steps: Number of optimizer steps that this holds for; for good when not given.
        seq_len: Tokens per sample from then on, at most ``data.seq_len``; as before when not given.
        until: Spread it over several events, the last one then, in the unit of ``at``, each going a part of the way;
            for operators that shrink an axis to a size.
        times: Number of those events, the first at ``at``, all equally far apart.
    """

    at: Trigger
    depth: Depth | None = None
    width: Width | None = None
    grow: Sequence[Operator] = ()
    optimizer_state: OptimizerPolicy = "carry"
    rewarm: Rewarm | None = None
    train: Literal["all", "new", "old"] = "all"
    train_steps: int | None = None
    seq_len: int | None = None
    until: Trigger | None = None
    times: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "grow", tuple(self.grow or ()))
        if not self.operators:
            alone = " (SequenceLengthWarmup changes seq_len alone)" if self.seq_len else ""
            raise ValueError(f"it grows nothing at {self.at}: give depth, width or grow{alone}")
        if self.seq_len is not None and self.seq_len < 1:
            raise ValueError(f"seq_len must be at least 1, got {self.seq_len}")
        if self.optimizer_state not in POLICIES:
            raise ValueError(f"optimizer_state must be one of {', '.join(POLICIES)}, got {self.optimizer_state!r}")
        if self.train not in ("all", "new", "old"):
            raise ValueError(f"train must be all, new or old, got {self.train!r}")
        if self.train_steps is not None and (self.train == "all" or self.train_steps < 1):
            raise ValueError(
                f"train_steps must be at least 1 and stand beside train: new or old, got {self.train_steps} beside "
                f"train: {self.train}"
            )
        self._check_spread()

    def _check_spread(self) -> None:
        """Raises ``ValueError`` where it is to be spread over several events and cannot be."""
        if self.until is None and self.times is None:
            return
        where = f"the event at {self.at}"
        if self.until is None or self.times is None or self.times < 2:
            raise ValueError(f"{where}: until and times stand together, and times is at least 2, got {self.times}")
        if self.until.unit != self.at.unit or self.at.unit == "chinchilla":
            raise ValueError(f"{where}: until must be in its unit, one of steps, tokens, flops; got {self.until}")
        if self.until.value - self.at.value < (self.times - 1 if self.at.unit == "steps" else 1):
            raise ValueError(f"{where} has no room for {self.times} events until {self.until}")
        if self.rewarm or self.train != "all" or self.seq_len:
            raise ValueError(f"{where}: rewarm, train and seq_len belong to a single event, without until")
        self.spread()

    def spread(self) -> list[GrowthEvent]:
        """The events that it is short for; itself if it is not spread over several.

        Raises:
            ValueError: For an operator that is done at once or not at all.
        """
        if self.until is None or self.times is None:
            return [self]
        step = (self.until.value - self.at.value) / (self.times - 1)
        moments = [self.at.value + i * step for i in range(self.times - 1)] + [self.until.value]
        if self.at.unit == "steps":
            moments = [round(moment) for moment in moments]
        parts = zip(*(operator.gradual(self.times) for operator in self.operators), strict=True)
        return [
            GrowthEvent(Trigger(**{self.at.unit: moment}), grow=part, optimizer_state=self.optimizer_state)  # type: ignore[arg-type]
            for moment, part in zip(moments, parts, strict=True)
        ]

    @property
    def operators(self) -> tuple[Operator, ...]:
        """What is done, in order."""
        return operators_of([form for form in (self.depth, self.width, *self.grow) if form is not None])

    def to_dict(self) -> dict[str, Any]:
        """Plain types, as in a YAML file; the short forms are written out."""
        assert self.until is None, "what happens are the events that it is spread over"
        return {
            "at": asdict(self.at),
            "grow": [operator.to_dict() for operator in self.operators],
            "optimizer_state": self.optimizer_state,
            "rewarm": asdict(self.rewarm) if self.rewarm else None,
            "train": self.train,
            "train_steps": self.train_steps,
            "seq_len": self.seq_len,
        }

    def name(self, number: int) -> str:
        """What messages call the event that stands at a place of the list, counted from 1."""
        return f"event {number} (at {self.at})"

    def label(self, grown: str) -> str:
        """A few words for people, with those of the model's growth."""
        return f"{grown} and {self.seq_len} tokens per sample" if self.seq_len else grown
