"""What an experiment's file means: points, budgets, shared configurations, and mistakes in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from lit_recycle.experiments.budgets import Settings, lay_out, merge, phases, shape_of, sunk_in
from lit_recycle.experiments.definition import Experiment, load_experiment, load_experiments
from lit_recycle.growth.event import GrowthEvent
from lit_recycle.growth.schedule import flops_of

SHIPPED = Path(__file__).parents[2] / "configs" / "experiments"
EXPERIMENTS = load_experiments(SHIPPED)


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: e.name)
def test_shipped_experiments_spend_what_they_say(experiment: Experiment) -> None:
    for run in list(experiment.sweep())[: len(experiment.variants)]:
        settings = next(s for point, s in experiment.variants if point == run.point)
        stages, before = shape_of(run.fit).stages(), sunk_in(run.fit)
        first, last = stages[0], stages[-1]
        assert (last.end.flops + before.flops, last.end.steps + before.steps) == (run.flops, run.steps)
        total = (settings.sunk + settings.extra) * experiment.unit
        step = (last.end.flops - last.start.flops) / (last.end.steps - last.start.steps)
        assert abs(run.flops - total) <= step / 2 + 1, "equal budgets are equal to half a step"
        if settings.growths:
            least = 0 if settings.restart is None else -step  # a run of its own ends half a step around its budget
            assert least <= run.sunk_flops - settings.sunk * experiment.unit <= flops_of(first.last, first.shape)
        assert all(better in labels for better, labels in _claims(experiment))


def test_budgets_count_lengths_and_batches_that_grow() -> None:
    base, unit = yaml.safe_load((SHIPPED / "base.yaml").read_text()), 10**10
    growths = [{"depth": {"factor": 2}, "seq_len": 64}, {"after": 2.0, "width": {"factor": 2}, "seq_len": 128}]
    batches = {
        "class_path": "lit_recycle.callbacks.BatchSizeWarmup",
        "init_args": {"stages": [{"accumulate": 1, "until": {"tokens": 20000}}]},
    }
    fit = {"trainer": {"accumulate_grad_batches": 2, "callbacks": [batches]}}
    settings = Settings(extra=6.0, sunk=1.0, growths=growths, fit=fit, start_seq_len=32)
    made, borders, steps, flops, _ = lay_out(base, settings, 1, unit)
    stages = shape_of(made).stages()
    assert [stage.first.seq_len for stage in stages] == [32, 64, 128] and stages[-1].last.accumulate == 2
    assert (stages[-1].end.steps, stages[-1].end.flops) == (steps, flops)
    assert abs(flops - 7 * unit) <= stages[-1].last.tokens * stages[-1].shape.num_flops_per_token(128) / 2
    for (phase, end), stage in zip(phases(made, borders), stages, strict=False):
        assert all(callback["init_args"].get("events", True) for callback in phase["trainer"]["callbacks"])
        last = shape_of(merge(phase, {"trainer": {"max_steps": end}})).stages()[-1]
        assert (last.end, last.last.seq_len, last.last.tokens) == (stage.end, stage.last.seq_len, stage.last.tokens)
    alone = replace(settings, growths=())
    with pytest.raises(ValueError, match="start_seq_len is the length before a growth, and there is none"):
        lay_out(base, alone, 1, unit)


def _claims(experiment: Experiment) -> list[tuple[str, list[str]]]:
    labels = [label for axis in experiment.axes.values() for label in axis]
    return [(name, labels) for claim in experiment.expect for name in (claim.first, claim.second)]


def test_names_of_results_differ() -> None:
    names = [(e.name, run.name) for e in EXPERIMENTS for run in e.sweep()]
    assert len(set(names)) == len(names)


def test_a_run_that_two_experiments_ask_for_is_one() -> None:
    optimizer, order = (next(e for e in EXPERIMENTS if e.name == name) for name in ("optimizer", "order"))
    phases = {yaml.safe_dump(fit) for e in (optimizer, order) for run in e.sweep() for fit, _ in run.phases()[:1]}
    assert len(phases) == len(optimizer.seeds), "both grow from the same small model after the same training"


def test_growths_are_events_of_the_callback() -> None:
    (order,) = load_experiments(SHIPPED, ["order"])
    run = order.run({"order": "width, depth"}, seed=2)
    (callback,) = run.fit["trainer"]["callbacks"]
    assert [event["at"]["flops"] for event in callback["init_args"]["events"]] == [order.unit, 2 * order.unit]
    events = shape_of(run.fit).events
    assert [type(event) for event in events] == [GrowthEvent] * 2 and events[0].width and events[1].depth
    assert run.fit["seed_everything"] == run.fit["data"]["seed"] == callback["init_args"]["seed"] == 2
    assert len(run.borders) == 3 and run.sunk_flops >= order.unit


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vary": {"a": {"b": {"extra": 1, "colour": 2}}}}, "unknown settings: colour"),
        ({"vary": {"a": {"b": {}}}}, "says no extra"),
        ({"colour": 2}, "unknown keys: colour"),
        (None, "missing keys: letter, paper, question, seeds, title, vary"),
        ("a: [", "while parsing"),
        ({"vary": {"a": {"b": {"extra": 1, "growths": [{"after": 2, "depth": {}}]}}}}, "leaves nothing to train"),
        ({"vary": {"a": {"b": {"sunk": 1, "extra": 1, "decay": 1.5, "growths": [{"depth": {}}]}}}}, "before the last"),
        ({"vary": {"a": {"b": {"extra": 1, "growths": [{"depth": {"factor": 1}}]}}}}, "depth.factor"),
        ({"vary": {"a": {"by 3/2": {"extra": 1}}}}, "has a slash"),
        ({"expect": [{"better": "b"}]}, "an entry of expect is {better: A, worse: B}"),
        ({"expect": ["b better than c"]}, "an entry of expect is {better: A, worse: B}"),
        ({"expect": [{"compare": ["b", "c"]}]}, "no two labels of one axis"),
        ({"expect": [{"compare": ["b", "b"], "by": "los"}]}, "no metric 'los'; choose from loss"),
        ({"expect": [{"compare": ["b", "b"], "where": {"a": 8}}]}, "'8' is no label of the axis 'a'"),
    ],
)
def test_mistakes_are_told_with_the_file(tmp_path: Path, change: dict | str | None, message: str) -> None:
    said = {"letter": "x", "title": "X", "question": "?", "paper": "!", "seeds": [1]}
    (tmp_path / "base.yaml").write_text((SHIPPED / "base.yaml").read_text())
    whole = said | {"vary": {"a": {"b": {"extra": 1}}}}
    text = yaml.safe_dump(whole | change) if isinstance(change, dict) else change or ""
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ValueError, match=rf"(?s)x\.yaml: .*{message}"):
        load_experiment(tmp_path / "x.yaml")


def test_an_unknown_name_is_told_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"no experiment headlines .* headline"):
        load_experiments(SHIPPED, ["headlines"])
