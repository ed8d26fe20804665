"""The page, its figures and the results agree."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from matplotlib.collections import PathCollection
from PIL import Image

from lit_recycle.experiments.__main__ import main
from lit_recycle.experiments.definition import load_experiments
from lit_recycle.experiments.figures import DATA, Plate, plates
from lit_recycle.experiments.page import IMAGES, _anchor, amounts, render
from lit_recycle.experiments.results import Results, difference, spread
from lit_recycle.experiments.saved import Clock, compute_saved
from lit_recycle.experiments.verdicts import correlations

ROOT = Path(__file__).parents[2]


DOCS = ROOT / "docs"
COLUMNS = ("small, trained on", "grown", "scratch, equal total", "scratch, equal extra")
"""Of the README's table."""


@pytest.fixture(scope="module")
def rendered() -> tuple[str, list[Plate]]:
    return render(load_experiments(ROOT / "configs" / "experiments"), Results(ROOT / "results"))


def test_page_figures_and_results_agree(rendered: tuple[str, list[Plate]]) -> None:
    text, made = rendered
    assert (DOCS / "evidence.md").read_text(encoding="utf-8") == text, "run `make evidence`"
    drawn = {}
    for path in (DOCS / IMAGES).glob("*.png"):
        with Image.open(path) as image:
            drawn[path.stem] = image.text[DATA]
    assert drawn == {plate.name: plate.digest for plate in made}, "run `make evidence`"


def test_every_run_has_its_point(rendered: tuple[str, list[Plate]]) -> None:
    """But those that others are shown against."""
    figures = {plate.name: plate for plate in rendered[1]}
    for experiment in load_experiments(ROOT / "configs" / "experiments"):
        if plate := figures.get(experiment.name):
            against = experiment.figure.get("against")
            shown = [run for run in plate.shown if against is None or against not in run["point"].values()]
            for axes in plate.figure.axes:
                dots = [marks.get_offsets() for marks in axes.collections if isinstance(marks, PathCollection)]
                assert sum(map(len, dots)) == len(shown), experiment.name


def test_the_readme_says_what_the_results_say() -> None:
    """Compute until the grown run has the loss of the one from scratch, and who is the best of all."""
    results = Results(ROOT / "results")
    headline, speed = load_experiments(ROOT / "configs" / "experiments", ["headline", "speed"])
    arms = {point["arm"]: results.at(headline, point) for point, _ in headline.variants}
    clock = Clock([run for point, _ in speed.variants for run in results.at(speed, point)])
    saved = compute_saved(arms["grown"], arms["scratch, equal total"], clock)
    assert saved and len(saved.reached) == saved.seeds == 3
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"{amounts(saved.reached)}." in readme
    assert "| small, trained on | grown | large, from scratch | large, same compute as after the growth |" in readme
    rows = {"headline": "4 F_c (1)", "headline_late": "16 F_c (4)", "headline_ten": "4 F_c (1), ten times the size"}
    means = {}
    for experiment in load_experiments(ROOT / "configs" / "experiments", list(rows)):
        runs = {point["arm"]: results.at(experiment, point) for point, _ in experiment.variants}
        means[experiment.name] = {arm: spread([r["metrics"]["loss"] for r in rs]).mean for arm, rs in runs.items()}
        cells = [f"{means[experiment.name][arm]:.4f}" if arm in runs else "–" for arm in COLUMNS]
        assert f"| {rows[experiment.name]} | {' | '.join(cells)} |" in readme
    for name in ("headline", "headline_ten"):
        assert min(means[name], key=lambda arm: means[name][arm]) == "small, trained on"

    (late,) = load_experiments(ROOT / "configs" / "experiments", ["headline_late"])
    arms = {point["arm"]: results.at(late, point) for point, _ in late.variants}
    found = {arm: difference(arms["grown"], runs, "loss") for arm, runs in arms.items() if arm != "grown"}
    for arm, words in (("small, trained on", "training on"), ("scratch, equal extra", "the large model that has")):
        change = found[arm]
        assert change and change.is_clear() and change.is_better
        assert f"{-change.spread.mean:.4f} ± {change.spread.error:.4f} below {words}" in readme
    by_accuracy = [difference(arms["grown"], arms[arm], "accuracy") for arm in found]
    assert not any(change and change.is_clear() for change in by_accuracy)
    assert "By accuracy all of these are inside the noise" in readme
    level = found["scratch, equal total"]
    assert level and not level.is_clear() and "cannot be told from the large one that has all of it" in readme


def test_what_the_guide_calls_measured_stands_on_the_page() -> None:
    """A number that links to a section of the page is in that section."""
    sections = {}
    for text in (DOCS / "evidence.md").read_text(encoding="utf-8").split("\n## ")[1:]:
        sections[_anchor(text.partition("\n")[0])] = text
    guide = (DOCS / "design-a-schedule.md").read_text(encoding="utf-8")
    links = re.findall(r"\[([^\]]*)\]\(evidence\.md#([^)]+)\)", guide)
    assert len([said for said, _ in links if "±" in said]) >= 10
    for said, anchor in links:
        assert anchor in sections and ("±" not in said or said in sections[anchor]), (said, anchor)


def test_results_are_of_runs_that_there_are() -> None:
    results = Results(ROOT / "results")
    keys = {run.key for e in load_experiments(ROOT / "configs" / "experiments") for run in results.runs(e)}
    stale = [str(path.relative_to(ROOT)) for path, key in results.files.items() if key not in keys]
    assert not stale, "no experiment asks for these runs any more: remove them, or restore the configuration"
    for result in results.by_key.values():
        assert abs(result["curve"][-1][4] - result["metrics"]["loss"]) < 0.2, "the curve ends at the run's end"
        assert result["curve"][-1][2] == result["flops"]


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["compare", "results", "{here}/nothing"], "there is no folder {here}/nothing"),
        (["compare", "{here}", "results"], "{here}/x/damaged.json is no result of a run"),
        (["plan", "--results", "{here}"], "{here}/x/damaged.json is no result of a run"),
        (["plan", "--configs", "{here}/nothing"], "there is no experiment in {here}/nothing"),
        (["page", "--configs", "{here}", "--docs", "{here}"], "there is no experiment in {here}"),
        (["plan", "--workers", "0"], "workers must be at least 1, got 0"),
        (["run", "--threads", "-1"], "threads must be at least 1, got -1"),
    ],
)
def test_mistakes_are_told(
    argv: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "damaged.json").write_text('{"a": 1}' if "plan" in argv else "{")
    assert main([word.format(here=tmp_path) for word in argv]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {told.format(here=tmp_path)}") and error.count("\n") == 1


def result(seed: int, loss: float, accuracy: float = 0.5) -> dict[str, Any]:
    return {"seed": seed, "metrics": {"loss": loss, "accuracy": accuracy}}


def test_a_figure_against_a_variant_shows_differences_seed_by_seed() -> None:
    """Seed and sunk compute move a loss by whole numbers, a stack by a quarter; the second seed has no reference."""
    (experiment,) = load_experiments(ROOT / "configs" / "experiments", ["depth"])
    results = Results(ROOT / "no-results")

    def at(_: object, point: dict[str, str]) -> list[dict[str, Any]]:
        seeds = (1, 9) if point["copies"] == "interposition" else (9, 2, 1)
        gain = 0.25 * (point["copies"] == "stack")
        return [result(seed, seed + float(point["sunk"]) - gain, 0.5) | {"growths": []} for seed in seeds]

    results.at = at  # type: ignore[assignment, method-assign]
    assert correlations(experiment, results) == []
    plate, *_ = plates(experiment, results)
    assert plate.caption.startswith("Differences to *interposition*, seed by seed.")
    loss, _ = plate.figure.axes
    (stack,) = (line for line in loss.lines if line.get_label() == "stack")
    assert stack.get_ydata() == pytest.approx([-0.25] * 5)
    assert {len(dots.get_offsets()) for dots in loss.collections if isinstance(dots, PathCollection)} == {2}


def test_a_figure_against_a_variant_leaves_out_what_has_no_reference_yet() -> None:
    (experiment,) = load_experiments(ROOT / "configs" / "experiments", ["depth"])
    results = Results(ROOT / "no-results")

    def at(_: object, point: dict[str, str]) -> list[dict[str, Any]]:
        is_made = point["copies"] != "interposition" or point["sunk"] != "8"
        return [result(1, float(len(point["copies"])), 0.5) | {"growths": []}] if is_made else []

    results.at = at  # type: ignore[assignment, method-assign]
    loss, _ = plates(experiment, results)[0].figure.axes
    (stack,) = (line for line in loss.lines if line.get_label() == "stack")
    assert stack.get_ydata() == pytest.approx([len("stack") - len("interposition")] * 4)


def test_later_seeds_wait_for_the_sweep_and_take_its_best() -> None:
    (experiment,) = load_experiments(ROOT / "configs" / "experiments", ["headline"])
    assert experiment.best_of
    results, point = Results(ROOT / "no-results"), dict(experiment.variants[0][0])
    losses = {value: 1.0 + abs(value - 2.0e-3) for value in experiment.best_of.values}
    for value, loss in list(losses.items())[:-1]:
        results.by_key[experiment.run(point, 1, value).key] = result(1, loss)
    assert results.best_value(experiment, point) == 2.0e-3
    assert len(results.runs(experiment)) == len(list(experiment.sweep()))
    value, loss = list(losses.items())[-1]
    results.by_key[experiment.run(point, 1, value).key] = result(1, loss)
    known = results.runs(experiment)[len(list(experiment.sweep())) :]
    assert known == [experiment.run(point, seed, 2.0e-3) for seed in (2, 3)]
    assert [r["seed"] for r in results.at(experiment, point)] == [1]
