"""Atomic writes: a full disk or a killed process never leaves half a checkpoint in the place of a whole one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lit_recycle.addresses import Place
from lit_recycle.checksums import seal


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A path to write to, beside ``path``, which takes its place when all went well and vanishes when not.

    It is always the same, so that the next attempt takes over what a killed process has left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        with _told(path):
            yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        take_place(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Whatever the system says of writing comes with the path."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def take_place(part: Path, path: Path) -> None:
    """Let what was written, a file or a folder, have the place of what is at ``path``, a file or a folder."""
    if not part.is_dir() and not path.is_dir():
        part.replace(path)
        return
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.is_file():
        path.unlink()
    elif path.exists():
        path.rename(old)
    part.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def save(checkpoint: dict[str, Any], path: Path) -> None:
    """``torch.save``, atomically, with a checksum. Raises ``OSError`` when the disk is full; what was there stays."""
    with beside(path) as part:
        try:
            torch.save(checkpoint, part)
            seal(part)
        except (RuntimeError, OSError) as error:  # torch's archive writer tells of a full disk by a RuntimeError
            raise cannot_write(path) from error


def cannot_write(path: Place) -> OSError:
    return OSError(f"cannot write {path}: is the disk full? Nothing that was saved before is lost")
