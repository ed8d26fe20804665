"""Checkpoints in object stores and on servers, by way of a disk: written and then sent, fetched and then read.

    <address>.ckpt                  one file, which carries its checksum
    <address>.ckpt/meta.pt          sharded: everything but the tensors, the name below, and checksums; sent last
                  /<name>/__0_0.distcp, .metadata, …

A store has no rename. A file appears in it as a whole, and takes the place of the one before. A folder is what its
``meta.pt`` says: the shards of each save have a name of their own, so that those of the one before stay until the new
``meta.pt`` is there, and nobody takes half of one for a whole.
"""

from __future__ import annotations

import fcntl
import logging
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor

from lit_recycle.addresses import Place, in_short, place_of, told
from lit_recycle.checkpoints import processes, sharded
from lit_recycle.checkpoints.atomic import save
from lit_recycle.checkpoints.plain_reader import METADATA
from lit_recycle.checksums import verify_archive

log = logging.getLogger(__name__)

SHARDS = "shards"
"""Key in the ``meta.pt`` of a sharded checkpoint: the name under which its shards are."""
CACHE = Path(".cache/lit-recycle/checkpoints")
"""Where checkpoints are fetched to."""
ATTEMPTS = 4
"""With pauses of 1, 2 and 4 seconds: a network fails for a moment more often than for good."""
FOR_GOOD = (ImportError, PermissionError, FileNotFoundError, ValueError, TypeError, NotImplementedError)


def save_remote(checkpoint: dict[str, Any], address: str) -> None:
    """Write a checkpoint of one file.

    Raises:
        OSError: The disk here is full.
        ValueError: The store does not take it.
    """
    with scratch() as folder:
        file = folder / Path(address).name
        save(checkpoint, file)
        send(file, address)


def save_sharded_remote(
    tensors: Mapping[str, Tensor], rest: dict[str, Any], address: str, group: dist.ProcessGroup | None = None
) -> None:
    """Write a sharded checkpoint; each process sends its own shards. See ``save_sharded``."""
    name = processes.from_all(uuid4().hex[:12], group)[0]
    with scratch() as part:
        written = sharded.write_shards(tensors, part, address, group)
        with _agreed(group):
            for file in part.iterdir():
                send(file, f"{address}/{name}/{file.name}")
        with _agreed(group):
            if processes.rank() == 0:
                save(rest | {"checksums": written, SHARDS: name}, part / METADATA)
                send(part / METADATA, f"{address}/{METADATA}")
                forget_other_shards(address, name)


@contextmanager
def _agreed(group: dist.ProcessGroup | None) -> Iterator[None]:
    """What goes wrong in one process is raised in all of them."""
    problem = None
    try:
        yield
    except (OSError, ValueError) as error:
        problem = error
    first = next((text for text in processes.from_all(problem and str(problem), group) if text), None)
    if first is not None:
        raise problem or ValueError(first)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder on disk for what is about to be sent; where the environment's ``TMPDIR`` says."""
    with tempfile.TemporaryDirectory(prefix="lit-recycle-save-") as folder:
        yield Path(folder)


def send(file: Path, address: str) -> None:
    """Let a file of a store be as one on disk.

    Raises:
        ValueError: The store does not take it, for good or after several attempts.
    """
    with told(address, "written"):
        for attempt in range(ATTEMPTS):
            try:
                system, path = _system(address)
                system.put_file(str(file), path)
                return
            except FOR_GOOD:
                raise
            except Exception as error:  # whatever the protocol's package raises
                if attempt == ATTEMPTS - 1:
                    raise
                log.warning("%s is sent again (%s).", address, in_short(error))
                time.sleep(2**attempt)


def forget_other_shards(address: str, name: str) -> None:
    """Remove what earlier saves have left at the address of a sharded checkpoint."""
    with told(address, "written"):
        system, path = _system(address)
        for entry in system.ls(path, detail=True):
            if entry["type"] == "directory" and entry["name"].rstrip("/").rpartition("/")[2] != name:
                system.rm(entry["name"], recursive=True)


def remove(address: str) -> None:
    """Remove a checkpoint, first of all what makes it a whole one."""
    with told(address, "removed"):
        system, path = _system(address)
        if system.exists(f"{path}/{METADATA}"):
            system.rm(f"{path}/{METADATA}")
        if system.exists(path):
            system.rm(path, recursive=True)


def check_writable(folder: str) -> None:
    """Raises ``ValueError`` for a folder that cannot be written to: no such bucket, no right, no package."""
    with scratch() as here, told(folder, "written"):
        probe = here / ".lit-recycle"
        probe.write_bytes(b"")
        system, path = _system(folder)
        system.put_file(str(probe), f"{path}/{probe.name}")
        system.rm(f"{path}/{probe.name}")


def checkpoints_at(folder: str) -> list[tuple[float, str]]:
    """The checkpoints of a folder that look whole, each with the time when it became so."""
    with told(folder):
        system, path = _system(folder)
        if not system.exists(path):
            return []
        found = []
        for entry in system.ls(path, detail=True):
            name = entry["name"].rstrip("/")
            mark = name if entry["type"] == "file" else f"{name}/{METADATA}"
            if name.endswith(".ckpt") and system.exists(mark):
                found.append((system.modified(mark).timestamp(), system.unstrip_protocol(name)))
        return found


def on_disk(path: Place) -> Path:
    """Where a checkpoint can be read: where it is, or, of an address, where it has been fetched to."""
    place = place_of(path)
    return place if isinstance(place, Path) else fetch(place)


def remove_unfinished(folder: str) -> list[str]:
    """Remove sharded checkpoints of which not all was sent; their names."""
    with told(folder):
        system, path = _system(folder)
        entries = system.ls(path, detail=True) if system.exists(path) else []
        names = [entry["name"].rstrip("/") for entry in entries if entry["type"] == "directory"]
        halves = [n for n in names if n.endswith(".ckpt") and not system.exists(f"{n}/{METADATA}")]
        for name in halves:
            system.rm(name, recursive=True)
        return [name.rpartition("/")[2] for name in halves]


def fetch(address: str) -> Path:
    """A checkpoint on disk, in the cache; one that is there and has not changed is not fetched again.

    Processes of one machine fetch it once. Whether it is whole is seen when it is read, as of any other.

    Raises:
        ValueError: There is none, or it cannot be read.
    """
    place = CACHE / blake2b(address.encode(), digest_size=8).hexdigest()
    place.mkdir(parents=True, exist_ok=True)
    with (place / ".lock").open("w") as lock, told(address):
        fcntl.flock(lock, fcntl.LOCK_EX)
        system, path = _system(address)
        sharded = system.exists(f"{path}/{METADATA}")
        mark = f"{path}/{METADATA}" if sharded else path
        if not sharded and not system.isfile(path):
            if system.exists(f"{path}/config.json"):
                raise FileNotFoundError("a Hugging Face folder is read from a disk: copy it to this machine first")
            raise FileNotFoundError("there is no checkpoint, or one of which not all was sent")
        target, version = place / Path(path).name, place / ".version"
        told_of_it = system.ukey(mark)
        if not (target.exists() and version.is_file() and version.read_text() == told_of_it):
            version.unlink(missing_ok=True)
            part = place / f".{target.name}.part"
            _remove_local(part)
            if sharded:
                _fetch_folder(system, path, part)
            else:
                system.get_file(path, str(part))
            _remove_local(target)
            part.rename(target)
            version.write_text(told_of_it)
    return target


def _fetch_folder(system: Any, path: str, part: Path) -> None:
    part.mkdir()
    system.get_file(f"{path}/{METADATA}", str(part / METADATA))
    verify_archive(part / METADATA)
    rest = torch.load(part / METADATA, map_location="cpu", weights_only=True)
    for name in rest["checksums"]:
        if Path(name).name != name:
            raise ValueError(f"its {METADATA} names {name}, which is no shard")
        system.get_file(f"{path}/{rest[SHARDS]}/{name}", str(part / name))


def _remove_local(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _system(address: str) -> tuple[Any, str]:
    """The file system of an address, asked anew for what is there, and the path within it."""
    import fsspec

    system, path = fsspec.core.url_to_fs(address)
    system.invalidate_cache()
    return system, path.rstrip("/")
