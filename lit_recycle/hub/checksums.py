"""SHA-256 of a Hugging Face folder's files: found where people have it, and verified beside the reading.

No torch. A folder has checksums when a file of ``sha256sum`` lies in it, or when ``huggingface_hub`` has fetched it,
which keeps the sums of large files in names or in notes of its own.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

THREADS = 4
PIECE = 2**20
NOTES = ".cache/huggingface/download"
"""Where ``huggingface_hub`` notes of each file that it puts into a folder: commit, ETag and time, one a line."""
NAMES = re.compile(r"sha256sums?(\.txt)?|checksums?(\.txt)?|.+\.sha256(sums?)?", re.I)
"""Files of checksums."""

_DIGEST = re.compile(r"[0-9a-f]{64}", re.I)
_GNU = re.compile(r"\\?([0-9a-f]{64})(?: [ *](.+))?", re.I)
_BSD = re.compile(r"SHA256 ?\((.+)\) ?= ?([0-9a-f]{64})", re.I)


class Checksum(NamedTuple):
    """SHA-256 of a file, hexadecimal, and who says so."""

    digest: str
    told_by: Path


def find_checksums(folder: Path, files: Collection[Path], given: str | Path | None = None) -> dict[Path, Checksum]:
    """The checksums that are known of some files of a folder.

    Args:
        folder: The folder.
        files: The files.
        given: A file of ``sha256sum`` that the user names; it must have them all.

    Raises:
        ValueError: For a given file that cannot be read, or does not have them all.
    """
    by_name: dict[str, Checksum] = {}
    if given is not None:
        by_name = read_sums(Path(given).expanduser())
        if missing := sorted(path.name for path in files if path.name not in by_name):
            raise ValueError(f"{given} has no SHA-256 of {missing[0]}, as `sha256sum` writes it: give a file with all")
    else:
        for path in sorted(p for p in folder.iterdir() if is_sums(p)):
            by_name |= read_sums(path)
    known = {path: by_name.get(path.name) or _noted(folder, path) for path in files}
    return {path: checksum for path, checksum in known.items() if checksum is not None}


def is_sums(path: Path) -> bool:
    """Whether a file is one of checksums, by its name."""
    return NAMES.fullmatch(path.name) is not None and path.is_file()


def read_sums(path: Path) -> dict[str, Checksum]:
    """SHA-256 by file name, out of what ``sha256sum`` writes (with ``--tag``, too), or one alone in ``NAME.sha256``."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no file of checksums: it is not UTF-8 text; make one with sha256sum") from None
    found = {}
    for line in map(str.strip, lines):
        if tagged := _BSD.fullmatch(line):
            found[Path(tagged[1]).name] = Checksum(tagged[2].lower(), path)
        elif plain := _GNU.fullmatch(line):
            found[Path(plain[2] or path.stem).name] = Checksum(plain[1].lower(), path)
    return found


def _noted(folder: Path, path: Path) -> Checksum | None:
    """What ``huggingface_hub`` has noted: the ETag of a large file is its SHA-256, that of a small one is not."""
    note = folder / NOTES / f"{path.name}.metadata"
    if note.is_file():
        etag = note.read_text(encoding="utf-8", errors="replace").splitlines()[1:2]
        return Checksum(etag[0].strip().lower(), note) if etag and _DIGEST.fullmatch(etag[0].strip()) else None
    blob = path.resolve()  # its cache has links to files that are called like their ETags
    if path.is_symlink() and blob.parent.name == "blobs" and _DIGEST.fullmatch(blob.name):
        return Checksum(blob.name.lower(), blob)
    return None


@contextmanager
def verified(checksums: Mapping[Path, Checksum]) -> Iterator[None]:
    """Hash files while they are read in the block; both find what the other has brought into the page cache.

    Raises:
        ValueError: At the end of the block, for a file that is damaged.
    """
    ended = threading.Event()
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            hashed = {path: pool.submit(_sha256, path, ended) for path in sorted(checksums)}
            yield
            digests = {path: future.result() for path, future in hashed.items()}
        finally:
            ended.set()
    for path, digest in digests.items():
        expected, told_by = checksums[path]
        if digest != expected:
            raise ValueError(
                f"{path} is damaged: its SHA-256 is not the one in {told_by}; fetch it again, or, where the weights "
                f"were changed on purpose, correct or remove {told_by}"
            )


def _sha256(path: Path, ended: threading.Event) -> str:
    digest, buffer = hashlib.sha256(), memoryview(bytearray(PIECE))
    with path.open("rb", buffering=0) as file:
        while not ended.is_set() and (size := file.readinto(buffer)):
            digest.update(buffer[:size])
    return digest.hexdigest()
