"""Folders that Hugging Face's `Dataset.save_to_disk` has written, read by pyarrow: a column of lists of ids.

The ids of a record batch lie in one buffer of the file, so they are mapped where they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lit_recycle.data.formats.files import Documents, TokenFiles
from lit_recycle.data.formats.optional import pyarrow_for
from lit_recycle.data.tokens import Piece

IDS = "input_ids"
"""Column of the ids, where there is none for text."""
STATE, SPLITS = "state.json", "dataset_dict.json"
END = b"\xff\xff\xff\xff\0\0\0\0"
"""What an Arrow stream ends with."""


def arrow_files(folder: Path) -> list[Path] | None:
    """The files of a dataset in their order; None for a folder that is not one.

    Raises:
        ValueError: it is a dictionary of datasets, or not whole.
    """
    if (folder / SPLITS).is_file():
        splits = json.loads((folder / SPLITS).read_text())["splits"]
        raise ValueError(f"{folder} holds the splits {', '.join(splits)}: name one, as {folder / splits[0]}")
    if not (folder / STATE).is_file():
        return None
    try:
        files = [folder / file["filename"] for file in json.loads((folder / STATE).read_text())["_data_files"]]
    except (ValueError, KeyError, TypeError):
        return None
    for file in files:
        if not file.is_file() or not _ends_as_a_stream(file):
            raise ValueError(f"{file} is missing or truncated: write the dataset again")
    return files


def _ends_as_a_stream(file: Path) -> bool:
    with open(file, "rb") as stream:
        stream.seek(max(file.stat().st_size - len(END), 0))
        return stream.read() == END


def read(path: Path, dtype: str, column: str) -> TokenFiles | None:
    """A folder; None for one that is no dataset, or whose column holds text.

    Raises:
        ValueError: the dataset is damaged, or has no such column.
    """
    files = arrow_files(path)
    if files is None:
        return None
    pa = pyarrow_for(path)
    pieces: list[Piece] = []
    documents: list[tuple[int, Documents]] = []
    begin = 0
    for file in files:
        with pa.memory_map(str(file)) as mapped:
            base = _address(mapped)
            stream = pa.ipc.open_stream(mapped)
            name = column if IDS not in stream.schema.names or column in stream.schema.names else IDS
            if not is_ids(pa, column_type(stream.schema, name, file)):
                return None
            for batch in stream:
                lists = batch.column(batch.schema.get_field_index(name))
                piece = _piece(file, lists, base)
                pieces.append(piece)
                documents.append((begin, Documents(len(lists), _ends(np.asarray(lists.offsets)))))
                begin += piece.tokens
    return TokenFiles("Hugging Face dataset", tuple(pieces), tuple(documents))


def _address(mapped: Any) -> int:
    """Where the file begins in memory."""
    mapped.seek(0)
    address = mapped.read_buffer(8).address
    mapped.seek(0)
    return address


def _piece(file: Path, lists: Any, base: int) -> Piece:
    """The ids of a batch, by their place in the file."""
    ids = lists.flatten()
    values = ids.buffers()[1]
    dtype = ids.type.to_pandas_dtype()
    width = np.dtype(dtype).itemsize
    offset = values.address + ids.offset * width - base if values is not None else 0
    if ids.null_count or not 0 <= offset <= file.stat().st_size - len(ids) * width:
        raise ValueError(f"{file} is compressed or has missing ids: write it as save_to_disk does, without")
    return Piece(file, np.dtype(dtype).name, len(ids), offset)


def _ends(offsets: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    offsets = np.array(offsets)  # the map is closed
    return lambda numbers: offsets[numbers + 1].astype(np.int64) - int(offsets[0])


def column_type(schema: Any, column: str, file: Path) -> Any:
    """Type of a column; raises ValueError where there is none."""
    if column not in schema.names:
        raise ValueError(f"{file}: no column {column!r} among {schema.names}; set text_field.")
    return schema.field(column).type


def is_ids(pa: Any, kind: Any) -> bool:
    """Whether a type is lists of integers."""
    return (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_integer(kind.value_type)
