"""Files on servers and in object stores (`s3://`, `gs://`, `https://`, …), read through fsspec by way of the cache.

    <cache_dir>/remote/<hash of the address>/<name>          a file, or as much of it as was needed
                                             .remote.jsonl   what the server said of each file

Text is read once, to be tokenised, and is fetched whole. Ids are fetched in blocks, when they are read; see
`lit_recycle.data.remote_blocks`. Everything else in this package sees files on disk.
"""

from __future__ import annotations

import fcntl
import glob
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import fsspec

from lit_recycle.addresses import is_remote, told
from lit_recycle.data.remote_blocks import make_sparse_copy, remove_copy
from lit_recycle.data.sources import READ_FROM_FOLDERS
from lit_recycle.progress import progress_bar

IN_BLOCKS = (".bin", ".npy")
WHOLE = (*READ_FROM_FOLDERS, ".json", ".idx", ".arrow")
MANIFEST, UNFINISHED = ".remote.jsonl", ".remote.jsonl.part"
HASHES = ("etag", "md5", "md5hash", "crc32c", "checksum", "content-md5")
TIMES = ("last-modified", "lastmodified", "updated", "mtime", "created")
"""Keys, in small letters, by which file systems tell one content of a file from another."""


@dataclass(frozen=True)
class RemoteFile:
    """A file as its server knows it.

    Attributes:
        url: where it is.
        name: its path below the folder that was asked for.
        size: in bytes.
        version: differs where the content does, as far as the server tells.
    """

    url: str
    name: str
    size: int
    version: str


def local_path(path: str | list[str], cache_dir: str | Path) -> str | list[str]:
    """Where in the cache the files are, or will be; what is no address stays what it is."""
    if isinstance(path, list):
        return [_local_path(entry, cache_dir) for entry in path]
    return _local_path(path, cache_dir)


def _local_path(entry: str, cache_dir: str | Path) -> str:
    return str(_place(entry, cache_dir) / _split(entry)[1]) if is_remote(entry) else entry


def is_fetched(path: str | list[str], cache_dir: str | Path) -> bool:
    """Whether `fetch` was here before, so that the files can be looked at without a network."""
    entries = [path] if isinstance(path, str) else path
    return all((_place(entry, cache_dir) / MANIFEST).is_file() for entry in entries if is_remote(entry))


def fetch(path: str | list[str], cache_dir: str | Path) -> None:
    """Make what is remote in `path` readable at `local_path`; what has changed on the server is fetched anew.

    Args:
        path: a file, a folder, a glob, or a list of these.
        cache_dir: the folder of all that is kept.

    Raises:
        ValueError: there is nothing to read, the server does not answer, or the package of a protocol is missing.
    """
    for entry in [path] if isinstance(path, str) else path:
        if is_remote(entry):
            found = _listed(entry)
            with _locked(_place(entry, cache_dir)) as place:
                _update(place, found)


def _update(place: Path, found: list[RemoteFile]) -> None:
    """Fetch what is not there or has another version, and forget what is gone; one that was killed goes on."""
    kept = {file for file in _read(place / MANIFEST) + _read(place / UNFINISHED) if (place / file.name).is_file()}
    for file in kept - set(found):
        remove_copy(place / file.name)
    missing = [file for file in found if file not in kept]
    with (
        progress_bar(sum(file.size for file in missing if not _in_blocks(file)), "Fetching") as advance,
        open(place / UNFINISHED, "a") as listed,
    ):
        for file in missing:
            remove_copy(place / file.name)
            if _in_blocks(file):
                make_sparse_copy(place / file.name, file.url, file.size)
            else:
                _fetch_whole(file, place / file.name)
                advance(file.size)
            listed.write(json.dumps(asdict(file)) + "\n")
            listed.flush()
    (place / UNFINISHED).write_text("".join(json.dumps(asdict(file)) + "\n" for file in found))
    (place / UNFINISHED).replace(place / MANIFEST)


def _in_blocks(file: RemoteFile) -> bool:
    return file.name.endswith(IN_BLOCKS)


def _read(manifest: Path) -> list[RemoteFile]:
    """What it lists; nothing of a line that is damaged or not whole, so that its file is fetched anew."""
    listed = []
    for line in manifest.read_text(errors="replace").splitlines() if manifest.is_file() else ():
        with suppress(ValueError, TypeError):
            listed.append(RemoteFile(**json.loads(line)))
    return listed


def _fetch_whole(file: RemoteFile, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with told(file.url):
        system, name = fsspec.core.url_to_fs(file.url)
        system.get_file(name, str(part))
    part.replace(path)


# --- what a server has ------------------------------------------------------------------------------------------------


def _listed(entry: str) -> list[RemoteFile]:
    """The files that an address means, and the indices beside them; raises ValueError where there are none."""
    folder, name = _split(entry)
    with told(entry):
        system, root = fsspec.core.url_to_fs(folder)
        root = root.rstrip("/")
        if glob.has_magic(name):
            found = system.glob(f"{root}/{name}", detail=True)
        elif name.lower().endswith(WHOLE + IN_BLOCKS) or not system.isdir(f"{root}/{name}"):
            found = _beside(system, root, name)
        else:
            found = system.find(f"{root}/{name}".rstrip("/"), detail=True)
        found = {path: info if info.get("size") else system.info(path) for path, info in found.items()}
    listed = [
        RemoteFile(
            url=system.unstrip_protocol(path),
            name=path.removeprefix(root).lstrip("/"),
            size=info["size"],
            version=_version(info),
        )
        for path, info in sorted(found.items())
        # A page may name what lies elsewhere: nothing is written outside of the folder in the cache.
        if path.startswith(f"{root}/") and ".." not in path.split("/")
        if info["type"] == "file" and (path.lower().endswith(WHOLE + IN_BLOCKS) or path == f"{root}/{name}")
    ]
    if not listed:
        raise ValueError(f"path={entry!r}: no text and no files of ids are there, or its server does not answer.")
    return listed


def _beside(system: Any, root: str, name: str) -> dict[str, dict[str, Any]]:
    """A file, or the pair that a name without an ending means, with the index of ids, which has their name."""
    stem = name.removesuffix(".bin").removesuffix(".idx")
    names = dict.fromkeys((name, f"{stem}.bin", f"{stem}.idx") if name in (stem, f"{stem}.bin", f"{stem}.idx") else ())
    found = {f"{root}/{one}": _info(system, f"{root}/{one}") for one in names or (name,)}
    return {path: info for path, info in found.items() if info}


def _info(system: Any, path: str) -> dict[str, Any] | None:
    """What is known of a file; `isfile` would have HTTP servers send all of it."""
    try:
        info: dict[str, Any] = system.info(path)
    except FileNotFoundError:
        return None
    return info


def _version(info: dict[str, Any]) -> str:
    """Whatever of it may tell one content from another: hashes and times, by the names that protocols give them."""
    told = {key: str(value) for key, value in sorted(info.items()) if key.lower() in HASHES + TIMES}
    return json.dumps(told)


# --- where it is kept -------------------------------------------------------------------------------------------------


def _split(entry: str) -> tuple[str, str]:
    """The folder of an address, and what is meant in it: a name, or a pattern that begins with its first magic part."""
    protocol, _, path = entry.partition("://")
    parts = path.rstrip("/").split("/")
    first = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return f"{protocol}://{'/'.join(parts[:first])}", "/".join(parts[first:])


def _place(entry: str, cache_dir: str | Path) -> Path:
    return Path(cache_dir) / "remote" / blake2b(entry.encode(), digest_size=8).hexdigest()


@contextmanager
def _locked(place: Path) -> Iterator[Path]:
    """One process at a time; those of other runs wait for it."""
    place.mkdir(parents=True, exist_ok=True)
    with open(place / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield place
