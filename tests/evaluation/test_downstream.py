"""Downstream tasks: the numbers of EleutherAI's own client, in a run under every strategy, and changing nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import lightning as L
import pytest
from lm_tasks import CHOICE, write_task
from runs import CONFIG, TEXT, assert_same_training_state, fit, on_processes

from lit_recycle.cli import main
from lit_recycle.hub.export import export_checkpoint

lm_eval = pytest.importorskip("lm_eval", reason="a large install of its own: pip install 'lit-recycle[eval]'")

ROLLING = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{text}}",
    "metric_list": [{"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}],
}
WRITING = {
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": " ",
    "generation_kwargs": {"until": ["e"], "max_gen_toks": 6, "do_sample": False},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean"}],
}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    words = Path(TEXT, "decoder.py").read_text().split()
    rows = [
        {
            "question": " ".join(words[i : i + 4]),
            "choices": [f" {words[j]}" for j in range(i, i + 40, 10)],
            "answer": i % 4,
        }
        | {"text": " ".join(words[i : i + 30])}
        for i in range(0, 230, 10)
    ]
    for name, settings in (("tiny", CHOICE), ("rolling", ROLLING), ("writing", WRITING)):
        write_task(folder, name, rows, settings)
    return folder


class Keep(L.pytorch.loggers.logger.DummyLogger):
    """Points by tag, with their steps."""

    def __init__(self) -> None:
        super().__init__()
        self.points: dict[str, list[tuple[int, float]]] = {}

    def log_metrics(self, metrics, step=None) -> None:
        for tag, value in metrics.items():
            self.points.setdefault(tag, []).append((step, value))


def run(root: Path, tasks: Path, strategy: str = "auto") -> dict[str, list[tuple[int, float]]]:
    from lit_recycle.callbacks import DownstreamEval

    logger = Keep()
    names = ["tiny", "rolling"]
    callbacks = [DownstreamEval(names, every_n_steps=4, include_path=str(tasks), batch_size=5)]
    fit(root, strategy, saves=[9], logger=logger, callbacks=callbacks)
    return logger.points


@pytest.fixture(scope="module")
def grown(tasks: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    root = tmp_path_factory.mktemp("grown") / "run"
    return root, run(root, tasks)


def test_it_is_logged_at_intervals_and_around_growths(grown) -> None:
    _, points = grown
    assert [step for step, _ in points["eval/tiny/acc"]] == [0, 2, 3, 3, 5, 6, 7, 8]
    assert {"eval/tiny/acc_norm", "eval/tiny/acc_stderr", "eval/rolling/bits_per_byte"} <= points.keys()


def test_it_changes_nothing(grown, tmp_path) -> None:
    fit(tmp_path / "run", saves=[9])
    saved = "checkpoints/step=9.ckpt"
    assert_same_training_state(grown[0] / saved, tmp_path / "run" / saved)


def on_each(folder: Path, tasks: Path, strategy: str) -> None:
    points = run(folder / strategy, tasks, strategy)
    if os.environ["RANK"] == "0":  # who logs
        (folder / f"{strategy}.json").write_text(json.dumps(points))


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "fsdp2"])
def test_on_two_processes(grown, tasks, tmp_path, strategy) -> None:
    """Twenty-three questions, shared out unevenly."""
    on_processes(2, on_each, tmp_path, tasks, strategy)
    found = json.loads((tmp_path / f"{strategy}.json").read_text())
    for tag in ("eval/tiny/acc", "eval/rolling/bits_per_byte"):
        assert [step for step, _ in found[tag]] == [step for step, _ in grown[1][tag]]
        values, expected = ([value for _, value in points] for points in (found[tag], grown[1][tag]))
        assert values == pytest.approx(expected, abs=1e-4 if "bits" in tag else 0.05)


def test_the_table_has_what_lm_eval_itself_finds(tasks, tmp_path, capsys) -> None:
    config = CONFIG.replace(router_score="softmax", balance_bias=False, shared_expert_size=0)
    fit(tmp_path / "run", config=config, steps=9, saves=[9])
    checkpoint, hub = tmp_path / "run/checkpoints/step=9.ckpt", tmp_path / "hub"
    export_checkpoint(checkpoint, hub)
    names = ["tiny", "rolling", "writing"]
    argv = [
        "eval",
        str(checkpoint),
        str(hub),
        "--tasks",
        ",".join(names),
        "--include_path",
        str(tasks),
        "--device",
        "cpu",
    ]
    capsys.readouterr()
    assert main([*argv, "--json"]) == 0
    ours, theirs = json.loads(capsys.readouterr().out).values()
    assert ours == pytest.approx(theirs, abs=1e-5)
    from lm_eval.tasks import TaskManager

    results = lm_eval.simple_evaluate(
        model="hf",
        model_args=f"pretrained={hub},dtype=float32,max_length=32",
        tasks=names,
        task_manager=TaskManager(include_path=str(tasks)),
        device="cpu",
        bootstrap_iters=0,
    )["results"]
    assert ours["tiny/acc"] == pytest.approx(results["tiny"]["acc,none"])
    assert ours["tiny/acc_norm"] == pytest.approx(results["tiny"]["acc_norm,none"])
    assert ours["rolling/bits_per_byte"] == pytest.approx(results["rolling"]["bits_per_byte,none"], rel=1e-4)
    assert main(argv) == 0
    assert "tiny/acc_norm" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"tasks": ["tinny"]}, "lm-eval has no task 'tinny'"),
        ({"tasks": ["tiny"], "batch_size": 0}, "batch_size must be at least 1"),
        ({"tasks": ["tiny"], "limit": 0}, "limit must be at least 1, got 0"),
        ({"tasks": ["tiny"], "num_fewshot": -1}, "num_fewshot must be at least 0, got -1"),
    ],
)
def test_mistakes_are_told_before_the_run(tasks, options, told) -> None:
    from lit_recycle.callbacks import DownstreamEval

    with pytest.raises(ValueError, match=told):
        DownstreamEval(**{"include_path": str(tasks), **options})


def test_a_task_that_generates_is_refused_in_a_run(tasks, tmp_path) -> None:
    from lit_recycle.callbacks import DownstreamEval

    with pytest.raises(ValueError, match="lit-recycle eval does it"):
        fit(tmp_path, events=[], callbacks=[DownstreamEval(["writing"], include_path=str(tasks))])
