"""``lit-recycle families``: the model families of the hub that can be grown."""

from __future__ import annotations

import argparse

from lit_recycle.hub.families import FAMILIES


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="lit-recycle families",
        description="List the Hugging Face model families that `lit-recycle grow` knows. To add one, add a "
        "file to lit_recycle/hub/families/.",
    )
    parser.parse_args(argv)
    rows = [("family (model_type)", "routing", "balancing bias", "note")]
    for name, family in FAMILIES.items():
        rows.append((name, str(family.routing or "dense"), "yes" if family.has_balance_bias else "", family.note))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]).rstrip())
    return 0
