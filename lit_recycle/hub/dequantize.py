"""Block-FP8 weights of DeepSeek and Kimi folders, multiplied out: one scale for each block of a matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from lit_recycle.hub.folder_tensors import FolderTensors
from lit_recycle.hub.reader import HFFolder, open_folder
from lit_recycle.hub.stream import rewriting
from lit_recycle.hub.transform import write
from lit_recycle.hub.writer import SHARD_SIZE, Spec, write_json

SCALE = "_scale_inv"
"""End of the name of a weight's scales, each of which is multiplied with its block."""
FLOAT8 = ("F8_E4M3", "F8_E5M2")
BLOCKS = (128, 128)


def is_block_fp8(config: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` is of weights in FP8 with a scale for each block."""
    quantization = config.get("quantization_config") or {}
    return quantization.get("quant_method") == "fp8" and quantization.get("weight_block_size", BLOCKS) is not None


def dequantized_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The ``config.json`` of the same model with plain weights."""
    return {key: value for key, value in config.items() if key != "quantization_config"}


def multiply_out(weight: Tensor, scales: Tensor, blocks: Sequence[int] = BLOCKS) -> Tensor:
    """A matrix in float32, from its values in FP8 and a scale for each block; the last blocks may be cut off.

    Raises:
        ValueError: For scales that are not one for each block.
    """
    wanted = [-(-size // block) for size, block in zip(weight.shape, blocks, strict=True)]
    if list(scales.shape) != wanted:
        raise ValueError(
            f"{list(scales.shape)} scales do not belong to {list(weight.shape)} weights in {blocks} blocks"
        )
    spread = scales.float().repeat_interleave(blocks[0], 0).repeat_interleave(blocks[1], 1)
    return weight.float() * spread[: weight.shape[0], : weight.shape[1]]


class Dequantized(Mapping[str, Tensor]):
    """The tensors of a block-FP8 folder in float32, where they have scales; without the scales."""

    def __init__(self, folder: HFFolder) -> None:
        self.tensors = FolderTensors(folder)
        self.blocks = (folder.config.get("quantization_config") or {}).get("weight_block_size") or BLOCKS
        self.path = folder.path
        lacking = [
            name
            for name, stored in folder.tensors.items()
            if stored.dtype in FLOAT8 and f"{name}{SCALE}" not in folder.tensors
        ]
        if lacking:
            raise ValueError(f"{folder.path} holds no {lacking[0]}{SCALE} for {lacking[0]}: fetch the folder again")

    def __getitem__(self, name: str) -> Tensor:
        if f"{name}{SCALE}" not in self.tensors:
            return self.tensors[name]
        try:
            return multiply_out(self.tensors[name], self.tensors[f"{name}{SCALE}"], self.blocks)
        except ValueError as error:
            raise ValueError(f"{self.path}: {name}: {error}") from error

    def __iter__(self) -> Iterator[str]:
        return (name for name in self.tensors if not name.endswith(SCALE))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def plain(folder: HFFolder) -> HFFolder:
    """A folder as it would be with plain weights: without scales, and without the config's word of them."""
    tensors = {name: stored for name, stored in folder.tensors.items() if not name.endswith(SCALE)}
    return replace(folder, config=dequantized_config(folder.config), tensors=tensors)


def plain_weights(folder: HFFolder) -> tuple[HFFolder, Mapping[str, Tensor]]:
    """A folder as it is with plain weights, and its tensors; those in block-FP8 are multiplied out when they are read.

    Raises:
        ValueError: For a folder that is quantised in another way.
    """
    if is_block_fp8(folder.config):
        return plain(folder), Dequantized(folder)
    if folder.config.get("quantization_config"):
        method = folder.config["quantization_config"].get("quant_method")
        raise ValueError(f"{folder.path} is quantised by {method}, and cannot be trained: give the plain weights")
    return folder, FolderTensors(folder)


def dequantize_folder(
    source: str | Path,
    destination: str | Path,
    *,
    max_shard_size: str | int = SHARD_SIZE,
    checksums: str | Path | None = None,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> None:
    """Write a folder with its FP8 weights in bfloat16, tensor by tensor.

    Raises:
        ValueError: For a folder that is quantised in another way, or not at all.
    """
    folder = open_folder(source, checksums)
    if not is_block_fp8(folder.config):
        method = (folder.config.get("quantization_config") or {}).get("quant_method")
        found = f"quantised by {method}" if method else "not quantised"
        raise ValueError(f"{folder.path} is {found}: only FP8 with a scale for each block can be multiplied out")
    tensors = Dequantized(folder)
    specs = []
    for name in tensors:
        stored = folder.tensors[name]
        specs.append(Spec(name, "BF16" if stored.dtype in FLOAT8 else stored.dtype, stored.shape))
    with rewriting(folder, destination, specs, max_shard_size) as new:
        for spec in specs:
            tensor = tensors[spec.name]
            progress(write(tensor, spec.dtype, new.files[spec.name]))
        write_json(new.folder / "config.json", dequantized_config(folder.config) | {"dtype": "bfloat16"})
