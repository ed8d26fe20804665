"""The page, its figures and the results agree; and what it says of a claim follows from the numbers."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from matplotlib.collections import PathCollection
from PIL import Image

from lit_recycle.experiments.__main__ import main
from lit_recycle.experiments.budgets import Settings, lay_out
from lit_recycle.experiments.comparison import METRICS, Comparison
from lit_recycle.experiments.corpus import CorpusReport
from lit_recycle.experiments.definition import label, load_experiments
from lit_recycle.experiments.figures import DATA, plates
from lit_recycle.experiments.page import IMAGES, _anchor, amounts, render
from lit_recycle.experiments.repeated import Repeat, repeated_section, repeats
from lit_recycle.experiments.results import Results, Spread, spread
from lit_recycle.experiments.saved import Clock, compute_saved, reaching
from lit_recycle.experiments.verdicts import correlations, verdict

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def test_page_figures_and_results_agree() -> None:
    text, made = render(load_experiments(ROOT / "configs" / "experiments"), Results(ROOT / "results"))
    assert (DOCS / "evidence.md").read_text(encoding="utf-8") == text, "run `make evidence`"
    drawn = {}
    for path in (DOCS / IMAGES).glob("*.png"):
        with Image.open(path) as image:
            drawn[path.stem] = image.text[DATA]
    assert drawn == {plate.name: plate.digest for plate in made}, "run `make evidence`"


def test_the_readme_says_what_the_results_say() -> None:
    """Compute until the grown run has the loss of the one from scratch, and who is the best of all."""
    results = Results(ROOT / "results")
    headline, speed = load_experiments(ROOT / "configs" / "experiments", ["headline", "speed"])
    arms = {point["arm"]: results.at(headline, point) for point, _ in headline.variants}
    clock = Clock([run for point, _ in speed.variants for run in results.at(speed, point)])
    saved = compute_saved(arms["grown"], arms["scratch, equal total"], clock)
    assert saved and len(saved.reached) == saved.seeds == 3
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert (
        f"{amounts(saved.reached)}, and the small one trained on is better than both (`make experiments ONLY=headline`)"
    ) in readme
    means = {arm: spread([run["metrics"]["loss"] for run in runs]).mean for arm, runs in arms.items()}
    assert min(means, key=lambda arm: means[arm]) == "small, trained on"


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


# --- what is said ----------------------------------------------------------------------------------------------------


def result(seed: int, loss: float, accuracy: float = 0.5) -> dict[str, Any]:
    return {"seed": seed, "metrics": {"loss": loss, "accuracy": accuracy}}


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ([1.00, 1.10, 1.20], [1.05, 1.15, 1.26], "agrees with the claim"),
        ([1.05, 1.15, 1.26], [1.00, 1.10, 1.20], "contradicts the claim"),
        ([1.00, 1.10, 1.20], [1.10, 1.00, 1.21], "inside the noise"),
        ([1.00, 1.10, 1.20], [1.02, 1.14, 1.26], "inside the noise"),  # 3.5 standard errors, but of three seeds
        ([1.0, 1.1, 1.2, 1.3, 1.4, 1.5], [1.02, 1.14, 1.26, 1.32, 1.44, 1.56], "agrees with the claim"),
        ([1.00], [1.10], "one seed only"),
        ([1.00], [], "not measured yet"),
    ],
)
def test_verdicts(first: list[float], second: list[float], said: str) -> None:
    runs = [[result(seed, loss, 2 - loss) for seed, loss in enumerate(losses)] for losses in (first, second)]
    for metric in ("loss", "accuracy"):  # of which the one is better when low, the other when high
        assert said in verdict(Comparison("a", "b", by=metric), "", *runs)


@pytest.mark.parametrize(
    ("second", "equal", "unclaimed"),
    [
        ([1.05, 1.15, 1.26], "contradicts the claim", "a is better"),
        ([0.95, 1.05, 1.14], "contradicts the claim", "b is better"),
        ([1.10, 1.00, 1.21], "inside the noise, as the claim has it", "inside the noise"),
    ],
)
def test_claims_of_equality_and_none(second: list[float], equal: str, unclaimed: str) -> None:
    runs = [[result(seed, loss, 2 - loss) for seed, loss in enumerate(losses)] for losses in ([1.0, 1.1, 1.2], second)]
    for metric in ("loss", "accuracy"):
        assert f"*a* as good as *b*, by {METRICS[metric]}: " in verdict(
            Comparison("a", "b", "equal", metric), "", *runs
        )
        assert verdict(Comparison("a", "b", "equal", metric), "", *runs).endswith(f"**{equal}**.")
        assert verdict(Comparison("a", "b", None, metric), "", *runs).endswith(f"**{unclaimed}**.")


@pytest.mark.parametrize("entry", [{"better": "a"}, {"equal": ["a", "b", "c"]}, {"compare": ["a", "b"], "worse": "a"}])
def test_an_entry_that_is_no_comparison_is_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="an entry of expect is"):
        Comparison.from_dict(entry, {"axis": ["a", "b", "c"]})


def test_a_comparison_holds_at_the_points_that_it_names() -> None:
    axes = {"sunk": ["1", "8"], "copies": ["stack", "middle", "8"]}
    points = [{"sunk": sunk, "copies": copies} for sunk in axes["sunk"] for copies in axes["copies"]]
    everywhere = Comparison.from_dict({"compare": ["stack", "middle"]}, axes)
    assert [where for where, _, _ in everywhere.pairs(points)] == ["sunk 1", "sunk 8"]
    ((where, first, second),) = Comparison.from_dict({"compare": ["8", "1"], "where": {"copies": 8}}, axes).pairs(
        points
    )
    assert (where, first, second) == ("copies 8", {"sunk": "8", "copies": "8"}, {"sunk": "1", "copies": "8"})


def test_sides_that_ran_on_different_machines_are_told() -> None:
    here, there = (
        [result(seed, loss) | {"machine": machine} for seed in (1, 2, 3)] for loss, machine in ((1.0, "a"), (1.1, "b"))
    )
    assert "(3 seeds, on different CPUs); " in verdict(Comparison("a", "b"), "", here, there)
    assert "(3 seeds); " in verdict(Comparison("a", "b"), "", here, here)


def test_differences_are_taken_seed_by_seed() -> None:
    far_apart = [result(1, 1.0), result(2, 3.0), result(3, 2.0)]
    other = [result(2, 3.1), result(3, 2.11), result(1, 1.1)]
    assert "-0.1033 ± 0.0033 (3 seeds); **agrees" in verdict(Comparison("a", "b"), "", far_apart, other)


def test_spread_is_the_standard_error_of_the_mean() -> None:
    assert spread([1.0, 2.0, 3.0]) == pytest.approx((2.0, 3**-0.5, 3))


CURVE = [[1, 10, 100, 1.0, 3.0], [2, 20, 200, 2.0, 2.0], [3, 30, 300, 4.0, 2.5], [4, 40, 400, 5.0, 1.5]]
"""Steps, tokens, FLOPs, CPU seconds, loss; the loss jumps up at a growth."""


def test_a_loss_is_reached_where_it_is_not_left_again() -> None:
    assert reaching(CURVE, 2.25) == (CURVE[2], CURVE[3], 0.25)
    assert reaching(CURVE, 1.5) == (CURVE[2], CURVE[3], 1.0)
    assert reaching(CURVE, 1.4) is None
    assert reaching(CURVE, 4.0) == (CURVE[0], CURVE[0], 0.0)


def made_of(settings: Settings, seed: int, losses: list[float], every: int = 3) -> dict[str, Any]:
    """A result with a point of its curve every few steps, ten FLOPs a step, whose clock says nothing."""
    base = yaml.safe_load((ROOT / "configs/experiments/base.yaml").read_text())
    fit, *_ = lay_out(base, settings, seed, unit=1_085_865_984)  # FLOPs of one step of the small model
    curve = [[every * i, 0, 10 * every * i, math.nan, loss] for i, loss in enumerate(losses, 1)]
    return {"seed": seed, "fit": fit, "curve": curve}


LARGE = {"model": {"config": {"num_layers": 4}}}


def timed(seed: int, seconds: float, fit: dict[str, Any]) -> dict[str, Any]:
    """A run that warms up for nine seconds until its first point, and then takes so long for each step."""
    result = made_of(Settings(extra=40, fit=fit), seed, [3.0, 2.0, 1.0])
    for i, row in enumerate(result["curve"]):
        row[3] = 9.0 + 3 * i * seconds
    return result


def test_compute_saved_is_a_ratio_per_seed() -> None:
    """4 steps of a second and 6.5 of three reach what 9 steps of three do, in seed 1."""
    runs = [
        made_of(Settings(sunk=4, extra=16, growths=[{"depth": {"factor": 2}}]), seed, [3.0, 2.5, 2.2, 1.8])
        for seed in (1, 2, 3)
    ]
    rivals = [made_of(Settings(extra=20, fit=LARGE), seed, [3.5, 3.0, end]) for seed, end in ((1, 2.0), (2, 1.0))]
    clock = Clock([timed(1, 1.0, {}), timed(1, 3.0, LARGE), timed(2, 1.0, {}), timed(2, 6.0, LARGE)])
    saved = compute_saved(runs, rivals, clock)
    assert saved and saved.seeds == 2
    (ratio,) = saved.reached
    assert ratio.flops == pytest.approx(10.5 / 9) and ratio.between == (1.0, 12 / 9)
    assert ratio.seconds == pytest.approx((4 * 1 + 6.5 * 3) / (9 * 3))
    assert clock(runs[1], 10) == pytest.approx(4 * 1 + 6 * 6)
    assert math.isnan(clock(runs[2], 10)), "no time is told where none was taken"
    assert amounts([ratio]) == "after 1.17 of its FLOPs (the curves have points at 1.00 and 1.33) and 0.87 of its time"
    assert amounts([ratio._replace(seconds=math.nan)]).endswith("1.33)")
    assert compute_saved(runs[2:], rivals, clock) is None


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


def test_another_text_is_refused_before_anything_runs(tmp_path: Path) -> None:
    known = json.loads((ROOT / "results/corpus.json").read_text())
    (tmp_path / "corpus.json").write_text(json.dumps(known))
    (about,) = known.values()
    report = CorpusReport(**{key: value for key, value in about.items() if key != "python"})
    Results(tmp_path).add_text(report)
    with pytest.raises(ValueError, match=r"holds results on the standard library of Python 3\.11\.7"):
        Results(tmp_path).add_text(replace(report, digest="another"))


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


def test_correlation_is_each_seeds_own() -> None:
    """Seeds that differ from each other, and in which more sunk compute always gives a lower loss."""
    (experiment,) = load_experiments(ROOT / "configs" / "experiments", ["sunk_extra"])
    results = Results(ROOT / "no-results")

    def at(_: object, point: dict[str, str]) -> list[dict[str, Any]]:
        from_scratch = 99.0 * (point["sunk"] == "0")  # no point of the line
        return [
            result(seed, seed - float(point["sunk"]) + from_scratch, 0.1 + seed * float(point["sunk"]))
            for seed in (1, 2, 9)
        ]

    results.at = at  # type: ignore[assignment, method-assign]
    loss, accuracy, _ = correlations(experiment, results)
    assert "validation loss with F_c before the growth, of what has grown: -1.00 ± 0.00 (3 seeds)" in loss
    assert "+1.00 ± 0.00 (3 seeds)" in accuracy


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
