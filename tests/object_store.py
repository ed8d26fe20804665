"""A store of objects in a folder, `store:///tmp/…`: no rename, and an object appears as a whole or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

REFUSED = "STORE_REFUSES"
"""Environment variable: a part of the names of objects that the store does not take."""


class Store(LocalFileSystem):
    """What object stores can do, and no more."""

    protocol = "store"

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        return super()._strip_protocol(str(path).removeprefix("store://"))

    def unstrip_protocol(self, name: str) -> str:
        return f"store://{name}"

    def put_file(self, lpath: str, rpath: str, *args: Any, **kwargs: Any) -> None:
        path = Path(self._strip_protocol(rpath))
        if os.environ.get(REFUSED, "\0") in str(path):
            raise PermissionError(f"no right to write {path.name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.{os.getpid()}")
        shutil.copy(lpath, beside)
        beside.replace(path)

    def mv(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("objects have no other names")

    rename = move = mv_file = mv


def open_store() -> None:
    """Let fsspec know the store, in this process."""
    fsspec.register_implementation("store", Store, clobber=True)
