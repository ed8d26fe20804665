"""Tensors of a Hugging Face folder as transformers holds them in memory: found by their axes, joined when asked for.

A folder has a tensor for each expert and matrix, or one for all; transformers has one for all. Which belongs to which
follows from the family's axis strings: same layer, same matrices, same inner axis.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import NamedTuple

from torch import Tensor

from lit_recycle.growth.axes import EXPERTS, UNKNOWN, TensorAxes
from lit_recycle.growth.engine import stacked
from lit_recycle.growth.names import Place
from lit_recycle.hub.folder_tensors import FolderTensors
from lit_recycle.hub.joined import Joined, Value
from lit_recycle.hub.reader import HFFolder
from lit_recycle.hub.shape import INSIDE, HubShape


class _Matrix(NamedTuple):
    """A matrix of a layer, whichever tensor holds it: routed experts, a shared one and a dense network have others."""

    layer: int | None
    matrix: str
    inner: frozenset[str]

    @classmethod
    def all_of(cls, place: Place) -> list[_Matrix]:
        inner = place.axes.names & {"F", "S", "I"}
        return [cls(place.layer, matrix, inner) for matrix in place.axes.matrices]


class InMemory(Mapping[str, Value]):
    """What a folder gives a model in memory, by name within the LightningModule; read when it is needed.

    Args:
        folder: The folder.
        shape: The model.
        tensors: The folder's tensors, where they are not to be taken as they are.
    """

    def __init__(self, folder: HFFolder, shape: HubShape, tensors: Mapping[str, Tensor] | None = None) -> None:
        self.folder, self.shape, self.tensors = folder, shape, tensors or FolderTensors(folder)

    @cached_property
    def _places(self) -> dict[str, Place]:
        return {name: self.shape.naming.parse(f"{INSIDE}{name}") for name in self.tensors}

    @cached_property
    def _by_place(self) -> dict[tuple[int | None, str], str]:
        """Names by layer and suffix, whatever stands before the layers."""
        places = self._places.items()
        return {(place.layer, self._suffix(place)): name for name, place in places if place.expert is None}

    def _suffix(self, place: Place) -> str:
        return place.suffix if place.layer is not None else self.shape.naming.bare(place.suffix)

    @cached_property
    def _outside(self) -> dict[TensorAxes, list[str]]:
        """Names outside of the layers by axes: an output layer is one by whatever name."""
        found: dict[TensorAxes, list[str]] = defaultdict(list)
        for name, place in self._places.items():
            if place.layer is None and place.axes != UNKNOWN:
                found[place.axes].append(name)
        return found

    @cached_property
    def _by_matrix(self) -> dict[_Matrix, list[str]]:
        """The tensors that hold a matrix, those of single experts in order."""
        found: dict[_Matrix, list[tuple[int, str]]] = defaultdict(list)
        for name, place in self._places.items():
            for matrix in _Matrix.all_of(place):
                found[matrix].append((place.expert or 0, name))
        return {matrix: [name for _, name in sorted(named)] for matrix, named in found.items()}

    def __getitem__(self, name: str) -> Value:
        place = self.shape.naming.parse(name)
        if found := self._by_place.get((place.layer, self._suffix(place))):
            return self.tensors[found]
        if place.axes.names == {"V", "D"} and self.shape.config.get("tie_word_embeddings"):
            return self[f"{INSIDE}model.embed_tokens.weight"]
        if len(alike := self._outside.get(place.axes, [])) == 1 and place.layer is None:
            return self.tensors[alike[0]]
        sources = [self._by_matrix.get(matrix, []) for matrix in _Matrix.all_of(place)]
        if not sources or not all(sources):
            raise ValueError(
                f"{self.folder.path} holds no {name.removeprefix(INSIDE)}, and nothing that it is made of: fetch the "
                f"folder again, or complete the axes of {self.shape.config['model_type']}"
            )
        if all(names == sources[0] for names in sources) and len(sources[0]) == 1:
            return self.tensors[sources[0][0]]
        return self._joined(place, sources)

    def _joined(self, place: Place, sources: Sequence[Sequence[str]]) -> Value:
        """Of the tensors of the single matrices, and of the single experts."""
        experts = [partial(self._stacked, names, place) for names in zip(*sources, strict=True)]
        return Joined(experts, stacked=True) if EXPERTS in place.axes.names else experts[0]()

    def _stacked(self, names: Sequence[str], target: Place) -> Value:
        """The matrices of one expert."""
        stack = target.axes.cell.stack
        if stack is None or stack[1]:
            return stacked([self._turned(name, target) for name in names], stack)
        return Joined([partial(self._turned, name, target) for name in names], stack[0])

    def _turned(self, name: str, target: Place) -> Tensor:
        """A matrix, transposed where the two have its axes in different orders."""
        own = [_letters(d.factors) for d in self._places[name].axes.dimensions]
        wanted = [_letters(d.factors) for d in target.axes.cell.dimensions]
        return self.tensors[name].mT if own == wanted[::-1] and own != wanted else self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.shape.parameters)

    def __len__(self) -> int:
        return len(self.shape.parameters)


def _letters(factors: Sequence[str | tuple[str, ...]]) -> list[str]:
    return [factor for factor in factors if isinstance(factor, str)]
