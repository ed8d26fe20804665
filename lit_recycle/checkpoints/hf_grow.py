"""Grows a Hugging Face folder into another, streamed: no tensor is held longer than it takes to write it.

What a growth only copies goes from file to file inside the kernel; what it changes is read, treated and written expert
by expert, on all cores.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lit_recycle.checkpoints.card import write_card
from lit_recycle.checkpoints.hf_plan import GROWTH_FILE, FolderGrowth, GrownTensor, plan_folder_growth
from lit_recycle.checkpoints.reader import tensor_bytes
from lit_recycle.checkpoints.stream import TORCH, Progress, Slice, Sources, copy, in_parallel, write
from lit_recycle.checkpoints.writer import (
    ShardFiles,
    Spot,
    copy_side_files,
    lay_out,
    new_folder,
    parse_size,
    write_json,
)
from lit_recycle.growth.engine import disturb, grow_tensor
from lit_recycle.growth.event import Depth, Width


def grow_folder(
    source: str | Path,
    destination: str | Path,
    depth: Depth | None = None,
    width: Width | None = None,
    *,
    seed: int = 0,
    dtype: str | None = None,
    max_shard_size: str | int = "5GB",
    progress: Progress | None = None,
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
    progress: Progress | None = None,
) -> None:
    """Carry out a planned growth; see :func:`grow_folder`."""
    shards = lay_out([tensor.spec for tensor in growth.tensors], parse_size(max_shard_size))
    with new_folder(Path(destination).expanduser(), sum(shard.nbytes for shard in shards)) as folder:
        with ShardFiles(folder, shards) as files, Sources(growth.source.paths) as sources:
            _write_all(growth, sources, files, progress or (lambda nbytes: None))
        write_json(folder / "config.json", growth.config)
        write_json(folder / GROWTH_FILE, {"growths": [*growth.history, growth.record()]})
        write_card(growth, folder)
        copy_side_files(growth.source.path, folder)


def _write_all(growth: FolderGrowth, sources: Sources, files: ShardFiles, progress: Progress) -> None:
    def write_one(tensor: GrownTensor) -> None:
        _write_tensor(growth, tensor, sources, files[tensor.spec.name])
        progress(tensor.spec.nbytes)

    in_parallel(write_one, growth.tensors)


def _write_tensor(growth: FolderGrowth, tensor: GrownTensor, sources: Sources, spot: Spot) -> None:
    plan, place, dtype = growth.plan, tensor.place, tensor.spec.dtype
    source = sources.whole(tensor.source)
    if place.layer is None:
        copy(source, dtype, spot)
    elif plan.zero_output and place.role.output and plan.is_layer_copy(place.layer):
        return  # a new file is zero where nothing was written
    elif place.role.balance and plan.grows_experts(place.layer):
        grown = grow_tensor(plan, place, source.read().flatten())
        write(grown, dtype, spot)
    else:
        noisy = plan.noise > 0 and place.role.matrices
        for expert, piece in _by_expert(growth, tensor, source):
            if noisy and expert is not None and plan.is_expert_copy(place.layer, expert):
                values = piece.read().to(TORCH[dtype])
                disturb(plan, place, expert, values)
                write(values, dtype, spot)
            else:
                copy(piece, dtype, spot)
            spot = Spot(spot.file, spot.offset + piece.nbytes * tensor.spec.nbytes // _grown_bytes(tensor))


def _grown_bytes(tensor: GrownTensor) -> int:
    """Bytes of the grown tensor in the source's type."""
    return tensor_bytes(tensor.source.dtype, tensor.spec.shape)


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
