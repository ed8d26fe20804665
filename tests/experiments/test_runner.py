"""Experiments end to end on tiny models: shared beginnings, a kill, and what is finished is not repeated."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import yaml
from processes import TEXT, fork
from runs import assert_same_training_state

from lit_recycle import cli
from lit_recycle.checkpoints.native import load_whole_checkpoint
from lit_recycle.experiments.budgets import Fit, merge, stages_of, until
from lit_recycle.experiments.definition import Experiment, load_experiments
from lit_recycle.experiments.launch import Settings
from lit_recycle.experiments.runner import Runner, alone
from lit_recycle.experiments.tasks import END, tasks_for

BASE = Path(__file__).parents[2] / "configs" / "experiments" / "base.yaml"

TINY = {
    "trainer": {"val_check_interval": 10, "limit_val_batches": 2},
    "model": {
        "config": {
            "hidden_size": 16,
            "num_heads": 2,
            "num_kv_heads": 1,
            "num_experts": 2,
            "top_k": 1,
            "expert_size": 8,
        },
        "lr_scheduler": {"init_args": {"warmup_steps": 2}},
    },
    "data": {"seq_len": 32, "batch_size": 4, "val_fraction": 0.3},
}

TINY_EXPERIMENT = """
letter: x
title: Tiny
question: Does the machinery work?
paper: It does not say.
seeds: [1]
common: {decay: 0.01}
vary:
  arm:
    grown:
      sunk: 0.02
      extra: 0.03
      growths: [{depth: {factor: 2}, width: {factor: 2, noise: 0.01}, rewarm: {steps: 4}}]
    small: {extra: 0.05}
expect: [{better: grown, worse: small}]
"""


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("configs")
    (folder / "base.yaml").write_text(yaml.safe_dump(merge(yaml.safe_load(BASE.read_text()), TINY)))
    (folder / "tiny.yaml").write_text(TINY_EXPERIMENT)
    return folder


def runner(configs: Path, root: Path, workers: int = 2) -> Runner:
    settings = Settings(root / "work", root / "results", workers, items=4, checkpoint_steps=5, text=TEXT)
    return Runner(load_experiments(configs), settings)


def run(configs: Path, root: Path) -> None:
    assert runner(configs, root, workers=1).run() == 0


def wait_for(found: object, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not found():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.005)


def in_one_piece(fit: Fit, root: Path, work: Path) -> Path:
    """The end of the same run, trained by one call of fit."""
    end = root / "end.ckpt"
    callbacks = [{"class_path": "lit_recycle.callbacks.RunRecord", "init_args": {"end": str(end)}}]
    callbacks += fit["trainer"].get("callbacks") or []
    paths = {
        "trainer": {"default_root_dir": str(root), "callbacks": callbacks},
        "data": {"path": str(work / "corpus" / "documents.jsonl"), "cache_dir": str(work / "corpus" / "cache")},
    }
    root.mkdir()
    (root / "fit.yaml").write_text(yaml.safe_dump(merge(fit, paths)))
    assert cli.main(["fit", "--config", str(root / "fit.yaml")]) == 0
    return end


def test_a_killed_experiment_goes_on_and_ends_as_runs_in_one_piece(
    configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = fork(run, configs, tmp_path)
    first = runner(configs, tmp_path)
    grown, small = first.open_runs()
    trunk = first.open_tasks()[0]
    assert trunk.run is None and trunk.steps == grown.borders[0]
    saved = tmp_path / "work" / grown.key / "checkpoints"
    wait_for(lambda: list(saved.glob("step=*.ckpt")))
    assert trunk.steps < int(next(saved.glob("step=*.ckpt")).stem.partition("=")[2]) < grown.steps
    assert killed.pid
    os.kill(killed.pid, signal.SIGKILL)
    trained = (tmp_path / "work" / trunk.key / END).stat().st_mtime_ns
    killed.join()

    second = runner(configs, tmp_path)
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)  # checkpoints of finished runs are looked at below
    assert second.run() == 0
    assert (tmp_path / "work" / trunk.key / END).stat().st_mtime_ns == trained
    results = sorted((tmp_path / "results" / "tiny").iterdir())
    assert [path.name for path in results] == ["grown_seed=1.json", "small_seed=1.json"]
    log = (tmp_path / "work" / grown.key / "log.txt").read_text()
    assert f"{grown.key}/checkpoints/step=" in log, "the killed run went on from its own checkpoint"
    result = second.results.get(grown)
    assert result and result["flops"] == grown.flops and result["steps"] == grown.steps
    assert [growth["steps"] for growth in result["growths"]] == [grown.borders[0]]
    steps = [row[0] for row in result["curve"]]
    assert steps == sorted(set(steps)) and steps[0] == 10 and steps[-1] == grown.steps

    for one in (grown, small):
        whole = in_one_piece(one.fit, tmp_path / one.name, tmp_path / "work")
        assert_same_training_state(tmp_path / "work" / one.key / END, whole)

    third = runner(configs, tmp_path)
    assert not third.open_tasks() and third.plan()[0]["done"] == 2
    assert load_whole_checkpoint(whole)["global_step"] == small.steps


def test_two_runners_on_one_folder_are_refused(configs: Path, tmp_path: Path) -> None:
    with alone(tmp_path / "work"), pytest.raises(ValueError, match="already running"):
        runner(configs, tmp_path).run()


def test_what_runs_have_in_common_is_trained_once(configs: Path, tmp_path: Path) -> None:
    (experiment,) = load_experiments(configs)
    runs = list(experiment.sweep())
    tasks = tasks_for(runs, tmp_path)
    assert [task.parent for task in tasks] == [None, tasks[0].key, tasks[0].key]
    assert tasks_for(runs[:1], tmp_path)[0].parent is None, "nothing is shared, so nothing is split"
    (tmp_path / tasks[0].key).mkdir()
    (tmp_path / tasks[0].key / END).touch()
    (left,) = tasks_for(runs[:1], tmp_path)
    assert left.parent == tasks[0].key and left.start == tasks[0].steps


RESTARTS = """
letter: x
title: Tiny
question: Does the machinery work?
paper: It does not say.
seeds: [1]
common: {sunk: 0.02, extra: 0.03, decay: 0.01, growths: [{depth: {factor: 2}}]}
vary:
  base:
    decayed: {restart: {decay: 0.01}}
    merged: {restart: {merge: 2, over: 0.01}}
"""


def restarts(configs: Path, root: Path) -> Path:
    folder = root / "configs"
    folder.mkdir()
    (folder / "base.yaml").write_text((configs / "base.yaml").read_text())
    (folder / "restarts.yaml").write_text(RESTARTS)
    return folder


def test_a_run_that_begins_anew_does_so_from_the_mean_of_others(
    configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)
    monkeypatch.setattr(Experiment, "sweep", lambda experiment: [experiment.run({"base": "merged"}, 1)])
    whole = runner(restarts(configs, tmp_path), tmp_path)
    (merged,) = whole.open_runs()
    assert whole.run() == 0 and not whole.open_tasks()

    first, taken, work = merged.fit["start"]["fit"], merged.fit["start"]["taken"], tmp_path / "work"
    assert len(set(taken)) == 2 and taken[-1] == first["trainer"]["max_steps"]
    ends = [in_one_piece(until(first, step), tmp_path / f"first{step}", work) for step in taken]
    assert cli.main(["merge", *map(str, ends), str(tmp_path / "mean.ckpt")]) == 0
    fit = {key: value for key, value in merged.fit.items() if key != "start"}
    start = {"init_from": str(tmp_path / "mean.ckpt")}
    fit["model"] = {key: value for key, value in fit["model"].items() if key != "config"} | start
    assert_same_training_state(work / merged.key / END, in_one_piece(fit, tmp_path / "anew", work))
    result = whole.results.get(merged)
    assert result and result["flops"] == merged.flops == stages_of(merged.fit)[-1].end.flops + merged.sunk_flops
    assert [growth["flops"] for growth in result["growths"]] == [merged.sunk_flops]
    assert result["curve"][0][0] > taken[-1] and result["curve"][-1][2] == merged.flops


def test_what_runs_begin_from_is_trained_once(configs: Path, tmp_path: Path) -> None:
    (experiment,) = load_experiments(restarts(configs, tmp_path))
    decayed, merged = experiment.sweep()
    tasks = tasks_for([decayed, merged], tmp_path)
    by_run = {task.run.point["base"]: task for task in tasks if task.run}
    needs = {base: [next(t for t in tasks if t.key == key) for key in by_run[base].needs] for base in by_run}
    assert [t.steps for t in needs["decayed"]] == decayed.fit["start"]["taken"]
    assert [t.steps for t in needs["merged"]] == merged.fit["start"]["taken"]
    (end,) = needs["decayed"]
    rate = end.fit["model"]["lr_scheduler"]["init_args"]
    assert rate["decay_steps"] and end.parent, "it decays, and goes on from what is trained at the constant rate"
    assert all(not t.fit["model"]["lr_scheduler"]["init_args"]["decay_steps"] for t in needs["merged"])
    assert needs["merged"][1].parent == needs["merged"][0].key
    assert len(tasks) == len({t.key for t in tasks})
    for task in [task for task in tasks if not task.run]:
        (tmp_path / task.key).mkdir()
        (tmp_path / task.key / END).touch()
    assert [t.run for t in tasks_for([decayed, merged], tmp_path)] == [decayed, merged]
