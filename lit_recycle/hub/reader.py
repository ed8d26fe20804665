"""A Hugging Face folder as it lies on disk: its config and where each tensor's bytes are. No torch, nothing unpickled.

Only headers are read (their layout: https://huggingface.co/docs/safetensors), so that a folder of any size opens at
once.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lit_recycle.hub.checksums import Checksum, find_checksums

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
FLOATS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""Types that weights may be converted between, as torch and as safetensors call them."""
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
ITEM_BITS = {
    "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16,
    "U16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I8": 8, "U8": 8, "BOOL": 8, "F4": 4,
}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """A tensor in a safetensors file."""

    name: str
    dtype: str
    """As safetensors writes it: ``BF16``, ``F32``, …"""
    shape: tuple[int, ...]
    path: Path
    offset: int
    """Of its first byte in the file."""
    nbytes: int

    @property
    def origin(self) -> str:
        """What to call it."""
        return f"{self.name} in {self.path}"


@dataclass(frozen=True)
class HFFolder:
    """A folder with a ``config.json`` and weights in safetensors."""

    path: Path
    config: dict[str, Any]
    tensors: Mapping[str, Stored]
    checksums: Mapping[Path, Checksum] = field(default_factory=dict)
    """Of the files for which one is known; see :func:`lit_recycle.hub.checksums.verified`."""

    @property
    def paths(self) -> set[Path]:
        """The files that hold the weights."""
        return {tensor.path for tensor in self.tensors.values()}

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())


def open_folder(path: str | Path, checksums: str | Path | None = None) -> HFFolder:
    """Open a folder, with every shard and header checked.

    Args:
        path: The folder.
        checksums: A file with the SHA-256 of all weights' files; those that the folder has itself when not given.

    Raises:
        ValueError: For a folder without config or weights, a missing, truncated or inconsistent file, or weights that
            exist as pickles alone.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give a Hugging Face folder with config.json and *.safetensors")
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise ValueError(f"{folder / 'config.json'} does not hold a JSON object")
    opened = HFFolder(folder, config, _tensors(folder))
    return replace(opened, checksums=find_checksums(folder, opened.paths, checksums))


def read_json(path: Path) -> Any:
    """Raises ValueError for a file that is not there or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: give a path where there is one") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); fetch it again") from None


def _tensors(folder: Path) -> dict[str, Stored]:
    if (folder / INDEX).is_file():
        index = read_json(folder / INDEX)
        return _indexed(folder, index.get("weight_map") if isinstance(index, dict) else None)
    if (folder / SINGLE).is_file():
        return read_header(folder / SINGLE)
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return read_header(found[0])
    if found:
        raise ValueError(f"{folder} has {len(found)} safetensors files and no {INDEX} that says what is where")
    if pickled := sorted(p.name for p in folder.iterdir() if p.suffix in PICKLED):
        raise ValueError(
            f"{folder} has pickled weights only ({pickled[0]}), which can run code when opened and are never "
            'read here; convert them once, where you trust them: python -c "from transformers import '
            "AutoModelForCausalLM as M; "
            f"M.from_pretrained('{folder}', dtype='auto').save_pretrained('{folder}-safetensors')\""
        )
    raise ValueError(f"{folder} has no weights: neither {SINGLE} nor {INDEX} is there")


def _indexed(folder: Path, weight_map: Any) -> dict[str, Stored]:
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{folder / INDEX} has no weight_map; fetch it again")
    files = sorted(set(weight_map.values()))
    if missing := [name for name in files if not (folder / name).is_file()]:
        raise ValueError(f"{folder / INDEX} names {', '.join(missing)}, which is not there; fetch the missing shards")
    shards = {name: read_header(folder / name) for name in files}
    tensors = {}
    for name, shard in weight_map.items():
        if name not in shards[shard]:
            raise ValueError(f"{folder / INDEX} places {name} in {shard}, which does not hold it; fetch both again")
        tensors[name] = shards[shard][name]
    return tensors


def read_header(path: Path) -> dict[str, Stored]:
    """The tensors of one safetensors file.

    Raises:
        ValueError: For a file that is truncated or no safetensors file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if length > size - 8:
            raise ValueError(f"{path} is truncated or no safetensors file; fetch it again")
        try:
            header = json.loads(file.read(length))
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise ValueError(f"{path} has a broken header; fetch it again") from None
    header.pop("__metadata__", None)
    tensors = {name: _stored(name, entry, path, 8 + length) for name, entry in header.items()}
    end = max((t.offset + t.nbytes for t in tensors.values()), default=8 + length)
    if end > size:
        raise ValueError(f"{path} is truncated: it has {size:,} of {end:,} bytes; fetch it again")
    return dict(sorted(tensors.items(), key=lambda item: item[1].offset))


def _stored(name: str, entry: Any, path: Path, start: int) -> Stored:
    try:
        dtype, shape = entry["dtype"], tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        nbytes = tensor_bytes(dtype, shape)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: the header's entry for {name} is not understood ({error!r})") from None
    tensor = Stored(name, dtype, shape, path, start + begin, end - begin)
    if tensor.nbytes != nbytes:
        raise ValueError(f"{path}: {name} has {tensor.nbytes} bytes, which do not fit {dtype} of shape {list(shape)}")
    return tensor


def tensor_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count * ITEM_BITS[dtype] // 8
