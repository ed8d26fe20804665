"""Find text on disk and yield it document by document, in an order that does not depend on where it lies."""

import glob
import gzip
import json
import logging
import os
import sysconfig
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

PYTHON_STDLIB = "python-stdlib"
PIECE = 1 << 20  # characters; a longer text file is cut at line ends, so that memory does not grow with it

JSON = (".json",)  # one array of documents, or JSON lines by another name
JSON_LINES = (".jsonl", ".ndjson", ".jsonl.gz", ".json.gz")
PARQUET = (".parquet",)
# Read from a folder only with these endings: prose and source code, not data, markup dumps or binaries.
_TEXT = """
    .txt .md .rst .tex .org .py .pyi .pyx .ipy .c .h .cc .cpp .cxx .hh .hpp .cu .cuh .m .mm .java .kt .scala .groovy
    .js .mjs .jsx .ts .tsx .vue .go .rs .rb .php .swift .cs .fs .vb .lua .pl .pm .r .jl .hs .ml .mli .ex .exs .erl
    .clj .lisp .el .scm .sh .bash .zsh .fish .ps1 .sql .f90 .f95 .zig .nim .dart .asm .s .v .sv .vhd .cmake
"""
TEXT = tuple(_TEXT.split())
_READ_FROM_FOLDERS = TEXT + JSON_LINES + PARQUET
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
    def kind(self) -> str:
        """ "jsonl", "json", "parquet" or "text"; a file with an unknown ending, if asked for, is text."""
        name = self.path.name.lower()
        if name.endswith(JSON):
            return "json"
        return "jsonl" if name.endswith(JSON_LINES) else "parquet" if name.endswith(PARQUET) else "text"


class Oddities(Counter[str]):
    """Counts, by reason, what was left out or mended, with the first few by name."""

    SHOWN = 3

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, list[str]] = {}

    def note(self, reason: str, name: object) -> None:
        self[reason] += 1
        names = self.names.setdefault(reason, [])
        if len(names) < self.SHOWN and str(name) not in names:
            names.append(str(name))

    def lines(self) -> list[str]:
        """A line for each reason."""
        return [f"{reason}: {count} ({_shown(self.names[reason], count)})" for reason, count in self.items()]


def _shown(names: list[str], count: int) -> str:
    return ", ".join(names) + (", …" if count > len(names) else "")


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


def _find(entry: str) -> list[SourceFile]:
    if entry == PYTHON_STDLIB:
        return _walk(Path(sysconfig.get_path("stdlib")), endings=(".py",))
    root = Path(entry).expanduser()
    if root.is_dir():
        return _walk(root, endings=_READ_FROM_FOLDERS)
    if root.exists():
        return [SourceFile(root, named=True)]
    if not glob.has_magic(entry):
        raise ValueError(f"path={entry!r} does not exist; name a file, a folder, a glob or 'python-stdlib'.")
    matches = [Path(match) for match in sorted(glob.glob(str(root), recursive=True))]
    if not any(match.is_file() for match in matches):
        raise ValueError(f"path={entry!r} matches no file; quote it in the shell and write ** to search folders.")
    return [SourceFile(match) for match in matches if match.is_file()]


def other_files(path: str | list[str]) -> None:
    """Say which files of the folders in `path` are not read, because their endings are not those of text."""
    for entry in [path] if isinstance(path, str) else path:
        root = Path(entry).expanduser()
        if entry == PYTHON_STDLIB or not root.is_dir():
            continue
        others = sorted(str(file) for file in _visible(root) if not file.name.lower().endswith(_READ_FROM_FOLDERS))
        if others:
            shown = _shown(others[: Oddities.SHOWN], len(others))
            log.warning("files left out because their endings are not those of text: %d (%s)", len(others), shown)


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
        file: what to read. Text is one document per `PIECE` characters, JSON lines one per line, Parquet one per row.
        text_field: key or column of the text in JSON lines and Parquet.
        oddities: counts, by reason, what was left out or mended.

    Raises:
        ValueError: the file cannot be read, or is not what its ending says.
        ModuleNotFoundError: Parquet without the library `pyarrow`.
    """
    readers = {"jsonl": _read_json_lines, "json": _read_json, "parquet": _read_parquet}
    documents = readers[file.kind](file.path, text_field) if file.kind in readers else _read_text(file, oddities)
    try:
        if not file.path.stat().st_size:
            oddities.note("empty files left out", file.path)
        for text, size in documents:
            if not text:
                oddities.note("empty documents left out", file.path)
                continue
            yield _without_lone_surrogates(text, file.path, oddities), size
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


def _read_text(file: SourceFile, oddities: Oddities) -> Iterator[tuple[str, int]]:
    begun = False
    try:
        with open(file.path, encoding="utf-8-sig", newline="") as stream:
            while piece := stream.read(PIECE):
                if len(piece) == PIECE:
                    piece += stream.readline(PIECE)
                yield piece, len(piece.encode())
                begun = True
    except UnicodeDecodeError as error:
        if file.named or begun:
            raise ValueError(f"{file.path} is not UTF-8 text ({error}); convert it, or leave it out.") from error
        log.info("%s is left out because it is not UTF-8 text (%s)", file.path, error)
        oddities.note("files left out because they are not UTF-8 text", file.path)


def _read_json_lines(path: Path, text_field: str) -> Iterator[tuple[str | None, int]]:
    unpacked = gzip.open if path.suffix.lower() == ".gz" else nullcontext
    with open(path, "rb") as raw, unpacked(raw) as stream:
        done = 0
        for number, line in enumerate(stream, start=1):
            at = raw.tell()  # in a gzip file the position among compressed bytes
            if line.strip():
                yield _text_of_line(line, text_field, f"{path}, line {number}"), at - done
                done = at


def _read_json(path: Path, text_field: str) -> Iterator[tuple[str | None, int]]:
    """An array of objects or texts, which is held in memory; or objects, one per line."""
    with open(path, "rb") as stream:
        while (start := stream.read(1)).isspace():
            pass
    if start != b"[":
        yield from _read_json_lines(path, text_field)
        return
    try:
        records = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}).") from error
    size = path.stat().st_size // max(len(records), 1)
    for number, record in enumerate(records):
        text = record if isinstance(record, str) else _text_of(record, text_field, f"{path}, element {number}")
        yield text, size


def _text_of_line(line: bytes, text_field: str, where: str) -> str | None:
    try:
        record = json.loads(line)
    except ValueError as error:  # bad JSON and bad UTF-8 alike
        raise ValueError(f"{where}: not JSON ({error}).") from error
    if isinstance(record, list):
        raise ValueError(f"{where}: a JSON object is expected on every line, not an array; name such a file .json.")
    return _text_of(record, text_field, where)


def _text_of(record: object, text_field: str, where: str) -> str | None:
    if not isinstance(record, dict):
        raise ValueError(f"{where}: a JSON object is expected, not {type(record).__name__}.")
    if text_field not in record:
        raise ValueError(f"{where}: no field {text_field!r} among {sorted(record)}; set text_field.")
    text = record[text_field]
    if not isinstance(text, str | None):
        raise ValueError(f"{where}: field {text_field!r} holds {type(text).__name__}, not text; set text_field.")
    return text


def _read_parquet(path: Path, text_field: str) -> Iterator[tuple[str | None, int]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Reading {path} needs the library pyarrow; install it with `pip install pyarrow`."
        ) from error
    try:
        table = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a Parquet file ({error}).") from error
    with table:
        names = table.schema_arrow.names
        if text_field not in names:
            raise ValueError(f"{path}: no column {text_field!r} among {names}; set text_field.")
        kind = table.schema_arrow.field(text_field).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise ValueError(f"{path}: column {text_field!r} holds {kind}, not text; set text_field.")
        size = path.stat().st_size // max(table.metadata.num_rows, 1)
        for batch in table.iter_batches(batch_size=256, columns=[text_field]):
            yield from ((text, size) for text in batch.column(0).to_pylist())
