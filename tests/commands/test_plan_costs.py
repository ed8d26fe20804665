"""What `plan --world-size` says of a growth: the model whole under DDP, a share of it under FSDP2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from processes import config

from lit_recycle.cli import main

NUMBER = 4  # bytes


def costs(capsys: pytest.CaptureFixture[str], *argv: object) -> list[tuple[dict[str, int], dict[str, int]]]:
    """Of each growth the stage's row and the cost."""
    assert main(["plan", "--json", *map(str, argv)]) == 0
    rows = json.loads(capsys.readouterr().out)["stages"]
    return [(row, row["per_process"]) for row in rows[1:]]


def test_under_ddp_each_process_holds_the_model_whole_and_receives_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for row, cost in costs(capsys, "--config", config(tmp_path / "run"), "--world-size", 8, "--strategy", "ddp"):
        whole = 3 * NUMBER * row["params"]  # weights and two moments
        assert cost["after"] == cost["even"] == whole and cost["peak"] >= whole
        assert cost["before"] < whole and (cost["received"], cost["collectives"]) == (0, 0)


def test_under_fsdp2_each_process_holds_about_its_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for row, cost in costs(capsys, "--config", config(tmp_path / "run"), "--world-size", 2):
        share = 3 * NUMBER * row["params"] / 2
        assert share <= cost["after"] < 1.1 * share


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--world-size", "1"), "needs a number of processes from 2 on, got 1"),
        (("--world-size", "4", "--strategy", "fsdp"), "--strategy must be one of fsdp2, ddp, got 'fsdp'"),
    ],
)
def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], says: str) -> None:
    assert main(["plan", "--config", str(config(tmp_path / "run")), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error and error.count("\n") == 1
