"""``lit-recycle operators``: what a growth may do to a model."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import MISSING, fields

from lit_recycle.growth import operators
from lit_recycle.growth.operator import Operator


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="lit-recycle operators",
        description="List the operators of `grow:` lists in a configuration and of `lit-recycle grow --grow`.",
    )
    parser.add_argument("--markdown", action="store_true", help="as a table in Markdown")
    args = parser.parse_args(argv)
    rows = list(table())
    if args.markdown:
        print("\n".join(f"| {' | '.join(row)} |" for row in (rows[0], ["---"] * len(rows[0]), *rows[1:])))
        return 0
    for row in rows[1:]:
        print(row[0], *(f"    {name}: {cell}" for name, cell in zip(rows[0][1:], row[1:], strict=True)), sep="\n")
    return 0


def table() -> Iterator[list[str]]:
    """A row for each operator, the header first."""
    yield ["operator", "what it does", "axes", "keeps the function", "chooses by", "described in", "keys"]
    for name in operators.__all__:
        kind: type[Operator] = getattr(operators, name)
        doc = (kind.__doc__ or "").split("\n\n")[0]
        yield [
            name,
            " ".join(doc.split()),
            kind.axes,
            kind.keeps,
            kind.needs or "shapes alone",
            kind.origin or "–",
            ", ".join(_key(f) for f in fields(kind)),  # type: ignore[arg-type]
        ]


def _key(field: object) -> str:
    default = getattr(field, "default", MISSING)
    name = getattr(field, "name", "")
    return f"{name}" if default is MISSING else f"{name}={default}"
