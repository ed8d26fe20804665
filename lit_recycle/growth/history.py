"""The record of a growth that has happened, as a checkpoint keeps it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lit_recycle.growth.event import GrowthEvent
from lit_recycle.growth.plan import GrowthPlan
from lit_recycle.growth.schedule import Progress, Stage
from lit_recycle.growth.shape import Shape, sizes


@dataclass(frozen=True)
class GrowthRecord:
    """A growth that has happened, in plain types; kept in the hyperparameters of a checkpoint.

    Args:
        event: :class:`GrowthEvent` as a dict.
        label: What grew, in a few words.
        preserves_function: Whether the grown model computed what the model did, up to rounding.
        maps: The map of each operator; see :meth:`lit_recycle.growth.sources.SourceMap.to_dict`.
        drawn: Layer and suffix of each parameter of the grown model that is no copy of anything.
        steps: Optimizer steps before it.
        tokens: Training tokens before it.
        flops: Training FLOPs before it.
        before: Shape of the model before it, as :meth:`Shape.to_dict` gives it.
        after: Shape of the model after it.
        sizes_before: :func:`lit_recycle.growth.shape.sizes` before it.
        sizes_after: The same after it.
        loss_before: Loss of one batch before it, in nats per token; None for a growth on disk.
        loss_after: Loss of the same batch after it.
        earlier: It was in an earlier run, with whose weights the present one has begun: neither its event nor its steps
            are of this run.
    """

    event: dict[str, Any]
    label: str
    preserves_function: bool
    maps: list[dict[str, Any]]
    drawn: list[list[Any]]
    steps: int
    tokens: int
    flops: int
    before: dict[str, Any]
    after: dict[str, Any]
    sizes_before: dict[str, Any]
    sizes_after: dict[str, Any]
    loss_before: float | None = None
    loss_after: float | None = None
    earlier: bool = False

    @classmethod
    def of(
        cls,
        event: GrowthEvent,
        progress: Progress,
        plan: GrowthPlan,
        names: Iterable[str] = (),
        losses: tuple[float | None, float | None] = (None, None),
    ) -> GrowthRecord:
        """The record of a growth after so much progress.

        Args:
            event: What was asked for.
            progress: How far the run was.
            plan: What was done.
            names: Of the model's parameters before it.
            losses: Of one batch, before and after it.
        """
        before, after = plan.before, plan.after
        assert isinstance(before, Shape) and isinstance(after, Shape)
        return cls(
            event.to_dict(),
            event.label(plan.label),
            plan.preserves,
            plan.maps(),
            [list(place) for place in plan.drawn(names)],
            **asdict(progress),
            before=before.to_dict(),
            after=after.to_dict(),
            sizes_before=sizes(before),
            sizes_after=sizes(after),
            loss_before=losses[0],
            loss_after=losses[1],
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def of_earlier_run(growth: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Records for a run that begins with the weights that these growths have made."""
    return [{**record, "earlier": True} for record in growth]


def of_this_run(growth: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of a model's growths that the run at hand, however often it was resumed, has seen."""
    return [record for record in growth if not record.get("earlier")]


def records_to_come(stages: Sequence[Stage], names: Iterable[str]) -> list[dict[str, Any]]:
    """Records of the growths between stages, as far as they can be known before the run.

    Args:
        stages: Of a run, the present one first.
        names: Of the model's parameters as it is.
    """
    records, names = [], list(names)
    for stage in stages:
        if stage.event is not None and stage.plan is not None:
            records.append(GrowthRecord.of(stage.event, stage.start, stage.plan, names).to_dict())
            names = stage.plan.parameters(names)
    return records
