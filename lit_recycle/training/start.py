"""Where a run starts: the shape, weights and history that a checkpoint or a Hugging Face folder brings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from lit_recycle.addresses import is_remote
from lit_recycle.checkpoints import processes
from lit_recycle.checkpoints.native import load_whole_checkpoint
from lit_recycle.checkpoints.remote import on_disk
from lit_recycle.growth.history import of_earlier_run
from lit_recycle.growth.native import NativeModel
from lit_recycle.growth.shape import Shape
from lit_recycle.hub.beside import kept_beside, tokenizer_of
from lit_recycle.hub.checksums import Checksum, verified
from lit_recycle.hub.convert import check_complete, past_growths
from lit_recycle.hub.dequantize import is_block_fp8, plain_weights
from lit_recycle.hub.in_memory import InMemory
from lit_recycle.hub.joined import Value, checked_shape
from lit_recycle.hub.mtp import split_off
from lit_recycle.hub.native_config import to_native
from lit_recycle.hub.native_names import hub_parts, native_shapes
from lit_recycle.hub.reader import HFFolder, open_folder
from lit_recycle.hub.shape import HubShape, shape_of
from lit_recycle.model.config import MoEConfig

Backend = Literal["auto", "native", "transformers"]


class Start(NamedTuple):
    """What a run begins with.

    Attributes:
        shape: Of the model.
        growth: Records of the growths in its past.
        weights: By name within the LightningModule, each read when its values are needed; None to draw them.
        hub: What a Hugging Face folder says besides the model.
        checksums: Of its files, where they are known; not verified yet.
    """

    shape: Shape
    growth: list[dict[str, Any]]
    weights: Mapping[str, Value] | None = None
    hub: dict[str, Any] | None = None
    checksums: Mapping[Path, Checksum] = {}


def start_of(
    config: MoEConfig | Mapping[str, Any] | None,
    init_from: str | None,
    backend: Backend,
    init_checksums: str | None = None,
    drop_mtp: bool = False,
) -> Start:
    """The start of a run from a shape, a checkpoint of this project, or a Hugging Face folder.

    Raises:
        ValueError: For a source that cannot be read, or that the backend cannot train.
    """
    if backend not in ("auto", "native", "transformers"):
        raise ValueError(f"model.backend must be auto, native or transformers, got {backend!r}")
    if init_from is None:
        if init_checksums is not None:
            raise ValueError("model.init_checksums needs a Hugging Face folder to start from: model.init_from")
        if backend == "transformers":
            raise ValueError("model.backend transformers needs a Hugging Face folder to start from: model.init_from")
        return Start(
            NativeModel(config if isinstance(config, MoEConfig) else MoEConfig.from_dict(dict(config or {}))), []
        )
    path = on_disk(init_from if is_remote(init_from) else Path(init_from).expanduser())
    if (path / "config.json").is_file():
        return _from_folder(path, backend, init_checksums, drop_mtp)
    if init_checksums is not None:
        raise ValueError(f"model.init_checksums is of a Hugging Face folder, and {path} is none: leave it out")
    checkpoint = load_whole_checkpoint(path)
    saved = checkpoint["hyper_parameters"]
    growth = of_earlier_run(saved["growth"])
    return Start(shape_of(saved["config"]), growth, checkpoint["state_dict"], checkpoint.get("hub"))


def _from_folder(path: Path, backend: Backend, checksums: str | None, drop_mtp: bool) -> Start:
    folder = open_folder(path, checksums)
    if is_block_fp8(folder.config):
        rank_zero_info(f"{path} holds FP8 weights with a scale for each block: they are multiplied out")
    folder, tensors = plain_weights(folder)
    hub, growth = kept_beside(folder, tokenizer_of(folder)), of_earlier_run(past_growths(folder.path))
    folder, mtp = split_off(folder)
    if mtp:
        kept = "export takes them from there, grown as the model is; model.drop_mtp leaves them out"
        said = "model.drop_mtp leaves them out of the export" if drop_mtp else kept
        rank_zero_info(f"{path} has layers for multi-token prediction, which no run trains: {said}")
        hub |= {} if drop_mtp else {"mtp": {"folder": str(path.resolve()), "growths": len(growth)}}
    if backend != "transformers":
        try:
            native = to_native(folder.config, path / "config.json")
        except ValueError as reason:
            if backend == "native":
                raise
            rank_zero_info(f"{path} is trained through transformers: {reason}")
        else:
            rank_zero_info(f"{path} ({folder.config['model_type']}) is trained as this project's own model")
            own = {f"model.{name}": size for name, size in native_shapes(native).items()}
            _check_shapes(_AsNative(folder, native, _headers(folder)), own, path)
            return Start(NativeModel(native), growth, _AsNative(folder, native, tensors), hub, folder.checksums)
    shape = HubShape.of(folder.config, path / "config.json")
    _check_shapes(InMemory(folder, shape, _headers(folder)), shape.parameters, path)
    return Start(shape, growth, InMemory(folder, shape, tensors), hub, folder.checksums)


def _headers(folder: HFFolder) -> dict[str, Tensor]:
    """A folder's tensors without their values."""
    return {
        name: torch.empty(stored.shape, dtype=torch.int8 if stored.dtype[0] in "IU" else None, device="meta")
        for name, stored in folder.tensors.items()
    }


def _check_shapes(found: Mapping[str, Value], wanted: Mapping[str, Sequence[int]], path: Path) -> None:
    """Raises ``ValueError`` for a folder whose tensors are not those of its config, before any is read."""
    for name, size in wanted.items():
        try:
            shape = checked_shape(found[name])
        except ValueError as error:
            raise ValueError(f"{path}: {name.removeprefix('model.')}: {error}; fetch the folder again") from error
        if not found[name].dtype.is_floating_point:
            raise ValueError(
                f"{path}: {name.removeprefix('model.')} holds integers, and config.json does not say how they are "
                "quantised: give the plain weights"
            )
        if tuple(shape) != tuple(size):
            raise ValueError(
                f"{path}: {name.removeprefix('model.')} has shape {list(shape)}, config.json says {list(size)}"
            )


def verify_start(checksums: Mapping[Path, Checksum]) -> None:
    """Hold files against their checksums; where there are several processes each takes its share.

    Raises:
        ValueError: On all processes, for a file that is damaged.
    """
    problem = ""
    try:
        mine = sorted(checksums)[processes.rank() :: processes.world_size()]
        with verified({path: checksums[path] for path in mine}):
            pass  # on a disk the pass over a file brings it into the page cache for whoever reads it next
    except ValueError as error:
        problem = str(error)
    if problem := next(filter(None, processes.from_all(problem)), ""):
        raise ValueError(problem)


class _AsNative(Mapping[str, Value]):
    """A folder's tensors as our own model holds them."""

    def __init__(self, folder: HFFolder, config: MoEConfig, tensors: Mapping[str, Tensor]) -> None:
        self.parts, self.tensors = hub_parts(config, folder.config["model_type"]), tensors
        self.tied = config.tie_embeddings
        check_complete(folder, self.parts)

    def __getitem__(self, name: str) -> Value:
        own = name.removeprefix("model.")
        return self.parts["embed.weight" if self.tied and own == "lm_head.weight" else own].joined(self.tensors)

    def __iter__(self) -> Iterator[str]:
        return (f"model.{name}" for name in self.parts)

    def __len__(self) -> int:
        return len(self.parts)
