"""Sharded checkpoints: a folder that any number of processes writes and any other number reads.

Beside the shards (``torch.distributed.checkpoint``) stands a file with all that is no tensor. Tensors are kept by name,
``state_dict/<parameter>``, ``optimizer_0/<parameter>/<key>`` and the like, so that a folder does not depend on the
strategy.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from lit_recycle.addresses import Place
from lit_recycle.checkpoints import processes
from lit_recycle.checkpoints.atomic import cannot_write, save, take_place
from lit_recycle.checkpoints.plain_reader import INDEX, METADATA, reader_of
from lit_recycle.checksums import checksums, verify_file
from lit_recycle.growth.optimizer import OptimizerState, ParamState

BACKGROUND = "lit-recycle: saves in the background"
"""Description of the process group in which shards are written while training goes on."""


CURRENT = "current_model_state"
"""Where a checkpoint has the weights in training, if an average of them is under ``state_dict``, as Lightning's
``WeightAveraging`` callbacks write it."""
WEIGHTS = ("state_dict", CURRENT)
"""What holds a tensor for each parameter and buffer."""
MASKS = "pruned"
"""Where a checkpoint has the masks of weights that are held at zero, for some parameters."""
NAMED = (*WEIGHTS, MASKS)
"""What holds tensors by the names of parameters."""


def split(checkpoint: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A checkpoint of named tensors as ``sharded`` keeps it: the tensors under flat names, and the rest."""
    rest = {k: v for k, v in checkpoint.items() if k not in (*NAMED, "optimizer_states")}
    tensors = {f"{kind}/{name}": t for kind in NAMED for name, t in checkpoint.get(kind, {}).items()}
    rest["optimizers"] = []
    for i, saved in enumerate(checkpoint.get("optimizer_states", [])):
        scalars: dict[str, ParamState] = {}
        for name, state in saved["state"].items():
            for key, value in state.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer_{i}/{name}/{key}"] = value
                else:
                    scalars.setdefault(name, {})[key] = value
        rest["optimizers"].append({"param_groups": saved["param_groups"], "scalars": scalars})
    return tensors, rest


def join(tensors: Mapping[str, Tensor], rest: Mapping[str, Any], index: int) -> OptimizerState:
    """The state of one optimizer, out of what ``split`` gave."""
    saved = rest["optimizers"][index]
    states = {name: dict(state) for name, state in saved["scalars"].items()}
    for name, tensor in tensors.items():
        kind, _, tail = name.partition("/")
        if kind == f"optimizer_{index}":
            parameter, _, key = tail.rpartition("/")
            states.setdefault(parameter, {})[key] = tensor
    return {"state": states, "param_groups": saved["param_groups"]}


def save_sharded(
    tensors: Mapping[str, Tensor], rest: dict[str, Any], path: Path, group: dist.ProcessGroup | None = None
) -> None:
    """Write a checkpoint from all processes at once; it takes its place when it is whole.

    Args:
        tensors: This process's tensors by name, sharded (``DTensor``) or equal on all processes.
        rest: Everything else, in plain types; that of the first process counts.
        path: The folder.
        group: All processes, in a group of their own where this is done beside training.
    """
    part, first = path.with_name(f".{path.name}.part"), processes.rank() == 0
    if first:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    processes.barrier(group)
    try:
        written = write_shards(tensors, part, path, group)
        if first:
            save(rest | {"checksums": written}, part / METADATA)
            take_place(part, path)
    except BaseException:
        if first:
            shutil.rmtree(part, ignore_errors=True)
        raise
    processes.barrier(group)


def write_shards(
    tensors: Mapping[str, Tensor], part: Path, path: Place, group: dist.ProcessGroup | None
) -> dict[str, tuple[int, str]]:
    """Write the shards of a checkpoint, and their index, into a folder that need not be the same for all processes.

    Returns:
        Size and checksum of every file; each process looks at its own, which it has in its page cache.
    """
    writer = dcp.FileSystemWriter(part)
    try:
        dcp.save(dict(tensors), storage_writer=writer, process_group=group, no_dist=not processes.is_distributed())
    except dcp.api.CheckpointException as error:
        cause = next(iter(error.failures.values()))[0]
        if not isinstance(cause, OSError | RuntimeError):  # a fault of a program, which deserves its traceback
            raise
        raise cannot_write(path) from error
    mine = [*part.glob(f"__{processes.rank()}_*"), *([part / INDEX] if processes.rank() == 0 else [])]
    return {name: found for files in processes.from_all(checksums(mine), group) for name, found in files.items()}


def sizes(path: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shape and type of every tensor of a sharded checkpoint, by name.

    Raises:
        ValueError: For a folder that is no whole checkpoint.
    """
    return _sizes(reader_of(path).read_metadata())


def _sizes(index: Metadata) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {
        name: (entry.size, entry.properties.dtype)
        for name, entry in index.state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata)
    }


def holds(path: Path, kind: str) -> bool:
    """Whether a sharded checkpoint has weights of a kind."""
    return any(name.startswith(f"{kind}/") for name in sizes(path))


def verify(path: Path, written: Mapping[str, tuple[int, str]], shards: bool) -> None:
    """Hold the files of a folder against their checksums; where there are several processes each takes its share.

    Args:
        path: The folder.
        written: Size and checksum of each file, as its ``meta.pt`` says.
        shards: Also read the shards, and not only the index.

    Raises:
        ValueError: On all processes, for a file that is missing, cut off or damaged.
    """
    problems = []
    for number, (name, (size, checksum)) in enumerate(sorted(written.items())):
        mine = name == INDEX or (shards and number % processes.world_size() == processes.rank())
        try:
            verify_file(path / name, size, checksum if mine else None)
        except ValueError as error:
            problems.append(str(error))
    everyones = processes.from_all(problems) if shards else [problems]
    for problem in (problem for problems in everyones for problem in problems):
        raise ValueError(problem)


def load_sharded(
    tensors: dict[str, Tensor], path: Path, alone: bool = False, reader: dcp.FileSystemReader | None = None
) -> None:
    """Read into ``tensors``, in place, each process its own shards; keys are names in the checkpoint.

    With ``alone`` this process reads for itself, and the others need not take part. A ``reader`` knows the index.

    Raises:
        ValueError: For missing tensors or shards, or shapes that do not fit.
    """
    reader = reader or reader_of(path)
    found = _sizes(reader.read_metadata())
    for name, tensor in tensors.items():
        if name not in found:
            raise ValueError(f"{path} holds no {name}: it is a checkpoint of another model or optimizer")
        if found[name][0] != tensor.shape:
            raise ValueError(f"{name} is {tuple(found[name][0])} in {path}, and {tuple(tensor.shape)} in the model")
    try:
        dcp.load(tensors, storage_reader=reader, no_dist=alone or not processes.is_distributed())
    except dcp.api.CheckpointException as error:
        cause = next(iter(error.failures.values()))[0]
        raise ValueError(f"{path} cannot be read, a shard is missing or damaged: {cause}") from error


def load_whole(path: Path, scratch: Path | None = None) -> dict[str, Tensor]:
    """All tensors of a sharded checkpoint, read by this process alone: in memory, or in files under ``scratch``."""
    tensors = {}
    for number, (name, (shape, dtype)) in enumerate(sizes(path).items()):
        if scratch is None or not shape.numel():
            tensors[name] = torch.empty(shape, dtype=dtype)
        else:
            file = str(scratch / str(number))
            tensors[name] = torch.from_file(file, shared=True, size=shape.numel(), dtype=dtype).view(shape)
    load_sharded(tensors, path, alone=True)
    return tensors


class Stored(Mapping[str, Tensor]):
    """Weights of a checkpoint by parameter, each read when it is asked for, by this process alone.

    Args:
        path: A sharded checkpoint.
        kind: Which weights.

    Raises:
        ValueError: For a folder that is no whole checkpoint.
    """

    def __init__(self, path: Path, kind: str = WEIGHTS[0]) -> None:
        self.path, self.kind, self._reader = path, kind, reader_of(path)
        self._sizes = {n.removeprefix(f"{kind}/"): s for n, s in sizes(path).items() if n.startswith(f"{kind}/")}

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.like(name, "cpu")
        load_sharded({f"{self.kind}/{name}": tensor}, self.path, alone=True, reader=self._reader)
        return tensor

    def like(self, name: str, device: str = "meta") -> Tensor:
        """One of a weight's shape and type, without its values."""
        size, dtype = self._sizes[name]
        return torch.empty(size, dtype=dtype, device=device)

    def __iter__(self) -> Iterator[str]:
        return iter(self._sizes)

    def __len__(self) -> int:
        return len(self._sizes)
