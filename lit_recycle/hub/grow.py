"""Growth of a Hugging Face folder into another, streamed: no tensor is held longer than it takes to write it.

Each expert, or tensor without experts, is read once and written to all its places, with what the operators do to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lit_recycle.destination import check_room
from lit_recycle.growth.event import Form
from lit_recycle.growth.names import Place
from lit_recycle.growth.recipe import Recipe
from lit_recycle.growth.treatments import Treatment, Zero
from lit_recycle.hub.card import write_card
from lit_recycle.hub.family import Family
from lit_recycle.hub.measure import folder_facts
from lit_recycle.hub.plan import GROWTH_FILE, FolderGrowth, GrownTensor, plan_folder_growth
from lit_recycle.hub.reader import open_folder, tensor_bytes
from lit_recycle.hub.stream import Part, Progress, Rewriting, Slice, pour, rewriting
from lit_recycle.hub.writer import SHARD_SIZE, Spot, write_json

if TYPE_CHECKING:
    from torch import Tensor


def grow_folder(
    source: str | Path,
    destination: str | Path,
    *forms: Form,
    seed: int = 0,
    dtype: str | None = None,
    max_shard_size: str | int = SHARD_SIZE,
    maps: Sequence[Mapping[str, Any]] | None = None,
    family: Family | None = None,
    others: Sequence[str | Path] = (),
    checksums: str | Path | None = None,
    progress: Progress = lambda nbytes: None,
) -> FolderGrowth:
    """Grow the model in a Hugging Face folder into a new folder that ``transformers`` loads.

    Args:
        source: Folder with ``config.json`` and safetensors, of a family in ``lit-recycle families``.
        destination: Folder to be written; must not exist. It appears when all of it is written.
        *forms: Operators, or their short forms, one after the other.
        seed: Seed of all that is random.
        dtype: Type to convert weights to: ``float32``, ``float16`` or ``bfloat16``.
        max_shard_size: Size of a safetensors file, as in ``5GB``.
        maps: Maps that another growth has recorded, for operators that choose by what only a run knows.
        family: The folder's family (``family_file.read_family``); that of its ``model_type`` when not given.
        others: Further folders that the growth takes from (:class:`BranchTrainMix`).
        checksums: A file with the SHA-256 of the source's files; those that the folder has itself when not given.
        progress: Called with the number of bytes written.

    Raises:
        ValueError: For whatever stands in the way, before the first byte is written; for a source that turns out to be
            damaged, with nothing left of what was written.
    """
    folder = open_folder(source, checksums)
    growth = plan_folder_growth(
        folder,
        *forms,
        seed=seed,
        dtype=dtype,
        facts=folder_facts(folder, dtype),
        maps=maps,
        family=family,
        others=others,
        expect=partial(check_room, Path(destination), at_least=True),
    )
    write_grown(growth, destination, max_shard_size=max_shard_size, progress=progress)
    return growth


def write_grown(
    growth: FolderGrowth,
    destination: str | Path,
    *,
    max_shard_size: str | int = SHARD_SIZE,
    progress: Progress = lambda nbytes: None,
) -> None:
    """Carry out a planned growth; see :func:`grow_folder`."""
    specs = [tensor.spec for tensor in growth.tensors]
    with rewriting(growth.source, destination, specs, max_shard_size, growth.others) as new:
        pour(_parts(growth, new, progress), progress)
        write_json(new.folder / "config.json", growth.config)
        write_json(new.folder / GROWTH_FILE, {"growths": [*growth.history, growth.record()]})
        write_card(growth, new.folder)


class Made(NamedTuple):
    """Something that is computed: a recipe and what its sources are, stored or computed themselves.

    ``by_element``: each element is made of those in its place, as in a weighted sum.
    """

    recipe: Recipe
    sources: tuple[Slice | Made, ...]
    by_element: bool

    def leaves(self) -> Iterator[Slice]:
        """What is read for it, in order."""
        for source in self.sources:
            if isinstance(source, Made):
                yield from source.leaves()
            else:
                yield source

    def make(self, stored: Sequence[Tensor]) -> Tensor:
        """Carry it out on the tensors of its leaves, which may be changed."""
        return self._carry_out(iter(stored))

    def _carry_out(self, stored: Iterator[Tensor]) -> Tensor:
        from lit_recycle.growth.carry_out import Grown
        from lit_recycle.growth.engine import grow_weight

        sources = [source._carry_out(stored) if isinstance(source, Made) else next(stored) for source in self.sources]
        return grow_weight(self.recipe, [Grown(tensor, True) for tensor in sources]).value


def _parts(growth: FolderGrowth, new: Rewriting, progress: Progress) -> Iterator[Part]:
    for tensor in growth.tensors:
        spot, dtype = new.files[tensor.spec.name], tensor.spec.dtype
        for recipe, shape in _units(tensor):
            nbytes = tensor_bytes(dtype, shape)
            treatments = tuple(recipe.treatments(recipe.target.expert))
            if treatments == (Zero(),):
                progress(nbytes)  # a new file is zero where nothing was written
            else:
                made = _trace(growth, new, recipe, treatments, len(growth.between))
                if isinstance(made, Slice):
                    yield Part((made,), dtype, spot)
                else:
                    yield Part(tuple(made.leaves()), dtype, spot, made.make, made.by_element)
            spot = Spot(spot.file, spot.offset + nbytes)


def _units(tensor: GrownTensor) -> Iterator[tuple[Recipe, tuple[int, ...]]]:
    """A tensor expert by expert where experts come first, so that each is read once; otherwise as a whole."""
    recipe, shape = tensor.recipe, tensor.spec.shape
    experts = recipe.experts()
    if experts is None or recipe.target.axes.expert_dimension != 0 or len(shape) < 2:
        yield recipe, shape
        return
    for expert in experts:
        yield recipe.part(expert), shape[1:]


def _trace(
    growth: FolderGrowth, new: Rewriting, recipe: Recipe, treatments: Sequence[Treatment], level: int
) -> Slice | Made:
    """What a tensor or an expert's part of one is made of, down to the bytes of the source."""
    sources = tuple(_source(growth, new, place, level) for place, _ in recipe.sources)
    if recipe.shape is not None:  # its source gives no more than a type
        return Made(recipe, (_empty(sources[0]),), False)
    stays = recipe.keeps_places and not treatments
    if stays and len(sources) == 1:
        return sources[0]
    return Made(recipe, sources, stays and all(isinstance(s, Slice) or s.by_element for s in sources))


def _empty(source: Slice | Made) -> Slice:
    """Nothing of what is read first for a source."""
    first = source if isinstance(source, Slice) else next(source.leaves())
    return first._replace(shape=(0,))


def _source(growth: FolderGrowth, new: Rewriting, place: Place, level: int) -> Slice | Made:
    name = place.name
    if level:
        recipe = growth.between[level - 1][name]
        fused = recipe.target.axes.expert_dimension is not None and place.axes.expert_dimension is None
        if fused:
            assert place.expert is not None
            recipe = recipe.part(place.expert)
        return _trace(growth, new, recipe, recipe.treatments(recipe.target.expert), level - 1)
    stored = new.sources[growth.stored(place)]
    if place.expert is None or "{e}" in place.suffix:
        return stored
    row = stored._replace(shape=stored.shape[1:])
    return row._replace(offset=stored.offset + place.expert * row.nbytes)
