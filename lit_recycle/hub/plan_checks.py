"""Tensors of a Hugging Face folder that a growth would leave as they are, or could not compute with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lit_recycle.growth.axes import EXPERTS
from lit_recycle.growth.names import Place
from lit_recycle.growth.operator import GrowableModel
from lit_recycle.growth.outputs import check_outputs
from lit_recycle.hub.reader import FLOATS

if TYPE_CHECKING:
    from lit_recycle.hub.plan import FolderGrowth

MATRICES = {"gate", "up", "down", "router"}


def check_names(growth: FolderGrowth) -> None:
    """Raises ``ValueError`` for a layout of which the family's table misses a part, which would stay as it is."""
    where, by_layer = growth.source.path, dict[int | None, list[Place]]()
    for name in growth.source.tensors:
        place = growth.plan.before.naming.parse(name)
        by_layer.setdefault(place.layer, []).append(place)
    model = growth.plan.before
    for step in growth.plan.steps[:1]:
        for layer in range(model.num_layers):
            _check_layer(growth, layer, by_layer.get(layer, []))
        places = (place for each in by_layer.values() for place in each)
        check_outputs(growth.plan, places, str(where), at_least=growth.before_family.outputs)
        widths = set(step.maps) - {EXPERTS}
        unknown = [p for places in by_layer.values() for p in places if not p.axes.known]
        if widths and unknown:
            raise ValueError(f"{where}: the axes of {unknown[0].name} are not known, so {step.operator} cannot be done")
    outside = [place.name for place in by_layer.get(None, []) if ".experts." in place.name]
    if outside and any(EXPERTS in step.maps for step in growth.plan.steps):
        raise ValueError(
            f"{where}: {outside[0]} belongs to an expert outside of the layers, which cannot be duplicated along"
        )


def _check_layer(growth: FolderGrowth, layer: int, places: Sequence[Place]) -> None:
    model, step = growth.plan.before, growth.plan.steps[0]
    where, model_type = growth.source.path, growth.config["model_type"]
    known, wanted = {m for place in places for m in place.axes.matrices}, growth.before_family.expert_matrices
    grows = any(step.sources.axis(EXPERTS, j) for j, i in enumerate(step.sources.layers) if i == layer)
    if model.size(EXPERTS, layer) and grows and not known >= wanted:
        raise ValueError(
            f"{where}: layer {layer} has no tensors known as {', '.join(sorted(wanted - known))} of a {model_type} "
            "model; add their names to the family's file"
        )
    if model.size(EXPERTS, layer) and grows:
        for place in places:
            if not place.axes.known and _is_of_experts(place, growth.source.tensors[place.name].shape, model, layer):
                raise ValueError(
                    f"{where}: {place.name} seems to belong to the experts, and its axes are not known; add them to "
                    "the family's file"
                )


def _is_of_experts(place: Place, shape: tuple[int, ...], model: GrowableModel, layer: int) -> bool:
    """Whether a tensor that no table describes is a matrix of an expert, or has an entry for each."""
    if place.expert is not None:
        return place.suffix.endswith(".weight") and len(shape) > 1
    routes = any(word in f".{place.suffix}." for word in ("expert", "router", ".gate."))
    return routes and shape[:1] == (model.size(EXPERTS, layer),)


def check_types(growth: FolderGrowth) -> None:
    """Raises ``ValueError`` for tensors that would have to be computed with, and are stored in a packed type."""
    folders = growth.folders
    packed = {t.name for f in folders for t in f.tensors.values() if t.dtype not in (*FLOATS.values(), "F64")}
    if not packed and "quantization_config" not in growth.source.config:
        return
    for recipes in (*(level.values() for level in growth.between), (t.recipe for t in growth.tensors)):
        for recipe in recipes:
            noisy = "quantization_config" in growth.source.config and set(recipe.target.axes.matrices) & MATRICES
            if (noisy or recipe.sources[0][0].name in packed) and not recipe.is_copy:
                method = growth.source.config.get("quantization_config", {}).get("quant_method", "packed")
                raise ValueError(
                    f"{growth.source.path} holds {method} weights, and {recipe.target.name} would have to be computed: "
                    "no noise can be added and no symmetry broken: give --noise 0 and no symmetry_break, or convert "
                    "the checkpoint to bfloat16 first"
                )
