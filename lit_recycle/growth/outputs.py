"""Output projections of layers that ``zero_output`` zeroes: whether a table names them all. No torch."""

from __future__ import annotations

from collections.abc import Iterable

from lit_recycle.growth.names import Place
from lit_recycle.growth.plan import GrowthPlan


def check_outputs(plan: GrowthPlan, places: Iterable[Place], where: str, at_least: int = 1) -> None:
    """Refuse a growth that zeroes the outputs of layers whose outputs are not all known.

    Args:
        plan: The growth.
        places: The model's tensors.
        where: What an error names.
        at_least: Number of projections that a layer has.

    Raises:
        ValueError: For a layer of which fewer are named, or a bias beside one that is not.
    """
    if not getattr(plan.steps[0].operator, "zero_output", False):
        return
    by_layer: dict[int, list[Place]] = {layer: [] for layer in range(plan.before.num_layers)}
    for place in places:
        if place.layer in by_layer:
            by_layer[place.layer].append(place)
    for layer, each in by_layer.items():
        outputs = {p.suffix for p in each if p.axes.writes_residual and not p.suffix.endswith("bias")}
        if len(outputs) < at_least:
            raise ValueError(
                f"{where}: the output projections of layer {layer} are not known by name, so zero_output cannot zero "
                "them; mark with + what they add to the residual stream, as in 'D+ D*'"
            )
        for place in each:
            weight = place.suffix.removesuffix("bias") + "weight"
            if place.suffix.endswith(".bias") and weight in outputs and not place.axes.writes_residual:
                raise ValueError(
                    f"{where}: {place.name} is added to the residual stream as {weight} is, and is not named so, so "
                    "zero_output cannot zero it; name its axes 'D+'"
                )
