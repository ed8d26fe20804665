"""Tensor names taken apart: prefix, layer, expert, and the axes that a table gives the tensor. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from lit_recycle.growth.axes import UNKNOWN, TensorAxes, parse_axes


class Place(NamedTuple):
    """A tensor's name, taken apart: ``prefix.layer.suffix``, where ``{e}`` in the suffix stands for the expert.

    Outside of the layers ``layer`` is None and the suffix is the whole name.
    """

    prefix: str
    layer: int | None
    suffix: str
    expert: int | None
    axes: TensorAxes
    number: int | None = None
    """Of a layer of a stack of its own behind the others, which keeps its number whatever becomes of them."""
    model: int = 0
    """The model that it is in, where there are several to take from."""

    @property
    def name(self) -> str:
        """The whole name; of the second model and later ones with the model's number in front."""
        return f"{self.model}:{self.own_name}" if self.model else self.own_name

    @property
    def own_name(self) -> str:
        """The whole name, within its model."""
        suffix = self.suffix if self.expert is None else self.suffix.replace("{e}", str(self.expert))
        number = self.layer if self.number is None else self.number
        return suffix if self.layer is None else f"{self.prefix}.{number}.{suffix}"

    @property
    def is_routed(self) -> bool:
        """Whether it belongs to an expert, or to all of them."""
        return self.expert is not None or self.axes.expert_dimension is not None

    def at(self, layer: int, expert: int | None) -> Place:
        """The same tensor of another layer and expert."""
        # Not `_replace`, which takes thrice as long: a large model has a hundred thousand tensors.
        return Place(self.prefix, layer, self.suffix, expert, self.axes, self.number, self.model)

    def within(self, model: int, layer: int | None) -> Place:
        """The same tensor of another model and layer."""
        if model == self.model and layer == self.layer:
            return self
        return Place(self.prefix, layer, self.suffix, self.expert, self.axes, self.number, model)

    def renamed(self, suffix: str, axes: TensorAxes) -> Place:
        """Another tensor of the same layer."""
        return self._replace(suffix=suffix, axes=axes)


@dataclass(frozen=True)
class Naming:
    """How a family of models names its tensors. All parts are matched whole, so layer 3 and expert 3 never mix.

    Args:
        layers: Regular expression of what stands before a layer's index.
        axes: Axis strings (see :mod:`lit_recycle.growth.axes`) by the suffix after the layer's index, in which
            ``{e}`` stands for an expert's index.
        others: Axis strings of the tensors outside of the layers, by name; a leading ``model.`` or the like may be left
            out.
        inside: What stands before all names, where the model is part of another module.
        tail: Regular expression of what stands before the index of a layer for multi-token prediction, where these are
            a stack of their own; empty where they follow the last layer.
        num_layers: Number of layers before those of the tail.
    """

    layers: str
    axes: Mapping[str, str]
    others: Mapping[str, str] = field(default_factory=dict)
    inside: str = ""
    tail: str = ""
    num_layers: int = 0

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(rf"(?P<prefix>{self.layers})\.(?P<layer>\d+)\.(?P<suffix>.+)")

    @cached_property
    def _tail_pattern(self) -> re.Pattern[str]:
        return re.compile(rf"(?P<prefix>{self.tail})\.(?P<layer>\d+)\.(?P<suffix>.+)")

    @cached_property
    def _parsed(self) -> dict[str, TensorAxes]:
        return {suffix: parse_axes(text) for suffix, text in self.axes.items()}

    def is_layer(self, module: str) -> bool:
        """Whether a module of this name is a whole layer."""
        return re.fullmatch(rf"{re.escape(self.inside)}(?:{self.layers})\.\d+", module) is not None

    def axes_of(self, suffix: str) -> TensorAxes:
        """The axes of a layer's tensor; :data:`UNKNOWN` where the table has none."""
        return self._parsed.get(suffix, UNKNOWN)

    def bare(self, name: str) -> str:
        """The name of a tensor outside of the layers, without the modules that a language model is kept in."""
        return re.sub(r"^(?:(?:model|language_model|backbone)\.)+", "", name.removeprefix(self.inside))

    def parse(self, name: str) -> Place:
        """A name, taken apart; of one that was asked for before, what was found then."""
        found = self._places.get(name)
        if found is None:
            found = self._places[name] = self._parse(name)
        return found

    @cached_property
    def _places(self) -> dict[str, Place]:
        return {}

    def _parse(self, name: str) -> Place:
        own, number, first = name.removeprefix(self.inside), None, 0
        match = self._pattern.fullmatch(own)
        if match is None and self.tail and (match := self._tail_pattern.fullmatch(own)):
            number, first = int(match["layer"]), self.num_layers
        if match is None:
            text = self.others.get(own) or self.others.get(self.bare(name))
            return Place("", None, name, None, parse_axes(text) if text else UNKNOWN)
        suffix, expert = match["suffix"], None
        if found := re.search(r"(?<=\bexperts\.)\d+(?=\.)", suffix):
            expert = int(found[0])
            suffix = suffix[: found.start()] + "{e}" + suffix[found.end() :]
        prefix = name[: len(name) - len(own)] + match["prefix"]
        return Place(prefix, first + int(match["layer"]), suffix, expert, self.axes_of(suffix), number)
