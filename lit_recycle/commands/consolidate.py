"""``lit-recycle consolidate``: a sharded checkpoint as one file."""

from __future__ import annotations

import argparse
from pathlib import Path

from lit_recycle.commands.without_gc import without_gc


def main(argv: list[str]) -> int:
    """Write one file of a sharded checkpoint, which any number of processes and other tools can read."""
    parser = argparse.ArgumentParser(
        prog="lit-recycle consolidate", description="Make a single file of a sharded checkpoint, tensor by tensor."
    )
    parser.add_argument("src", help="a sharded checkpoint: a folder, or its address")
    parser.add_argument("dst", type=Path, help="the file to write; must not exist")
    options = parser.parse_args(argv)
    with without_gc():  # only now: --help needs no torch
        from lit_recycle.checkpoints.native import consolidate

    consolidate(options.src, options.dst)
    print(f"wrote {options.dst}: {options.dst.stat().st_size / 1e6:,.1f} MB")
    return 0
