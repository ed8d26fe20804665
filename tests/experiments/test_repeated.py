"""Results that were made again, beside the first ones."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lit_recycle.experiments.__main__ import main
from lit_recycle.experiments.corpus import CorpusReport
from lit_recycle.experiments.definition import label, load_experiments
from lit_recycle.experiments.page import render
from lit_recycle.experiments.repeated import Repeat, repeated_section, repeats
from lit_recycle.experiments.results import Results, Spread

ROOT = Path(__file__).parents[2]


def test_results_that_were_made_again_are_compared(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["compare", "results", "results/again"]) == 0
    assert "agrees" in (said := capsys.readouterr().out) and "differs" not in said
    assert main(["compare", "results", str(tmp_path)]) == 1
    for path in (ROOT / "results" / "again").glob("*/*.json"):
        made = json.loads(path.read_text())
        made["metrics"]["loss"] += 0.02
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        (tmp_path / path.parent.name / path.name).write_text(json.dumps(made))
    assert main(["compare", "results", str(tmp_path)]) == 1
    assert "differs" in capsys.readouterr().out
    (tmp_path / path.parent.name / path.name).write_text(json.dumps(made | {"corpus": "another"}))
    assert main(["compare", "results", str(tmp_path)]) == 2
    assert "are of different texts" in capsys.readouterr().err


def test_means_agree_within_two_standard_errors() -> None:
    one = Repeat("x", "loss", Spread(1.0, 0.03, 3), Spread(1.099, 0.04, 3))
    assert one.error == pytest.approx(0.05) and one.verdict == "agrees"
    assert one._replace(again=Spread(1.101, 0.04, 3)).verdict == "differs"
    assert one._replace(again=Spread(1.1, math.nan, 1)).verdict == "one seed only"


def test_runs_that_experiments_share_are_compared_once() -> None:
    experiments = load_experiments(ROOT / "configs" / "experiments", ["order", "sunk_total"])
    found = repeats(experiments, Results(ROOT / "results"), Results(ROOT / "results" / "again"))
    points = [f"sunk_total: {label(point)}" for point, _ in experiments[1].variants]
    assert [one.name for one in found if one.metric == "loss"] == points


def test_each_folder_has_its_own_best_rate() -> None:
    """A sweep that comes out otherwise is no run that is missing."""
    (experiment,) = load_experiments(ROOT / "configs" / "experiments", ["headline"])
    first, again = Results(ROOT / "results"), Results(ROOT / "results")
    point = dict(experiment.variants[0][0])
    run = experiment.run(point, 1, 2.0e-3)
    better = json.loads(json.dumps(first.by_key[run.key]))
    better["metrics"]["loss"] -= 1.0
    again.by_key = first.by_key | {run.key: better}
    found = {one.name: one for one in repeats([experiment], first, again) if one.metric == "loss"}
    other = found[f"headline: {label(point)}"]
    assert other.note == "best value 0.004, then 0.002" and other.row[-1].endswith("(best value 0.004, then 0.002)")
    assert all(one.note == "" for name, one in found.items() if name != other.name)


def test_what_was_made_again_and_is_no_longer_a_result_is_left_out(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "results", tmp_path / "results")
    (tmp_path / "results/sunk_total/0.5_seed=1.json").unlink()
    experiments = load_experiments(ROOT / "configs" / "experiments", ["sunk_total"])
    assert "14 runs were made once more" in repeated_section(experiments, Results(tmp_path / "results"))


@pytest.mark.parametrize("name", ["depth", "headline", "speed"])
def test_the_page_of_one_experiment_can_be_made(name: str, tmp_path: Path) -> None:
    """As `make reproduce` does it: its runs are too few for a law, or too much alike."""
    shutil.copytree(ROOT / "results" / name, tmp_path / "again" / name)
    text, made = render(load_experiments(ROOT / "configs" / "experiments"), Results(tmp_path / "again"))
    assert name in {plate.name for plate in made}
    assert "Not enough runs yet: " in text or "**Ranking.**" in text


def test_the_page_can_be_made_before_any_run_has(tmp_path: Path) -> None:
    text, made = render(load_experiments(ROOT / "configs" / "experiments"), Results(tmp_path))
    assert made == [] and "Not enough runs yet: " in text and text.count("Not run yet.") == text.count("| 0 of ")


def test_another_text_is_refused_before_anything_runs(tmp_path: Path) -> None:
    known = json.loads((ROOT / "results/corpus.json").read_text())
    (tmp_path / "corpus.json").write_text(json.dumps(known))
    (about,) = known.values()
    report = CorpusReport(**{key: value for key, value in about.items() if key != "python"})
    Results(tmp_path).add_text(report)
    with pytest.raises(ValueError, match=r"holds results on the standard library of Python 3\.11\.7"):
        Results(tmp_path).add_text(replace(report, digest="another"))
