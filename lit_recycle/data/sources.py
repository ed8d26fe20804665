"""Find text on disk and yield it document by document, in an order that does not depend on where it lies."""

import glob
import gzip
import json
import logging
import os
import sysconfig
import zlib
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lit_recycle.data.formats.datasets import IDS, arrow_files, column_type, is_ids
from lit_recycle.data.formats.optional import pyarrow_for
from lit_recycle.data.formats.zstd import zstd_lines
from lit_recycle.data.oddities import Oddities, counted

log = logging.getLogger(__name__)

Record = tuple[tuple[str | None, ...], int]
"""The texts of a record's fields, and the bytes of the file that it took."""
PYTHON_STDLIB = "python-stdlib"
PIECE = 1 << 20  # characters; a longer text file is cut at line ends, so that memory does not grow with it

JSON = (".json",)  # one array of documents, or JSON lines by another name
JSON_LINES = (".jsonl", ".ndjson", ".jsonl.gz", ".json.gz", ".jsonl.zst", ".json.zst")
PARQUET = (".parquet",)
ARROW = (".arrow",)
# Read from a folder only with these endings: prose and source code, not data, markup dumps or binaries.
_TEXT = """
    .txt .md .rst .tex .org .py .pyi .pyx .ipy .c .h .cc .cpp .cxx .hh .hpp .cu .cuh .m .mm .java .kt .scala .groovy
    .js .mjs .jsx .ts .tsx .vue .go .rs .rb .php .swift .cs .fs .vb .lua .pl .pm .r .jl .hs .ml .mli .ex .exs .erl
    .clj .lisp .el .scm .sh .bash .zsh .fish .ps1 .sql .f90 .f95 .zig .nim .dart .asm .s .v .sv .vhd .cmake
"""
TEXT = tuple(_TEXT.split())
READ_FROM_FOLDERS = TEXT + JSON_LINES + PARQUET
_NOT_SOURCE = {"site-packages", "dist-packages", "node_modules", "__pycache__"}


@dataclass(frozen=True)
class SourceFile:
    """A file to read.

    Attributes:
        path: where it lies.
        named: whether the user gave this very path; if so, nothing about it is forgiven.
    """

    path: Path
    named: bool = False

    @property
    def is_code(self) -> bool:
        """Whether it is source code, or text with marks, by its ending."""
        return self.path.name.lower().endswith(TEXT) and self.path.suffix.lower() != ".txt"

    @property
    def kind(self) -> str:
        """ "jsonl", "json", "parquet", "arrow" or "text"; a file with an unknown ending, if asked for, is text."""
        kinds = {"jsonl": JSON_LINES, "json": JSON, "parquet": PARQUET, "arrow": ARROW}
        return next((kind for kind, endings in kinds.items() if self.path.name.lower().endswith(endings)), "text")


def find_files(path: str | list[str]) -> list[SourceFile]:
    """All files that `path` means, in the order given and sorted by name within each folder or glob.

    Args:
        path: a file, a folder (read recursively: known endings, no hidden files), a glob, "python-stdlib" (the .py
            files of the running Python's standard library), or a list of these. What is listed twice counts twice.

    Raises:
        ValueError: nothing is there, or a folder holds no file with a known ending.
    """
    if isinstance(path, str):
        return _find(path)
    if not path:
        raise ValueError("path is an empty list; name a file, a folder, a glob or 'python-stdlib'.")
    return [file for entry in path for file in _find(entry)]


def check_named(entry: str) -> str:
    """Raises ValueError for an empty path, which would be the current folder."""
    if not entry:
        raise ValueError("path is an empty text; give a file, a folder, a glob or 'python-stdlib'.")
    return entry


def _find(entry: str) -> list[SourceFile]:
    if check_named(entry) == PYTHON_STDLIB:
        return _walk(Path(sysconfig.get_path("stdlib")), endings=(".py",))
    root = Path(entry).expanduser()
    if files := arrow_files(root):
        return [SourceFile(file) for file in files]
    if root.is_dir():
        return _walk(root, endings=READ_FROM_FOLDERS)
    if root.exists():
        return [SourceFile(root, named=True)]
    if not glob.has_magic(entry):
        raise ValueError(f"there is no text at {entry}: give a file, a folder, a glob or 'python-stdlib'")
    matches = [Path(match) for match in sorted(glob.glob(str(root), recursive=True))]
    if not any(match.is_file() for match in matches):
        raise ValueError(f"path={entry!r} matches no file; quote it in the shell and write ** to search folders.")
    return [SourceFile(match) for match in matches if match.is_file()]


def holds_text(root: Path) -> bool:
    """Whether there is anything in a folder that would be read as text."""
    return any(file.name.lower().endswith(READ_FROM_FOLDERS) for file in _visible(root))


def other_files(path: str | list[str]) -> None:
    """Say which files of the folders in `path` are not read, because their endings are not those of text."""
    for entry in [path] if isinstance(path, str) else path:
        root = Path(entry).expanduser()
        if entry == PYTHON_STDLIB or not root.is_dir() or arrow_files(root):
            continue
        if others := sorted(file for file in _visible(root) if not file.name.lower().endswith(READ_FROM_FOLDERS)):
            log.warning(counted("files left out because their endings are not those of text", others, len(others)))


def _visible(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _NOT_SOURCE]
        yield from (Path(folder, name) for name in names if not name.startswith("."))


def _walk(root: Path, endings: tuple[str, ...]) -> list[SourceFile]:
    found = [file for file in _visible(root) if file.name.lower().endswith(endings)]
    if not found:
        raise ValueError(f"path={str(root)!r} holds no text: no file in it ends in .txt, .md, .py, .jsonl, .parquet ….")
    return [SourceFile(file) for file in sorted(found, key=lambda file: file.relative_to(root).parts)]


def read_documents(file: SourceFile, text_field: str, oddities: Oddities) -> Iterator[tuple[str, int]]:
    """Yield (document, bytes of the file that it took) of one file; the bytes sum up to about the file's size.

    Args:
        file: what to read. Text is one document per `PIECE` characters, JSON lines one per line, a JSON array one
            per element, Parquet one per row.
        text_field: key or column of the text in JSON and Parquet.
        oddities: counts, by reason, what was left out or mended.

    Raises:
        ValueError: the file cannot be read, or is not what its ending says.
        ModuleNotFoundError: the library for a format is not installed.
    """
    for (text,), size in _read(file, (text_field,), oddities):
        yield text, size


def read_records(file: SourceFile, fields: tuple[str, ...], oddities: Oddities) -> Iterator[tuple[str, ...]]:
    """Yield the texts in some fields of every record; raises as `read_documents`. A field that is null is empty."""
    for texts, _ in _read(file, fields, oddities):
        yield texts


def _read(file: SourceFile, fields: tuple[str, ...], oddities: Oddities) -> Iterator[tuple[tuple[str, ...], int]]:
    """The texts of every record that is not empty, and its size."""
    readers = {"jsonl": _read_json_lines, "json": _read_json, "parquet": _read_parquet, "arrow": _read_arrow}
    records = readers[file.kind](file.path, fields) if file.kind in readers else _read_text(file, oddities)
    try:
        if not file.path.stat().st_size:
            oddities.note("empty files left out", file.path)
        for texts, size in records:
            if not any(texts):
                oddities.note("empty documents left out", file.path)
                continue
            yield tuple(_without_lone_surrogates(text or "", file.path, oddities) for text in texts), size
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{file.path} cannot be read ({error}).") from error


def _without_lone_surrogates(text: str, path: Path, oddities: Oddities) -> str:
    """JSON can spell half of a UTF-16 pair, which no UTF-8 text can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        oddities.note("documents with broken UTF-16 escapes mended", path)
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _read_text(file: SourceFile, oddities: Oddities) -> Iterator[Record]:
    begun = False
    try:
        with open(file.path, encoding="utf-8-sig", newline="") as stream:
            while piece := stream.read(PIECE):
                if len(piece) == PIECE:
                    piece += stream.readline(PIECE)
                yield (piece,), len(piece.encode())
                begun = True
    except UnicodeDecodeError as error:
        if file.named or begun:
            raise ValueError(f"{file.path} is not UTF-8 text ({error}); convert it, or leave it out.") from error
        log.info("%s is left out because it is not UTF-8 text (%s)", file.path, error)
        oddities.note("files left out because they are not UTF-8 text", file.path)


def _read_json_lines(path: Path, fields: tuple[str, ...]) -> Iterator[Record]:
    ending = path.suffix.lower()
    unpacked = gzip.open if ending == ".gz" else zstd_lines if ending == ".zst" else nullcontext
    with open(path, "rb") as raw, unpacked(raw) as stream:
        done = 0
        for number, line in enumerate(stream, start=1):
            at = raw.tell()  # in a gzip file the position among compressed bytes
            if line.strip():
                yield _texts_of_line(line, fields, f"{path}, line {number}"), at - done
                done = at


def _read_json(path: Path, fields: tuple[str, ...]) -> Iterator[Record]:
    """An array of objects or texts, which is held in memory; or objects, one per line."""
    with open(path, encoding="utf-8-sig", errors="replace") as stream:
        while (start := stream.read(1)).isspace():
            pass
    if start != "[":
        yield from _read_json_lines(path, fields)
        return
    try:
        records = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); correct it or leave it out.") from error
    size = path.stat().st_size // max(len(records), 1)
    for number, record in enumerate(records):
        is_text = isinstance(record, str) and len(fields) == 1
        yield (record,) if is_text else _texts_of(record, fields, f"{path}, element {number}"), size


def _texts_of_line(line: bytes, fields: tuple[str, ...], where: str) -> tuple[str | None, ...]:
    try:
        record = json.loads(line)
    except ValueError as error:  # bad JSON and bad UTF-8 alike
        raise ValueError(f"{where}: not JSON ({error}); put each record on one line, or leave it out.") from error
    if isinstance(record, list):
        raise ValueError(f"{where}: a JSON object is expected on every line, not an array; name such a file .json.")
    return _texts_of(record, fields, where)


def _texts_of(record: object, fields: tuple[str, ...], where: str) -> tuple[str | None, ...]:
    if not isinstance(record, dict):
        raise ValueError(f"{where}: a JSON object is expected, not {type(record).__name__}.")
    for field in fields:
        if field not in record:
            raise ValueError(f"{where}: no field {field!r} among {sorted(record)}; set text_field.")
        if not isinstance(text := record[field], str | None):
            raise ValueError(f"{where}: field {field!r} holds {type(text).__name__}, not text; set text_field.")
    return tuple(record[field] for field in fields)


def _read_parquet(path: Path, fields: tuple[str, ...]) -> Iterator[Record]:
    with _parquet(path) as table:
        _check_text(path, table.schema_arrow, fields)
        size = path.stat().st_size // max(table.metadata.num_rows, 1)
        for batch in table.iter_batches(batch_size=256, columns=list(fields)):
            yield from ((texts, size) for texts in _texts(batch, fields))


def _texts(batch: Any, fields: tuple[str, ...]) -> Iterator[tuple[str | None, ...]]:
    return zip(*(batch.column(batch.schema.get_field_index(field)).to_pylist() for field in fields), strict=True)


def _read_arrow(path: Path, fields: tuple[str, ...]) -> Iterator[Record]:
    """A file of a Hugging Face dataset."""
    pa = pyarrow_for(path)
    with pa.memory_map(str(path)) as mapped:
        stream = pa.ipc.open_stream(mapped)
        _check_text(path, stream.schema, fields)
        for batch in stream:
            size = batch.nbytes // max(len(batch), 1)
            yield from ((texts, size) for texts in _texts(batch, fields))


def rows_of_ids(files: list[SourceFile], text_field: str) -> Iterator[np.ndarray] | None:
    """The rows of Parquet files that are tokenised, in the column `text_field`, or `input_ids` where there is no such.

    Raises:
        ValueError: some of the files are tokenised and some are not.
        ModuleNotFoundError: the library `pyarrow` is not installed.
    """
    if not any(file.kind == "parquet" for file in files):
        return None
    columns = {file.path: _column_of_ids(file, text_field) for file in files}
    if not any(columns.values()):
        return None
    if text := [path for path, column in columns.items() if not column]:
        raise ValueError(f"{text[0]} holds text, and others beside it hold ids; make them two sources.")
    return (row for path, column in columns.items() if column for row in _rows(path, column))


def _column_of_ids(file: SourceFile, text_field: str) -> str | None:
    if file.kind != "parquet":
        return None
    with _parquet(file.path) as table:
        schema = table.schema_arrow
        column = text_field if text_field in schema.names else IDS
        return column if column in schema.names and is_ids(pyarrow_for(file.path), schema.field(column).type) else None


def _rows(path: Path, column: str) -> Iterator[np.ndarray]:
    with _parquet(path) as table:
        for batch in table.iter_batches(batch_size=256, columns=[column]):
            lists = batch.column(0)
            if lists.null_count or lists.flatten().null_count:
                raise ValueError(f"{path}: column {column!r} has missing values.")
            ids, ends = lists.flatten().to_numpy(zero_copy_only=False), lists.value_lengths().to_numpy().cumsum()
            yield from np.split(ids, ends[:-1])


def _parquet(path: Path) -> Any:
    pa = pyarrow_for(path)
    try:
        return pa.parquet.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a Parquet file ({error}).") from error


def _check_text(path: Path, schema: Any, fields: tuple[str, ...]) -> None:
    pa = pyarrow_for(path)
    for field in fields:
        kind = column_type(schema, field, path)
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise ValueError(f"{path}: column {field!r} holds {kind}, not text; set text_field.")
