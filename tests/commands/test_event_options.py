"""One field of one event, from the command line: what a sweep over timings needs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from processes import config

from lit_recycle.cli import main
from lit_recycle.commands.event_options import split_off


def planned(capsys: pytest.CaptureFixture[str], *argv: object) -> list[dict[str, object]]:
    capsys.readouterr()
    code = main(["plan", "--json", *map(str, argv)])
    out = capsys.readouterr()
    assert code == 0, out.err
    return json.loads(out.out)["stages"]


def test_fields_are_set_and_the_others_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config(tmp_path / "run")
    rows = planned(capsys, "--config", path, "--growth.events.0.at.steps", 3, "--growth.events.1.width.noise=0.5")
    assert [row["start_step"] for row in rows] == [0, 3, 4]
    before = planned(capsys, "--config", path)
    assert rows[1]["event"]["grow"] == before[1]["event"]["grow"]
    (now,), (then,) = (row["event"]["grow"] for row in (rows[2], before[2]))
    assert now["init_args"] == then["init_args"] | {"noise": 0.5}


def test_another_unit_takes_the_place_of_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = planned(capsys, "--config", config(tmp_path / "run"), "--growth.events.0.at.tokens", 3 * 128)
    assert [row["start_step"] for row in rows] == [0, 3, 4]


def test_a_whole_event_is_given_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    event = "{at: {steps: 3}, depth: {factor: 3}}"
    rows = planned(capsys, "--config", config(tmp_path / "run"), "--growth.events.0", event)
    assert [(row["start_step"], row["layers"]) for row in rows] == [(0, 2), (3, 6), (4, 6)]


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (("--growth.events.2.at.steps", "1"), "events 0 to 1, and no '2'"),
        (("--growth.events.first.at.steps", "1"), "no 'first'"),
        (("--growth.events.0.at.step", "1"), "'step'"),
        (("--growth.events.0.depth.factor", "1"), "depth.factor must be at least 2"),
        (("--growth.events.0.at.steps",), "has no value"),
    ],
)
def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str], option: tuple[str, ...], says: str) -> None:
    assert main(["plan", "--config", str(config(tmp_path / "run")), *option]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error and error.count("\n") == 1


def test_without_a_growth_there_is_none_to_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config(tmp_path / "run", trainer__callbacks=[])
    assert main(["plan", "--config", str(path), "--growth.events.0.at.steps", "1"]) == 2
    assert "no lit_recycle.callbacks.GrowthCallback" in capsys.readouterr().err


def test_a_second_file_can_add_a_callback_to_those_of_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = tmp_path / "more.yaml"
    more.write_text(
        yaml.safe_dump({"trainer": {"callbacks+": [{"class_path": "lit_recycle.callbacks.WeightNormMonitor"}]}})
    )
    rows = planned(capsys, "--config", config(tmp_path / "run"), "--config", more)
    assert len(rows) == 3, "the growth of the first file is still there"


def test_environment_and_variables_of_ones_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIRST_GROWTH", "3")
    path = config(tmp_path / "run")
    text = path.read_text().replace("steps: 2\n", "steps: ${oc.decode:${oc.env:FIRST_GROWTH}}\n", 1)
    assert "oc.env" in text
    path.write_text(text)
    assert [row["start_step"] for row in planned(capsys, "--config", path)] == [0, 3, 4]


def test_only_options_of_events_are_split_off() -> None:
    argv = ["--growth.events.0.at.steps=2", "--model.growth", "x", "--growth", "y", "--growth.seed", "7"]
    assert split_off(argv) == (["--model.growth", "x", "--growth", "y"], {"events.0.at.steps": 2, "seed": 7})


def test_a_plan_says_what_is_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--config", config(tmp_path / "run"), "--growth.events.0.train", "new"]
    small, deep, wide = planned(capsys, *argv)
    assert small["trained_params"] == small["params"]
    layer = (deep["params"] - small["params"]) // 2
    assert deep["trained_params"] == 2 * layer and 2 * layer < wide["trained_params"] < wide["params"]
    thawed = planned(capsys, *argv, "--growth.events.0.train_steps", 2)[2]
    assert thawed["trained_params"] == thawed["params"]
    assert main(["plan", *map(str, argv)]) == 0
    out = capsys.readouterr().out
    assert "of them trained" in out and "new rows alone" in out
