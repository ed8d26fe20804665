"""Many stages on a console of usual width."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from lit_recycle.stage_table import print_stages
from lit_recycle.text import listing


@pytest.mark.parametrize("width", [80, 120])
def test_nothing_of_fourteen_stages_is_cut_or_wrapped(width: int) -> None:
    stream = io.StringIO()
    stages = [(f"stage {i}", "inner width (experts) ×2 and depth ×2" if i else None) for i in range(14)]
    rows = {"layers": [f"{i:,}" for i in range(14)], "FLOPs of the stage": [f"1.2{i}e+18 (17%)" for i in range(14)]}
    print_stages(Console(file=stream, width=width), stages, rows)
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= width and "…" not in stream.getvalue()
    for what, cells in {"FLOPs of the stage": rows["FLOPs of the stage"], "": [name for name, _ in stages]}.items():
        shown = [cell.strip() for line in lines for cell in line.strip("│┃ ").split("┃" if not what else "│")]
        assert sorted(cell for cell in shown if cell in cells) == sorted(cells), "each once"
    assert len([line for line in lines if line.startswith("│ layers")]) == (5 if width == 80 else 3)


def test_numbers_that_follow_each_other_are_a_run_and_long_lists_are_cut() -> None:
    assert listing([0, 0, 1, 1, 2, 2]) == "0 0 1 1 2 2"
    assert listing([*range(256), *range(256)]) == "0–255 0–255"
    assert listing([0, 1, 2, 0, 1, 2]) == "0 1 2 0 1 2"
    long = listing(i // 2 for i in range(256)).split()
    assert long[:2] == ["0", "0"] and long[32] == "…" and long[-1] == "127" and len(long) == 49
