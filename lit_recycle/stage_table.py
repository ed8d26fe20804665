"""Tables for the console with one column per stage of a run, however many there are."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table


def print_stages(console: Console, stages: Sequence[tuple[str, str | None]], rows: Mapping[str, Sequence[str]]) -> None:
    """Print as many stages beside each other as the console has room for, and the next ones below.

    Args:
        console: Where to.
        stages: Name of each, and what has grown at its beginning.
        rows: By what is told of the stages, a cell for each of them.
    """
    heads = [f"{name}\n{_wrapped(growth or '')}".rstrip() for name, growth in stages]
    unbounded = console.options.update(max_width=10_000)
    for count in range(len(heads), 0, -1):
        tables = [_table(heads, rows, slice(i, i + count)) for i in range(0, len(heads), count)]
        if all(console.measure(table, options=unbounded).maximum <= console.width for table in tables):
            break
    for table in tables:
        console.print(table)


def _table(heads: Sequence[str], rows: Mapping[str, Sequence[str]], stages: slice) -> Table:
    table = Table()
    table.add_column(no_wrap=True)
    for head in heads[stages]:
        table.add_column(head, justify="right", no_wrap=True)
    for name, cells in rows.items():
        table.add_row(name, *cells[stages])
    return table


def _wrapped(growth: str) -> str:
    """In lines that make no column wider than its numbers."""
    return "\n".join(textwrap.wrap(growth, 14, break_long_words=False))
