"""``lit-recycle families``: the model families of the hub that can be grown."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from lit_recycle.hub.families import FAMILIES, NOT_GROWN


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="lit-recycle families",
        description="List the Hugging Face model families that `lit-recycle grow` knows, how they route, and which "
        "this project's own model computes exactly (import, export). docs/add-a-family.md shows how to add one.",
    )
    parser.parse_args(argv)
    rows = [("family (model_type)", "routing", "balancing bias", "our model", "note")]
    for name, family in FAMILIES.items():
        bias, native = ("yes" if value else "" for value in (family.has_balance_bias, family.native))
        rows.append((name, str(family.routing or "dense"), bias, native, family.note))
    _print(rows)
    print("\nAll of them train and grow in a run, too: as our model, or through transformers.\n\nNot grown:")
    _print(list(NOT_GROWN.items()))
    print("\nAny other model type can be described in a YAML file: docs/add-a-family.md and `grow --family`.")
    return 0


def _print(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
