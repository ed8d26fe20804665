"""Growth plans: what a list of operators makes of a model, worked out from shapes. No torch.

Operators follow each other: the second one grows the model that the first one has made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lit_recycle.growth.facts import Facts, Unmeasured
from lit_recycle.growth.names import Place
from lit_recycle.growth.operator import Change, GrowableModel, Operator
from lit_recycle.growth.recipe import Recipe, Step
from lit_recycle.growth.sources import AXIS_NAMES, AxisMap, SourceMap


@dataclass(frozen=True)
class GrowthPlan:
    """A growth of a model: one or several operators in a row."""

    steps: tuple[Step, ...]

    @property
    def before(self) -> GrowableModel:
        return self.steps[0].before

    @property
    def after(self) -> GrowableModel:
        return self.steps[-1].after

    @property
    def preserves(self) -> bool:
        """Whether the grown model computes what the model did, up to rounding."""
        return all(step.operator.preserves(step.before) for step in self.steps)

    @property
    def label(self) -> str:
        return " and ".join(step.operator.label(step.before, step.after) for step in self.steps)

    def recipes(self, names: Iterable[str]) -> list[list[Recipe]]:
        """For each step the recipes of the tensors that it makes, from the names of the model's tensors.

        They are worked out once; nobody changes the lists.
        """
        key = tuple(names)
        if key not in self._made:
            levels, made = [], [self.before.naming.parse(name) for name in key]
            for step in self.steps:
                levels.append(list(step.recipes(made)))
                made = [recipe.target for recipe in levels[-1]]
            self._made[key] = levels
        return self._made[key]

    @cached_property
    def _made(self) -> dict[tuple[str, ...], list[list[Recipe]]]:
        return {}

    def origins(self, names: Iterable[str]) -> dict[str, str]:
        """For each tensor of the grown model the one of the model that it comes from, the first of several."""
        names = list(names)
        found = dict(zip(names, names, strict=True))
        for level in self.recipes(names):
            found = {recipe.target.name: found[recipe.sources[0][0].name] for recipe in level}
        return found

    def parameters(self, names: Iterable[str]) -> list[str]:
        """Names of the grown model's parameters, from those of the model."""
        targets = [recipe.target for recipe in self.recipes(names)[-1]]
        return [place.name for place in targets if not place.axes.is_buffer]

    def drawn(self, names: Iterable[str]) -> list[tuple[int, str]]:
        """Layer and suffix of the grown model's parameters in which nothing of the model's tensors is left.

        Those of copied layers are not among them: a map says already that they are new.
        """
        found: dict[str, Place] = {}
        for level in self.recipes(names):
            copies = level[0].step.sources.layer_copies if level else ()
            found = {
                r.target.name: r.target
                for r in level
                if r.target.layer is not None
                and (r.sources[0][0].name in found or (not copies[r.target.layer] and r.is_drawn))
            }
        places = [place for place in found.values() if not place.axes.is_buffer]
        return sorted((place.layer, place.suffix) for place in places if place.layer is not None)

    @property
    def is_elementwise(self) -> bool:
        """Whether each grown tensor has the shape of its sources and is treated as a whole: layers alone are mapped."""
        return not any(step.maps or not step.operator.is_elementwise for step in self.steps)

    def listing(self) -> Iterator[tuple[str, AxisMap]]:
        """What is mapped and how, for people."""
        for step in self.steps:
            yield from step.sources.listing()

    def maps(self) -> list[dict[str, Any]]:
        """The map of each operator in plain types, as a checkpoint records it."""
        return [step.sources.to_dict() for step in self.steps]


def plan_growth(
    model: GrowableModel,
    operators: Sequence[Operator],
    *,
    seed: int = 0,
    event: int = 0,
    facts: Callable[[GrowableModel], Facts] = lambda model: Facts(),
    maps: Sequence[Mapping[str, Any]] | None = None,
    models: int = 1,
) -> GrowthPlan:
    """Plan a growth.

    Args:
        model: The model.
        operators: What is done to it, one after the other.
        seed: Seed of all that is random.
        event: Number of the growth in the life of the model, from 0.
        facts: What operators that choose by weights or by the run may ask for, for the model as it is.
        maps: Maps that :meth:`GrowthPlan.maps` has given for the same growth, instead of new ones.
        models: Number of models of this shape that the first operator takes from.

    Raises:
        ValueError: If an operator does not fit the model.
    """
    if maps is not None and len(maps) != len(operators):
        raise ValueError(f"{len(maps)} recorded maps do not belong to {len(operators)} operators")
    steps: list[Step] = []
    first = facts(model)
    for number, operator in enumerate(operators):
        try:
            if maps is None:
                sources = operator.sources(model, first.after(GrowthPlan(tuple(steps))) if steps else first)
            else:
                sources = _recorded(maps[number], operator.sources(model, Unmeasured(model)))
            _check_models(sources, 1 if steps else models)
            change = Change(model, operator.resized(model, sources), sources)
        except ValueError as error:
            raise ValueError(f"{type(operator).__name__}: {error}") from error
        steps.append(Step(operator, change, (seed, event, number)))
        model = change.after
    return GrowthPlan(tuple(steps))


def _check_models(sources: SourceMap, models: int) -> None:
    def said(number: int) -> str:
        return "one model" if number == 1 else f"{number} models"

    wanted = len(sources.models)
    if wanted > models:
        raise ValueError(
            f"it takes from {said(wanted)}, and there is one: mix folders of dense models first, before a run and "
            "before other operators, as `lit-recycle grow SRC DST --experts-from SRC2 …` does"
            if models == 1
            else f"it takes from {said(wanted)}, and there are {models}: SRC and each folder of --experts-from"
        )
    if wanted < models:
        raise ValueError(
            f"it takes from {said(wanted)}, and there are {models}: SRC and each folder of --experts-from; other "
            "operators follow the one that mixes them"
        )


def _recorded(values: Any, expected: SourceMap) -> SourceMap:
    """A recorded map, which must have the sizes of the one that would be made."""
    try:
        sources = SourceMap.from_dict(values)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"what is recorded is no map: {error!r}") from error
    a, b = _sizes(sources), _sizes(expected)
    outside = [i for i in sources.layers if not 0 <= i < sources.num_layers]
    if a != b or outside:
        wrong = next((f"{what} {a.get(what)} for {b.get(what)}" for what in (*b, *a) if a.get(what) != b.get(what)), "")
        raise ValueError(f"the recorded map is of another growth: {wrong or f'it names layers {outside}'}")
    return sources


def _sizes(sources: SourceMap) -> dict[str, Any]:
    """Entries before and after, of the layers and of each axis in each layer."""
    places: list[int | None] = [None, *range(len(sources.layers))]
    found: dict[str, Any] = {"layers": (sources.num_layers, len(sources.layers)), "models": len(sources.models)}
    for axis in sources.axes:
        maps = [sources.full_axis(axis, place) for place in places]
        found[AXIS_NAMES.get(axis, axis)] = [m and (m.size, m.grown_size) for m in maps]
    return found
