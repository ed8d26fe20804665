"""Ids one after the other: nanoGPT's and llm.c's `.bin`, OLMo's and numpy's `.npy`.

llm.c begins with 256 int32: a number that says the type, bytes per id in the newer of both, and how many ids follow.
nanoGPT's `.bin` and OLMo's `.npy` have no header at all; numpy's own `.npy` says its type.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lit_recycle.data.formats.files import TokenFiles, check_size
from lit_recycle.data.tokens import Piece

ENDINGS = (".bin", ".npy", ".idx")
LLM_C_HEADER = 256
LLM_C_UINT16, LLM_C_ANY = 20240520, 278895051
NUMPY = b"\x93NUMPY"


def read(path: Path, dtype: str, column: str) -> TokenFiles | None:
    """One file; None for what does not end in `.bin` or `.npy`.

    Raises:
        ValueError: it is damaged, or does not hold integers in one axis.
    """
    if path.suffix not in (".bin", ".npy") or not path.is_file():
        return None
    with open(path, "rb") as stream:
        head = stream.read(4 * LLM_C_HEADER)
    if path.suffix == ".npy" and head.startswith(NUMPY):
        return _numpy(path)
    if path.suffix == ".bin" and len(head) == 4 * LLM_C_HEADER:
        numbers = np.frombuffer(head, "<i4")
        if numbers[0] in (LLM_C_UINT16, LLM_C_ANY):
            width = 2 if numbers[0] == LLM_C_UINT16 else int(numbers[3])
            return _llm_c(path, width, int(numbers[2]))
    return _bare(path, dtype)


def _llm_c(path: Path, width: int, tokens: int) -> TokenFiles:
    if width not in (2, 4):
        raise ValueError(f"{path}: its header says {width} bytes per id; llm.c writes 2 or 4")
    piece = Piece(path, f"uint{8 * width}", tokens, 4 * LLM_C_HEADER)
    check_size(piece, path.stat().st_size, piece.offset + width * tokens)
    return TokenFiles("llm.c", (piece,))


def _numpy(path: Path) -> TokenFiles:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is truncated or is no array of numbers ({error})") from error
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"{path} holds {array.dtype} of shape {array.shape}; ids are integers in one axis")
    return TokenFiles("npy", (Piece(path, array.dtype.str, array.size, array.offset),))


def _bare(path: Path, dtype: str) -> TokenFiles:
    size, width = path.stat().st_size, np.dtype(dtype).itemsize
    if size % width:
        raise ValueError(f"{path} is truncated or is not of {dtype}: its {size:,} bytes are no multiple of {width}")
    name = "nanoGPT" if path.suffix == ".bin" else "OLMo"
    return TokenFiles(name, (Piece(path, dtype, size // width),))
