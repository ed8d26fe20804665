"""Libraries that only some formats need."""

from __future__ import annotations

from typing import Any


def pyarrow_for(path: Any) -> Any:
    """`pyarrow` with what reads streams and Parquet; raises ModuleNotFoundError that says how to install it."""
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Reading {path} needs the library pyarrow; install it with `pip install pyarrow`."
        ) from error
    return pyarrow


def zstandard_for(path: Any) -> Any:
    """`zstandard`; raises ModuleNotFoundError that says how to install it."""
    try:
        import zstandard
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Reading {path} needs the library zstandard; install it with `pip install zstandard`."
        ) from error
    return zstandard
