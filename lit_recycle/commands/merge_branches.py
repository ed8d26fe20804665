"""``lit-recycle merge-branches SRC DST``: a checkpoint of branches as one of plain matrices."""

from __future__ import annotations

import argparse
from pathlib import Path

from lit_recycle.commands.source import source_on_disk
from lit_recycle.commands.without_gc import without_gc


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="lit-recycle merge-branches",
        description="Merge the branches that model.reparam has trained into plain matrices, for good. The result has "
        "no optimizer state; `lit-recycle export` merges on its own.",
    )
    parser.add_argument("src", help="checkpoint of a model with branches: a file, a sharded folder, or an address")
    parser.add_argument("dst", type=Path, help="the file to write; must not exist")
    options = parser.parse_args(argv)
    with without_gc():  # only now: --help needs no torch
        from lit_recycle.reparam.merge import merge_branches

    shape = merge_branches(source_on_disk(options.src), options.dst.expanduser())
    print(f"wrote {options.dst}: merged the branches of {', '.join(shape.chosen)} in each layer")
    return 0
