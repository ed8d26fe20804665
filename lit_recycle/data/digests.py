"""Hashes of files' contents, kept beside the corpora, so that a file is read again only when its stat has changed.

As in git and make, a file with the size and the times of before is taken to be the file of before. Besides the time of
modification that of the inode's last change counts, which a copy that sets the former back (`cp -p`, `rsync -t`) does
not hide. A file so young that it could change once more within the resolution of its times is hashed each time.
"""

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

log = logging.getLogger(__name__)

KEPT_IN = "digests.json"
SETTLED_NS = 2 * 10**9  # the coarsest times are FAT's, even seconds


class Known(NamedTuple):
    """What was found in a file: its size in bytes, its times in nanoseconds, and the hexadecimal BLAKE2b digest."""

    size: int
    modified: int
    changed: int
    digest: str


@contextmanager
def content_digests(paths: Sequence[Path], folder: Path) -> Iterator[list[bytes]]:
    """The BLAKE2b digest of each file. They are kept if what they are needed for ends well.

    Args:
        paths: the files.
        folder: where digests are kept, by absolute path in `digests.json`. Without that file all are hashed anew.

    Raises:
        ValueError: a file cannot be read.
    """
    kept = folder / KEPT_IN
    before = _read(kept)
    names = [os.path.abspath(path) for path in paths]
    youngest = time.time_ns() - SETTLED_NS  # by the clock before the look, for a file may change during it
    with ThreadPoolExecutor() as pool:
        found = dict(zip(names, pool.map(lambda name: _look(name, before.get(name)), names), strict=True))
    settled = {name: known for name, known in found.items() if max(known.modified, known.changed) < youngest}
    yield [bytes.fromhex(found[name].digest) for name in names]
    if any(before.get(name) != known for name, known in settled.items()):
        _write(kept, before | settled)


def known_digests(paths: Sequence[Path], folder: Path) -> list[bytes] | None:
    """The digests that are kept of the files as they are; None where one would have to be read."""
    before, found = _read(folder / KEPT_IN), []
    for path in paths:
        known, stat = before.get(os.path.abspath(path)), os.stat(path)
        if known is None or known[:3] != (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns):
            return None
        found.append(bytes.fromhex(known.digest))
    return found


def _look(name: str, before: Known | None) -> Known:
    """The file as it is; what was known of it where its stat is still the same."""
    try:
        stat = os.stat(name)
        times = stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
        if before is not None and before[:3] == times:
            return before
        with open(name, "rb") as stream:
            return Known(*times, hashlib.file_digest(stream, "blake2b").hexdigest())
    except OSError as error:
        raise ValueError(f"{name} cannot be read ({error.strerror}).") from error


def _read(kept: Path) -> dict[str, Known]:
    try:
        content = json.loads(kept.read_text())
        if content["checksum"] != _checksum(content["files"]):
            raise ValueError("it is damaged")
        return {name: Known(*known) for name, known in content["files"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s cannot be used (%r): all files are hashed anew.", kept, error)
        return {}


def _checksum(files: object) -> str:
    return hashlib.blake2b(json.dumps(files).encode(), digest_size=16).hexdigest()


def _write(kept: Path, known: dict[str, Known]) -> None:
    """In one piece. Of processes that write at once the last one's stays, and the others' files are hashed again."""
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent, prefix=f".{KEPT_IN}-") as beside:
            part = Path(beside, KEPT_IN)
            part.write_text(json.dumps({"checksum": _checksum(known), "files": known}))
            part.replace(kept)
    except OSError as error:  # a corpus in a folder that cannot be written to is still one to train on
        log.warning("%s cannot be written (%s): the next run hashes all files again.", kept, error.strerror)
