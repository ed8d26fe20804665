"""What a model remembers of a growth."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lit_recycle.growth.event import GrowthEvent
from lit_recycle.growth.plan import GrowthPlan
from lit_recycle.growth.schedule import Progress
from lit_recycle.model.config import MoEConfig


@dataclass(frozen=True)
class GrowthRecord:
    """A growth that has happened, in plain types; kept in the hyperparameters of a checkpoint.

    Args:
        event: :class:`GrowthEvent` as a dict.
        steps: Optimizer steps before it.
        tokens: Training tokens before it.
        flops: Training FLOPs before it.
        before: Shape of the model before it.
        after: Shape of the model after it.
        layers: Source layer of each grown layer.
        loss_before: Loss of one batch before it, in nats per token; None for a growth on disk.
        loss_after: Loss of the same batch after it.
    """

    event: dict[str, Any]
    steps: int
    tokens: int
    flops: int
    before: dict[str, Any]
    after: dict[str, Any]
    layers: list[int]
    loss_before: float | None = None
    loss_after: float | None = None

    @classmethod
    def of(
        cls,
        event: GrowthEvent,
        progress: Progress,
        before: MoEConfig,
        after: MoEConfig,
        plan: GrowthPlan,
        losses: tuple[float, float] | tuple[None, None] = (None, None),
    ) -> GrowthRecord:
        """The record of a growth after so much progress; ``losses`` of one batch before and after it."""
        layers = list(plan.layers)
        return cls(
            event.to_dict(),
            **asdict(progress),
            before=before.to_dict(),
            after=after.to_dict(),
            layers=layers,
            loss_before=losses[0],
            loss_after=losses[1],
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
