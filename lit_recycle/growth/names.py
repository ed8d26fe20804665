"""What the name of a tensor says: its layer, its expert, and what it is to a growth."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from lit_recycle.growth.plan import GrowthPlan


@dataclass(frozen=True)
class Role:
    """What growth must know of a tensor besides its place.

    Args:
        expert_axis: The first axis runs over experts.
        matrices: Names of the matrices per expert that noise is drawn for; several are stacked on the axis
            after the expert's. Empty for tensors that get no noise.
        interleaved: Several matrices alternate along the last axis instead (gpt-oss).
        output: An output projection into the residual stream, zeroed in copies on request.
        balance: A balancing bias or counter.
    """

    expert_axis: bool = False
    matrices: tuple[str, ...] = ()
    interleaved: bool = False
    output: bool = False
    balance: bool = False


@dataclass(frozen=True)
class Place:
    """A tensor's name, taken apart: ``prefix.layer.suffix``, where ``{e}`` in the suffix stands for the expert."""

    prefix: str
    layer: int | None
    suffix: str
    expert: int | None
    role: Role

    @property
    def name(self) -> str:
        suffix = self.suffix if self.expert is None else self.suffix.replace("{e}", str(self.expert))
        return suffix if self.layer is None else f"{self.prefix}.{self.layer}.{suffix}"

    def source(self, plan: GrowthPlan) -> Place:
        """Where this place of the grown model comes from."""
        if self.layer is None:
            return self
        expert = None if self.expert is None else plan.experts[self.layer][self.expert]
        return self.at(plan.layers[self.layer], expert)

    def at(self, layer: int, expert: int | None) -> Place:
        """The same tensor of another layer and expert; `dataclasses.replace` takes five times as long."""
        return Place(self.prefix, layer, self.suffix, expert, self.role)


@dataclass(frozen=True)
class Naming:
    """How a family of models names its tensors. All parts are matched whole, so layer 3 and expert 3 never mix.

    Args:
        layers: Regular expression of what stands before a layer's index.
        roles: Suffixes after the layer's index (``{e}`` for the expert's index) that are more than plain tensors.
    """

    layers: str
    roles: Mapping[str, Role]

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(rf"(?P<prefix>{self.layers})\.(?P<layer>\d+)\.(?P<suffix>.+)")

    def parse(self, name: str) -> Place:
        match = self._pattern.fullmatch(name)
        if match is None:
            return Place("", None, name, None, Role())
        suffix, expert = match["suffix"], None
        if found := re.search(r"(?<=\bexperts\.)\d+(?=\.)", suffix):
            expert = int(found[0])
            suffix = suffix[: found.start()] + "{e}" + suffix[found.end() :]
        return Place(match["prefix"], int(match["layer"]), suffix, expert, self.roles.get(suffix, Role()))

    def grown(self, plan: GrowthPlan, names: Iterable[str]) -> Iterator[Place]:
        """The places of the grown model, in the source's order: layers where the first layer stood."""
        places = [self.parse(name) for name in names]
        layers: dict[int, list[Place]] = {}
        for place in places:
            if place.layer is not None:
                layers.setdefault(place.layer, []).append(place)
        done = False
        for place in places:
            if place.layer is None:
                yield place
            elif not done:
                done = True
                for j, source in enumerate(plan.layers):
                    yield from _grown_layer(plan, j, layers.get(source, []))


def _grown_layer(plan: GrowthPlan, layer: int, places: list[Place]) -> Iterator[Place]:
    grown_from: dict[int, list[int]] = {}
    for e, source in enumerate(plan.experts[layer]):
        grown_from.setdefault(source, []).append(e)
    for place in places:
        if place.expert is None:
            yield place.at(layer, None)
        else:
            for e in grown_from.get(place.expert, ()):
                yield place.at(layer, e)


NATIVE = Naming(
    layers=r"(?:model\.)?layers",
    roles={
        "attn.o_proj.weight": Role(output=True),
        "mlp.down.weight": Role(output=True),
        "moe.shared.down.weight": Role(output=True),
        "moe.experts.gate_up": Role(expert_axis=True, matrices=("gate", "up")),
        "moe.experts.down": Role(expert_axis=True, matrices=("down",), output=True),
        "moe.router.weight": Role(expert_axis=True, matrices=("router",)),
        "moe.router.balance_bias": Role(expert_axis=True, balance=True),
    },
)
"""The names of this project's own model, bare or inside its LightningModule."""
