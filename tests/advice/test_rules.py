"""Rules of advice on cases whose answer follows by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from helpers import tiny

from lit_recycle.advice.options import AXES
from lit_recycle.advice.remarks import g_stack_tokens, profile_remarks
from lit_recycle.advice.rules import ENOUGH, HALF, QUARTER, TOO_LITTLE, _depth_lines, advise, moments
from lit_recycle.advice.situation import Situation
from lit_recycle.experiments.budgets import stages_of
from lit_recycle.experiments.definition import load_experiments
from lit_recycle.experiments.results import Results, difference
from lit_recycle.growth import operators
from lit_recycle.growth.native import NativeModel
from lit_recycle.growth.plan import plan_growth
from lit_recycle.growth.schedule import Progress
from lit_recycle.growth.shape import chinchilla_flops
from lit_recycle.model.config import MoEConfig

CONFIG = tiny()
UNIT = chinchilla_flops(CONFIG)


def at(sunk: float, budget: float, **known: object) -> Situation:
    return Situation(CONFIG, Progress(10, 100, round(sunk * UNIT)), budget * UNIT, **known)  # type: ignore[arg-type]


def test_a_model_of_the_best_size_goes_on() -> None:
    advice = advise(at(0, 1.2))
    assert not advice.growths and any("go on with this model" in remark for remark in advice.remarks)


def test_no_growth_is_advised_where_runs_say_that_none_pays() -> None:
    """Whatever the formula of the best size wants; and where the page has no say it is said."""
    totals = TOO_LITTLE, 1.9 * TOO_LITTLE, 0.6 * ENOUGH, ENOUGH
    below, near, between, above = (advise(at(1, total - 1)) for total in totals)
    for advice, is_near in ((below, False), (near, True)):
        (told,) = (remark for remark in advice.remarks if "no growth in spite of that" in remark)
        assert not advice.growths and ("7.6 is nearer to that than to the 16" in told) == is_near
    assert between.growths and any(remark.endswith("this lies between") for remark in between.remarks)
    assert above.growths and not any("this lies between" in remark for remark in above.remarks)


@pytest.mark.parametrize(("name", "better"), [("headline", "small, trained on"), ("headline_late", "grown")])
def test_where_growing_pays_is_what_the_results_say(name: str, better: str) -> None:
    root = Path(__file__).parents[2]
    (experiment,) = load_experiments(root / "configs/experiments", [name])
    results = Results(root / "results")
    found = {arm: results.at(experiment, {"arm": arm}) for arm in ("grown", "small, trained on")}
    (worse,) = found.keys() - {better}
    change = difference(found[better], found[worse], "loss")
    assert change and change.is_better and change.is_clear()
    total = {round(run["flops"] / experiment.unit, 1) for runs in found.values() for run in runs}
    assert total == {TOO_LITTLE if better != "grown" else ENOUGH}


def test_a_decayed_rate_that_goes_up_again_is_told() -> None:
    (told,) = (remark for remark in advise(at(1, 2, rate=0.1)).remarks if "rate" in remark)
    assert "stands at 10% of the full one" in told
    assert not any("rate" in remark for remark in advise(at(1, 2, rate=1.0)).remarks)


def test_every_axis_can_be_grown_and_its_copies_part() -> None:
    """Copies of channels without a broken symmetry are one channel for ever."""
    for written in AXES.values():
        grown = [getattr(operators, one["class_path"])(**one["init_args"]) for one in written]
        assert plan_growth(NativeModel(CONFIG), grown).steps
        assert all(getattr(operator, "symmetry_break", 1.0) or operator.noise for operator in grown)


def test_a_growth_with_less_than_the_sunk_compute_left_is_not_advised() -> None:
    assert advise(at(40, 41)).growths
    advice = advise(at(40, 39))
    assert not advice.growths and any("at least the sunk FLOPs" in remark for remark in advice.remarks)


def test_growths_come_after_a_quarter_and_half_of_all_flops_or_now() -> None:
    deep, wide = advise(at(0, 60)).growths
    assert (deep.at_flops, wide.at_flops) == (15 * UNIT, 30 * UNIT)
    assert (deep.axis, wide.axis) == ("depth", "width")
    assert deep.event()["depth"] == {"factor": 2, "method": "interposition"}
    now, wide = advise(at(20, 60)).growths
    assert (now.at_flops, wide.at_flops) == (20 * UNIT, 40 * UNIT)
    assert now.when.startswith("now") and wide.when.startswith("half")
    (only,) = advise(at(35, 45)).growths
    assert only.at_flops == 35 * UNIT, "half of all FLOPs is too near for a second one"
    assert moments(at(0, 8), 1) == [4 * UNIT]


@pytest.mark.parametrize("name", ["headline", "headline_late", "headline_ten"])
def test_the_moments_are_those_that_were_measured(name: str) -> None:
    (experiment,) = load_experiments(Path(__file__).parents[2] / "configs/experiments", [name])
    run = experiment.run({"arm": "grown"}, 1)
    first, second, _ = stages_of(run.fit)
    shares = [first.end.flops / run.flops, second.end.flops / run.flops]
    assert shares == pytest.approx([QUARTER, HALF], rel=0.02)


def test_what_was_spent_before_the_run_is_sunk() -> None:
    """And the counter of the run, which events wait for, does not know of it."""
    now, wide = advise(Situation(CONFIG, Progress(0, 0, 0), 60.0 * UNIT, before=20.0 * UNIT)).growths
    assert (now.at_flops, wide.at_flops) == (0, 20 * UNIT)
    assert advise(Situation(CONFIG, Progress(0, 0, 0), 60.0 * UNIT, before=61.0 * UNIT)).growths == []


def test_two_growths_may_be_too_few() -> None:
    told = "do not reach the best size"
    assert any(told in remark for remark in advise(at(0, 1e6)).remarks)
    assert not any(told in remark for remark in advise(at(0, 16)).remarks)


@pytest.mark.parametrize(("share", "method"), [(1.0, "stack"), (1.01, "interposition")])
def test_layers_are_stacked_before_the_profile_of_norms_is_formed(share: float, method: str) -> None:
    """Only a law fitted on runs has a model grow so early."""
    _, line, *_ = _depth_lines(at(0, 1.98), share * UNIT)
    assert (line.key, line.value) == ("depth.method", method) and "docs/evidence.md, a" in line.source


@pytest.mark.parametrize(
    ("profile", "method"),
    [([0.1, 0.2, 0.3, 0.25], "interposition"), ([0.1, 0.2, 0.15, 0.12], "stack"), ([1, 2], "stack")],
)
def test_a_profile_that_has_formed_is_not_broken_by_a_stack(profile: list[float], method: str) -> None:
    _, line, *_ = _depth_lines(at(0.5, 1.5, profile=profile), 0.5 * UNIT)
    assert line.value == method


@pytest.mark.parametrize(("sunk", "budget"), [(1, 30), (3, 60), (10, 200), (30, 60)])
def test_after_every_growth_no_less_is_left_than_was_sunk_before(sunk: float, budget: float) -> None:
    situation = at(sunk, budget)
    growths = advise(situation).growths
    assert growths
    for growth in growths:
        assert situation.total - growth.at_flops >= growth.at_flops * (1 - 1e-9)
    assert [growth.at_flops for growth in growths] == sorted(growth.at_flops for growth in growths)


def test_a_checkpoint_without_optimizer_is_reset_and_warmed_up() -> None:
    (growth, *_) = advise(at(20, 60, optimizer=False)).growths
    assert growth.event()["optimizer_state"] == "reset" and growth.event()["rewarm"] == {"steps": 100}
    (growth, *_) = advise(at(20, 60, rate=0.1)).growths
    assert growth.event()["optimizer_state"] == "carry" and growth.event()["rewarm"] == {"steps": 100}
    (growth, *_) = advise(at(20, 60, rate=1.0)).growths
    assert "rewarm" not in growth.event()


def test_a_later_growth_finds_another_rate_and_state_than_the_checkpoint_has() -> None:
    advice = advise(at(4, 60, rate=0.1, optimizer=False))
    event = advice.growths[0].event()
    assert event["at"]["flops"] == 16 * UNIT and event["optimizer_state"] == "carry" and "rewarm" not in event
    assert any("stands at 10% of the full one" in remark for remark in advice.remarks)


def test_every_line_has_a_source() -> None:
    for growth in advise(at(3, 60)).growths:
        assert all(line.source for line in growth.lines)


def test_profile_tells_how_a_stack_would_break_it() -> None:
    rises, breaks = profile_remarks(at(1, 1, profile=[0.01, 0.02, 0.03, 0.04, 0.035]))
    assert "rises at 3 of 4 steps, so it has formed" in rises
    assert "-0.0250, 2.5 times the largest" in breaks
    (short,) = profile_remarks(at(1, 1, profile=[0.01, 0.02]))
    assert "too few layers" in short


def test_g_stack_formula_gives_the_order_of_its_authors_choice() -> None:
    """Some ten billion tokens for a model of seven billion parameters trained on 300 billion (arXiv 2405.15319)."""
    dense = MoEConfig(
        vocab_size=32000, hidden_size=4096, num_layers=32, num_heads=32, dense_layers=range(32), dense_size=11008
    )
    params = dense.num_params() - 2 * 32000 * 4096
    tokens = g_stack_tokens(dense, 6 * params * 300e9)
    assert math.log10(tokens) == pytest.approx(
        0.88 * math.log10(params) + 163.27 / math.log10(6 * params * 300e9) - 5.74
    )
    assert 3e9 < tokens < 5e10
