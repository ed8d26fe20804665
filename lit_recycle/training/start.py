"""Where a run starts: the shape, weights and history that a checkpoint or a Hugging Face folder brings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from lit_recycle.addresses import is_remote
from lit_recycle.checkpoints import sharded
from lit_recycle.checkpoints.native import load_whole_checkpoint
from lit_recycle.checkpoints.remote import on_disk
from lit_recycle.growth.native import NativeModel
from lit_recycle.growth.shape import Shape
from lit_recycle.hub.checksums import Checksum, verified
from lit_recycle.hub.convert import check_complete, kept_beside, past_growths, tokenizer_of
from lit_recycle.hub.dequantize import Dequantized, is_block_fp8, plain
from lit_recycle.hub.folder_tensors import FolderTensors
from lit_recycle.hub.in_memory import InMemory
from lit_recycle.hub.native_config import to_native
from lit_recycle.hub.native_names import hub_parts
from lit_recycle.hub.reader import HFFolder, open_folder
from lit_recycle.hub.shape import HubShape, shape_of
from lit_recycle.model.config import MoEConfig

Backend = Literal["auto", "native", "transformers"]


class Start(NamedTuple):
    """What a run begins with.

    Attributes:
        shape: Of the model.
        growth: Records of the growths in its past.
        weights: By name within the LightningModule, each read when it is asked for; None to draw them.
        hub: What a Hugging Face folder says besides the model.
        checksums: Of its files, where they are known; not verified yet.
    """

    shape: Shape
    growth: list[dict[str, Any]]
    weights: Mapping[str, Tensor] | None = None
    hub: dict[str, Any] | None = None
    checksums: Mapping[Path, Checksum] = {}


def start_of(
    config: MoEConfig | Mapping[str, Any] | None,
    init_from: str | None,
    backend: Backend,
    init_checksums: str | None = None,
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
        return _from_folder(path, backend, init_checksums)
    if init_checksums is not None:
        raise ValueError(f"model.init_checksums is of a Hugging Face folder, and {path} is none: leave it out")
    checkpoint = load_whole_checkpoint(path)
    saved = checkpoint["hyper_parameters"]
    return Start(shape_of(saved["config"]), saved["growth"], checkpoint["state_dict"], checkpoint.get("hub"))


def _from_folder(path: Path, backend: Backend, checksums: str | None) -> Start:
    folder = open_folder(path, checksums)
    tensors: Mapping[str, Tensor] = FolderTensors(folder)
    if is_block_fp8(folder.config):
        rank_zero_info(f"{path} holds FP8 weights with a scale for each block: they are multiplied out")
        folder, tensors = plain(folder), Dequantized(folder)
    elif folder.config.get("quantization_config"):
        method = folder.config["quantization_config"].get("quant_method")
        raise ValueError(f"{path} is quantised by {method}, and cannot be trained: give the plain weights")
    hub, growth = kept_beside(folder, tokenizer_of(folder)), past_growths(folder.path)
    if backend != "transformers":
        try:
            native = to_native(folder.config, path / "config.json")
        except ValueError as reason:
            if backend == "native":
                raise
            rank_zero_info(f"{path} is trained through transformers: {reason}")
        else:
            rank_zero_info(f"{path} ({folder.config['model_type']}) is trained as this project's own model")
            return Start(NativeModel(native), growth, _AsNative(folder, native, tensors), hub, folder.checksums)
    shape = HubShape.of(folder.config, path / "config.json")
    return Start(shape, growth, InMemory(folder, shape, tensors), hub, folder.checksums)


def verify_start(checksums: Mapping[Path, Checksum]) -> None:
    """Hold files against their checksums; where there are several processes each takes its share.

    Raises:
        ValueError: On all processes, for a file that is damaged.
    """
    problem = ""
    try:
        with verified({path: checksums[path] for path in sorted(checksums)[sharded.rank() :: sharded.world_size()]}):
            pass  # on a disk the pass over a file brings it into the page cache for whoever reads it next
    except ValueError as error:
        problem = str(error)
    if problem := next(filter(None, sharded.from_all(problem)), ""):
        raise ValueError(problem)


class _AsNative(Mapping[str, Tensor]):
    """A folder's tensors as our own model holds them."""

    def __init__(self, folder: HFFolder, config: MoEConfig, tensors: Mapping[str, Tensor]) -> None:
        self.parts, self.tensors = hub_parts(config, folder.config["model_type"]), tensors
        self.tied = config.tie_embeddings
        check_complete(folder, self.parts)

    def __getitem__(self, name: str) -> Tensor:
        own = name.removeprefix("model.")
        return self.parts["embed.weight" if self.tied and own == "lm_head.weight" else own].join(self.tensors)

    def __iter__(self) -> Iterator[str]:
        return (f"model.{name}" for name in self.parts)

    def __len__(self) -> int:
        return len(self.parts)
