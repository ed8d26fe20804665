"""A module's description of its tensors, held against the models that it builds, before a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from lit_recycle.growth.names import Place
from lit_recycle.growth.outputs import check_outputs
from lit_recycle.growth.plan import GrowthPlan
from lit_recycle.growth.shape import Shape
from lit_recycle.training.growable import GrowableModule

Shapes = Mapping[str, tuple[int, ...]]


def check_description(module: GrowableModule, plans: Iterable[GrowthPlan]) -> None:
    """Hold what growths make against what the module builds for the shapes that they lead to.

    Raises:
        ValueError: For a tensor that the shape's ``naming`` describes wrongly, or not at all.
    """
    built = shapes_of(module, module.shape)
    for plan in plans:
        assert isinstance(plan.after, Shape)
        table = f"{type(plan.before).__name__}.naming"
        places = {name: plan.before.naming.parse(name) for name in built}
        _check_sizes(plan, built, places, table)
        check_outputs(plan, places.values(), table)
        grown, built = grown_shapes(plan, built, places), shapes_of(module, plan.after)
        _check_grown(grown, built, plan, table)


def shapes_of(module: GrowableModule, shape: Shape) -> Shapes:
    """Names and shapes of the tensors that the module builds for a shape."""
    present = module.shape
    module.shape = shape
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            model = module.make_model()
    finally:
        module.shape = present
    return {f"model.{name}": tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def grown_shapes(plan: GrowthPlan, built: Shapes, places: Mapping[str, Place]) -> Shapes:
    """Names and shapes of the tensors that a growth makes of others."""
    for recipes in plan.recipes(places):
        built = {r.target.name: r.grown_shape(built[r.sources[0][0].name]) for r in recipes}
    return built


def _check_sizes(plan: GrowthPlan, built: Shapes, places: Mapping[str, Place], table: str) -> None:
    """A dimension of one axis that grows has as many entries as the shape says."""
    grows = {axis for step in plan.steps for axis in step.maps}
    for name, place in places.items():
        dimensions, shape = place.axes.dimensions, built[name]
        if len(dimensions) > len(shape):
            raise ValueError(f"{table} gives {name} {len(dimensions)} axes, and its shape is {list(shape)}")
        for dimension, length in zip(dimensions, shape, strict=False):
            axis = dimension.factors[0] if len(dimension.factors) == 1 else None
            if isinstance(axis, str) and axis in grows and (size := plan.before.size(axis, place.layer)) != length:
                raise ValueError(
                    f"{table} gives {name} of shape {list(shape)} the axis {axis} where it has {length} entries, and "
                    f"the model's {axis} is {size}"
                )


def _check_grown(grown: Shapes, wanted: Shapes, plan: GrowthPlan, table: str) -> None:
    what = f"the growth {plan.label}"
    for name, shape in wanted.items():
        if name not in grown:
            raise ValueError(
                f"{what} makes no {name}, which make_model gives the grown model: {table} does not say where the "
                f"layers are (layers={plan.before.naming.layers!r})"  # type: ignore[attr-defined]
            )
        if grown[name] != shape:
            raise ValueError(
                f"{what} makes {name} of shape {list(grown[name])}, and make_model gives it {list(shape)}: name all of "
                f"its axes in {table}"
            )
    for name in grown.keys() - wanted.keys():
        raise ValueError(f"{what} makes {name}, which make_model does not give the grown model")
