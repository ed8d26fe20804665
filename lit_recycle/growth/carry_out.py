"""Order in which the tensors of a grown model are made: one at a time, each source let go after its last use.

Of memory that several results could share the first one takes it, and the others a copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any, Generic, NamedTuple, TypeVar

from torch import Tensor

from lit_recycle.growth.plan import GrowthPlan
from lit_recycle.growth.recipe import Recipe

T = TypeVar("T")
G = TypeVar("G")


class Grown(NamedTuple):
    """A value and whether it is in memory of its own, which no source shares."""

    value: Any
    owned: bool


def own(grown: Grown, is_first: bool) -> Any:
    """The value, for the first who takes it; a copy of what others have already."""
    return grown.value if grown.owned or is_first or not isinstance(grown.value, Tensor) else grown.value.clone()


def carry_out(
    plan: GrowthPlan,
    sources: Mapping[str, T],
    enter: Callable[[T | None], G],
    make: Callable[[Recipe, list[G]], G],
) -> Iterator[tuple[str, G, bool]]:
    """Make everything that a plan has recipes for, one at a time.

    Args:
        plan: The plan.
        sources: What is grown, by name; entries leave it after their last use, where it can be changed.
        enter: Makes of an entry what ``make`` takes; of None where a source has no entry beside another that has.
        make: Carries out a recipe on what its sources give.

    Returns:
        For each tensor of the grown model its name, what was made, and whether it is the first that was made of the
        memory that it may share.
    """
    level: _Level[G] = _Sources(sources, enter)
    for number, recipes in enumerate(plan.recipes(sources)):
        level = _Step(number, recipes, level, make)
    seen: set[Hashable] = set()
    for name in level.names:
        grown, root = level.take(name)
        yield name, grown, root is not None and root not in seen
        seen.add(root)


class _Level(Generic[G]):
    """Named values that are handed out as often as the next level needs them."""

    names: list[str]

    def expect(self, names: Iterable[str]) -> None:
        """Say how often each value will be taken."""
        self.uses = Counter(names)

    def take(self, name: str) -> tuple[G, Hashable | None]:
        """A value, and whose memory it may share."""
        raise NotImplementedError


class _Sources(_Level[G]):
    def __init__(self, sources: Mapping[str, T], enter: Callable[[T | None], G]) -> None:
        self.sources, self.enter, self.names, self.uses = sources, enter, list(sources), Counter(list(sources))

    def take(self, name: str) -> tuple[G, Hashable | None]:
        self.uses[name] -= 1
        value = self.sources.get(name)
        if not self.uses[name] and isinstance(self.sources, MutableMapping):
            self.sources.pop(name, None)
        return self.enter(value), name


class _Step(_Level[G]):
    def __init__(
        self, number: int, recipes: list[Recipe], before: _Level[G], make: Callable[[Recipe, list[G]], G]
    ) -> None:
        self.number, self.before, self.make = number, before, make
        self.recipes = {recipe.target.name: recipe for recipe in recipes}
        self.names, self.uses = list(self.recipes), Counter(self.recipes.keys())
        self.kept: dict[str, tuple[G, Hashable | None]] = {}
        before.expect(place.name for recipe in recipes for place, _ in recipe.sources)

    def take(self, name: str) -> tuple[G, Hashable | None]:
        self.uses[name] -= 1
        if name in self.kept:
            return self.kept[name] if self.uses[name] else self.kept.pop(name)
        recipe = self.recipes.pop(name)
        taken = [self.before.take(place.name) for place, _ in recipe.sources]
        grown = self.make(recipe, [value for value, _ in taken])
        root = taken[0][1] if len(taken) == 1 else None
        if self.uses[name]:  # it is made once, and shared from now on
            grown, root = _shared(grown), (self.number, name)
            self.kept[name] = grown, root
        return grown, root


def _shared(grown: Any) -> Any:
    if isinstance(grown, Grown):
        return Grown(grown.value, False)
    return grown and {key: Grown(part.value, False) for key, part in grown.items()}
