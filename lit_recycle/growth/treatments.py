"""What operators do to parts of grown tensors besides copying: noise, zeroing, drawing anew, scaling. As plain data.

Each is random by a key alone, and drawn for a whole part whatever shard of it is at hand, so that a growth gives the
same bits on any number of processes and on disk. torch is imported when a treatment is applied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

from lit_recycle.growth.axes import TensorAxes
from lit_recycle.growth.sources import AxisMap

if TYPE_CHECKING:
    from torch import Tensor


class Part(NamedTuple):
    """A part of a grown tensor that is being treated.

    Args:
        values: What this process holds of it; to be changed in place.
        axes: Its dimensions.
        key: Seed, growth, layer and expert, from which random numbers follow.
        name: What tells it from the other tensors of its layer.
        shape: Of the whole part.
        window: The section of each dimension that ``values`` is.
        maps: The axes that were mapped, by name.
    """

    values: Tensor
    axes: TensorAxes
    key: tuple[object, ...]
    name: str
    shape: tuple[int, ...]
    window: tuple[slice, ...]
    maps: dict[str, AxisMap]

    @property
    def is_whole(self) -> bool:
        return tuple(self.values.shape) == self.shape


class Treatment(Protocol):
    """Something that is done to a part of a grown tensor."""

    @property
    def touches_state(self) -> bool:
        """Whether it changes the optimizer's state as well."""

    @property
    def needs_whole(self) -> bool:
        """Whether it must see a whole part, not a shard of it."""

    def apply(self, part: Part) -> None:
        """Change the weights."""

    def apply_to_state(self, part: Part, power: int | None) -> None:
        """Change what an optimizer keeps of them, proportional to that power of the gradient (None: not known)."""


class _WeightsAlone:
    touches_state: ClassVar[bool] = False
    needs_whole: ClassVar[bool] = False

    def apply_to_state(self, part: Part, power: int | None) -> None:
        """The optimizer's state stays as it was carried."""


@dataclass(frozen=True)
class Zero(_WeightsAlone):
    """All zero."""

    def apply(self, part: Part) -> None:
        part.values.zero_()


@dataclass(frozen=True)
class Scale:
    """Multiplied by a factor that the model divides by elsewhere, so that gradients are divided by it."""

    factor: float

    touches_state: ClassVar[bool] = True
    needs_whole: ClassVar[bool] = False

    def apply(self, part: Part) -> None:
        part.values.mul_(self.factor)

    def apply_to_state(self, part: Part, power: int | None) -> None:
        if power:
            part.values.mul_(self.factor**-power)


@dataclass(frozen=True)
class Noise(_WeightsAlone):
    """Gaussian noise, ε ~ N(0, (α·σ)²), with σ the standard deviation of each matrix on its own.

    Args:
        alpha: α.
    """

    needs_whole: ClassVar[bool] = True
    alpha: float

    def apply(self, part: Part) -> None:
        from lit_recycle.growth.noise import add_noise

        add_noise(part, self.alpha)


@dataclass(frozen=True)
class Spread(_WeightsAlone):
    """Copies on a summed dimension told apart without a change of the function.

    The m copies of an input have the weights (1/m + δ)·w, with random δ of sum zero.

    Args:
        axis: The axis whose copies are meant.
        strength: Standard deviation of δ, relative to 1/m.
    """

    axis: str
    strength: float

    def apply(self, part: Part) -> None:
        from lit_recycle.growth.noise import spread

        spread(part, self.axis, self.strength)


@dataclass(frozen=True)
class SpreadCopies(_WeightsAlone):
    """The copies of an expert told apart without a change of their sum.

    Its m copies have the weights (1 + δ)·w, with random δ of sum zero.

    Args:
        source: The expert that is copied.
        turn: Which of its copies this one is, from 0.
        copies: m.
        strength: Standard deviation of δ before its mean is taken off.
    """

    source: int
    turn: int
    copies: int
    strength: float

    def apply(self, part: Part) -> None:
        from lit_recycle.growth.noise import spread_copies

        spread_copies(part, self.source, self.turn, self.copies, self.strength)


@dataclass(frozen=True)
class Draw:
    """Drawn anew, as at the start of a training run; nothing of the source is left, nor of its optimizer state.

    Args:
        std: Standard deviation of a matrix.
        constant: A number to fill with instead.
        tied: Number of experts in a row that get the same values.
    """

    std: float = 0.0
    constant: float | None = None
    tied: int = 1

    touches_state: ClassVar[bool] = True
    needs_whole: ClassVar[bool] = False

    def apply(self, part: Part) -> None:
        if self.constant is not None:
            part.values.fill_(self.constant)
            return
        from lit_recycle.growth.noise import draw

        draw(part, self.std, self.tied)

    def apply_to_state(self, part: Part, power: int | None) -> None:
        part.values.zero_()


@dataclass(frozen=True)
class Redraw:
    """A share of an expert's inner channels drawn anew, from N(mean, std²) of the weights that it replaces.

    The channels are the same ones in the gate, up and down matrices (Nakamura et al. 2025, arXiv 2502.19261).

    Args:
        axis: The axis of the channels.
        share: In 0..1.
    """

    axis: str
    share: float

    touches_state: ClassVar[bool] = True
    needs_whole: ClassVar[bool] = True

    def apply(self, part: Part) -> None:
        from lit_recycle.growth.noise import redraw

        redraw(part, self.axis, self.share)

    def apply_to_state(self, part: Part, power: int | None) -> None:
        from lit_recycle.growth.noise import redrawn

        for channels in redrawn(part, self.axis, self.share):
            channels.zero_()


@dataclass(frozen=True)
class Jitter(_WeightsAlone):
    """Uniform noise of an absolute size (Expert Upcycling, arXiv 2604.19835, on balancing biases).

    Args:
        size: Greatest change of a value.
    """

    size: float

    def apply(self, part: Part) -> None:
        from lit_recycle.growth.noise import jitter

        jitter(part, self.size)
