"""What a user writes about a growth: when it happens, along which axes, and what becomes of the optimizer.

Plain dataclasses that check themselves; a YAML file is parsed into them, and ``asdict`` records them in a checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lit_recycle.growth.operators import DEPTH_METHODS

OptimizerPolicy = Literal["carry", "fresh_copies", "reset"]
POLICIES: tuple[str, ...] = ("carry", "fresh_copies", "reset")
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
        return f"{self.unit} {self.value:,}"


@dataclass(frozen=True)
class Depth:
    """Growth in depth: existing layers are copied.

    Args:
        factor: How often each layer stands in the grown model.
        method: ``interposition`` copies each layer in place (0 0 1 1 2 2), ``stack`` repeats the block (0 1 2 0 1 2).
        keep_first: So many first layers stay single.
        keep_last: So many last layers stay single.
        layers: The source layer of every grown layer, written out; replaces the four keys above.
        zero_output: Zero the output projections of the copies, so that the growth leaves the function as it was.
    """

    factor: int = 2
    method: Literal["interposition", "stack"] = "interposition"
    keep_first: int = 0
    keep_last: int = 0
    layers: Sequence[int] | None = None
    zero_output: bool = False

    def __post_init__(self) -> None:
        if self.layers is not None:
            object.__setattr__(self, "layers", tuple(self.layers))
        if self.factor < 2 and self.layers is None:
            raise ValueError(f"depth.factor must be at least 2, got {self.factor}")
        if self.method not in DEPTH_METHODS:
            raise ValueError(f"depth.method must be one of {', '.join(DEPTH_METHODS)}, got {self.method!r}")
        if self.keep_first < 0 or self.keep_last < 0:
            raise ValueError("depth.keep_first and depth.keep_last must not be negative")

    def source_layers(self, num_layers: int) -> tuple[int, ...]:
        """The source of each grown layer, for a model of so many layers."""
        if self.layers is not None:
            outside = [i for i in self.layers if not 0 <= i < num_layers]
            if outside or not self.layers:
                raise ValueError(f"depth.layers must name layers 0..{num_layers - 1}, got {list(self.layers)}")
            return tuple(self.layers)
        if self.keep_first + self.keep_last >= num_layers:
            raise ValueError(
                f"depth.keep_first {self.keep_first} and depth.keep_last {self.keep_last} leave nothing to copy of "
                f"{num_layers} layers"
            )
        return DEPTH_METHODS[self.method](num_layers, self.factor, self.keep_first, self.keep_last)


@dataclass(frozen=True)
class Width:
    """Growth in width: routed experts are duplicated together with their router rows.

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
        if self.noise < 0:
            raise ValueError(f"width.noise must not be negative, got {self.noise}")
        if self.top_k not in ("scale", "keep"):
            raise ValueError(f"width.top_k must be scale or keep, got {self.top_k!r}")


@dataclass(frozen=True)
class Rewarm:
    """A second warm-up, multiplied onto the learning rate of the run's own schedule.

    Args:
        steps: Length of the linear ramp, in optimizer steps.
        start_factor: Factor at its beginning; one at its end.
    """

    steps: int
    start_factor: float = 0.1

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"rewarm.steps must be at least 1, got {self.steps}")
        if not 0 <= self.start_factor <= 1:
            raise ValueError(f"rewarm.start_factor must lie in 0..1, got {self.start_factor}")

    def factor(self, steps_since: int) -> float:
        """Factor on the learning rate, so many optimizer steps after the growth."""
        done = min(max(steps_since, 0) / self.steps, 1.0)
        return self.start_factor + (1.0 - self.start_factor) * done


@dataclass(frozen=True)
class GrowthEvent:
    """One growth of the model, along one axis or along both at once.

    Args:
        at: When it happens.
        depth: Growth in depth, if any.
        width: Growth in width, if any.
        optimizer_state: ``carry`` gives copies their source's state, rescaled where the growth rescales the gradient;
            ``fresh_copies`` starts copies at zero; ``reset`` starts everything at zero.
        rewarm: Ramp the learning rate up again after the growth.
    """

    at: Trigger
    depth: Depth | None = None
    width: Width | None = None
    optimizer_state: OptimizerPolicy = "carry"
    rewarm: Rewarm | None = None

    def __post_init__(self) -> None:
        if self.depth is None and self.width is None:
            raise ValueError(f"the event at {self.at} grows nothing: give depth, width or both")
        if self.optimizer_state not in POLICIES:
            raise ValueError(f"optimizer_state must be one of {', '.join(POLICIES)}, got {self.optimizer_state!r}")

    def to_dict(self) -> dict[str, Any]:
        """Plain types; ``GrowthEvent.from_dict`` gives the event back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GrowthEvent:
        kinds = {"at": Trigger, "depth": Depth, "width": Width, "rewarm": Rewarm}
        return cls(**{k: kinds[k](**v) if k in kinds and v is not None else v for k, v in values.items()})
