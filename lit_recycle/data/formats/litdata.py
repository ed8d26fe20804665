"""Folders that litdata's `optimize` has written with its `TokensLoader`.

`index.json` names the chunks. A chunk has the number of its items, the byte at which each begins and that at which the
last ends (all u32), and the ids of all items.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from lit_recycle.data.formats.files import Documents, TokenFiles, check_size
from lit_recycle.data.remote_blocks import fetch_range
from lit_recycle.data.tokens import Piece

TENSORS = {11: "uint8", 12: "int8", 13: "int16", 14: "int16", 15: "int32", 16: "int32", 17: "int64", 18: "int64"}
TENSORS[20] = "uint16"
ARRAYS = dict(enumerate(("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")))


def read(path: Path, dtype: str, column: str) -> TokenFiles | None:
    """A folder; None for one without litdata's index.

    Raises:
        ValueError: it holds something else than ids, is compressed, or damaged.
    """
    index = path / "index.json"
    if not index.is_file():
        return None
    try:
        found = json.loads(index.read_text())
        config, chunks = found["config"], found["chunks"]
        kind, _, code = config["data_format"][0].partition(":")
    except (ValueError, KeyError, TypeError, IndexError):
        return None  # some other tool's index
    dtypes = {"no_header_tensor": TENSORS, "no_header_numpy": ARRAYS}.get(kind)
    if dtypes is None or len(config["data_format"]) != 1 or any(chunk["dim"] is None for chunk in chunks):
        raise ValueError(
            f"{path} was not written for tokens (its items are {config['data_format']}): give optimize "
            "item_loader=TokensLoader() and one integer array per item"
        )
    if int(code) not in dtypes:
        raise ValueError(f"{path} holds {config['data_format'][0]}, which is no integer type")
    if config.get("compression") or config.get("encryption"):
        raise ValueError(f"{path} is compressed or encrypted, and cannot be mapped: write it without")
    return _chunks(path, chunks, dtypes[int(code)])


def _chunks(path: Path, chunks: list[dict[str, Any]], dtype: str) -> TokenFiles:
    pieces, documents, begin, width = [], [], 0, np.dtype(dtype).itemsize
    for chunk in chunks:
        items, file = int(chunk["chunk_size"]), path / chunk["filename"]
        if not file.is_file():
            raise ValueError(f"{path} is not whole: {file.name} is missing")
        piece = Piece(file, dtype, int(chunk["dim"]), 4 * (items + 2))
        check_size(piece, file.stat().st_size, piece.offset + width * piece.tokens)
        pieces.append(piece)
        documents.append((begin, Documents(items, _ends(file, items, width))))
        begin += piece.tokens
    return TokenFiles("litdata", tuple(pieces), tuple(documents))


def _ends(file: Path, items: int, width: int) -> Any:
    def ends(numbers: np.ndarray) -> np.ndarray:
        fetch_range(file, 0, 4 * (items + 2))
        bytes_ = np.memmap(file, "<u4", mode="r", offset=4, shape=(items + 1,))
        return (bytes_[numbers + 1].astype(np.int64) - int(bytes_[0])) // width

    return ends
