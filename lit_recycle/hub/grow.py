"""Grows a Hugging Face folder into another, streamed: no tensor is held longer than it takes to write it.

Each expert, or tensor without experts, is read once and written to all its places, with noise where the plan says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lit_recycle.growth.event import Depth, Width
from lit_recycle.growth.names import Place
from lit_recycle.growth.plan import GrowthPlan
from lit_recycle.hub.card import write_card
from lit_recycle.hub.plan import GROWTH_FILE, FolderGrowth, GrownTensor, plan_folder_growth
from lit_recycle.hub.reader import tensor_bytes
from lit_recycle.hub.stream import Part, Progress, Rewriting, Slice, Treatment, pour, rewriting
from lit_recycle.hub.writer import Spot, write_json


def grow_folder(
    source: str | Path,
    destination: str | Path,
    depth: Depth | None = None,
    width: Width | None = None,
    *,
    seed: int = 0,
    dtype: str | None = None,
    max_shard_size: str | int = "5GB",
    progress: Progress = lambda nbytes: None,
) -> FolderGrowth:
    """Grow the model in a Hugging Face folder into a new folder that ``transformers`` loads.

    Args:
        source: Folder with ``config.json`` and safetensors, of a family in ``lit-recycle families``.
        destination: Folder to be written; must not exist. It appears when all of it is written.
        depth: Growth in depth, if any.
        width: Growth in width, if any.
        seed: Seed of the noise on duplicated experts.
        dtype: Type to convert weights to: ``float32``, ``float16`` or ``bfloat16``.
        max_shard_size: Size of a safetensors file, as in ``5GB``.
        progress: Called with the number of bytes written.

    Raises:
        ValueError: For whatever stands in the way, before the first byte is written.
    """
    growth = plan_folder_growth(source, depth, width, seed=seed, dtype=dtype)
    write_grown(growth, destination, max_shard_size=max_shard_size, progress=progress)
    return growth


def write_grown(
    growth: FolderGrowth,
    destination: str | Path,
    *,
    max_shard_size: str | int = "5GB",
    progress: Progress = lambda nbytes: None,
) -> None:
    """Carry out a planned growth; see :func:`grow_folder`."""
    specs = [tensor.spec for tensor in growth.tensors]
    with rewriting(growth.source, destination, specs, max_shard_size) as new:
        pour(_parts(growth, new, progress), progress)
        write_json(new.folder / "config.json", growth.config)
        write_json(new.folder / GROWTH_FILE, {"growths": [*growth.history, growth.record()]})
        write_card(growth, new.folder)


def _parts(growth: FolderGrowth, new: Rewriting, progress: Progress) -> Iterator[Part]:
    plan = growth.plan
    for tensor in growth.tensors:
        place, dtype = tensor.place, tensor.spec.dtype
        source, spot = new.sources[tensor.source], new.files[tensor.spec.name]
        if place.layer is None:
            yield Part(source, dtype, spot)
        elif plan.zero_output and place.role.output and plan.is_layer_copy(place.layer):
            progress(tensor.spec.nbytes)  # a new file is zero where nothing was written
        elif place.role.balance and plan.grows_experts(place.layer):
            yield Part(source, dtype, spot, _grow_bias(plan, place))
        else:
            for expert, piece in _by_expert(growth, tensor, source):
                yield Part(piece, dtype, spot, _noise(plan, place, expert))
                spot = Spot(spot.file, spot.offset + tensor_bytes(dtype, piece.shape))


def _grow_bias(plan: GrowthPlan, place: Place) -> Treatment:
    from lit_recycle.growth.engine import grow_tensor

    return lambda bias: grow_tensor(plan, place, bias.flatten())


def _noise(plan: GrowthPlan, place: Place, expert: int | None) -> Treatment | None:
    assert place.layer is not None
    if plan.noise == 0 or expert is None or not place.role.matrices or not plan.is_expert_copy(place.layer, expert):
        return None
    from lit_recycle.growth.noise import disturb

    return lambda values: disturb(plan, place, expert, values)


def _by_expert(growth: FolderGrowth, tensor: GrownTensor, source: Slice) -> Iterator[tuple[int | None, Slice]]:
    """The parts of a grown tensor in order, each with its expert of the grown model."""
    place, plan = tensor.place, growth.plan
    assert place.layer is not None
    if not (place.role.expert_axis and plan.grows_experts(place.layer)):
        yield place.expert, source
        return
    row = source._replace(shape=source.shape[1:])
    for expert, origin in enumerate(plan.experts[place.layer]):
        yield expert, row._replace(offset=source.offset + origin * row.nbytes)
