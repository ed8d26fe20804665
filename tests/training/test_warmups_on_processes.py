"""Lengths and batch sizes that grow, on several processes: the rows of one, and an exact resume after a kill."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from processes import config, start
from runs import assert_same_training_state, fit, on_processes
from trained_rows import Rows

from lit_recycle.callbacks import BatchSizeWarmup, GrowthCallback, SequenceLengthWarmup
from lit_recycle.checkpoints.native import load_whole_checkpoint
from lit_recycle.cli import main
from lit_recycle.data.batch_warmup import BatchStage
from lit_recycle.data.span import Span
from lit_recycle.growth.event import Depth, GrowthEvent, Trigger

STEPS = 6
KINDS = {
    "warm-up": lambda: SequenceLengthWarmup(8, Span(steps=4)),
    "growth": lambda: GrowthCallback([GrowthEvent(Trigger(steps=3), Depth(2), seq_len=24)], start_seq_len=8),
}


def train(root: Path, kind: str, strategy: str, saved: Path | None = None) -> Rows:
    batches = BatchSizeWarmup([BatchStage(1, Span(steps=1))], sqrt_rate=True)
    options = {"steps": STEPS, "events": [], "before_growth": [KINDS[kind](), batches], "ckpt_path": saved}
    fit(root, strategy, callbacks=[rows := Rows()], accumulate_grad_batches=2, saves=(3, 4, STEPS), **options)
    return rows


def _two_processes(root: Path) -> None:
    for kind in KINDS:
        alone, ranks = (root / f"{kind} {name}" for name in ("one", "fsdp2"))
        runs = {
            "fsdp2": None,
            "fsdp2 on": ranks / "checkpoints/step=4.ckpt",
            "ddp on": alone / "checkpoints/step=3.ckpt",
        }
        for name, saved in runs.items():
            rows = train(root / f"{kind} {name}", kind, name.split()[0], saved)
            (root / f"{kind} {name} {torch.distributed.get_rank()}.json").write_text(json.dumps(rows.rows))


def by_step(rank: dict[str, list[Any]], other: dict[str, list[Any]]) -> dict[int, list[Any]]:
    """The rows of two processes as one would see them: micro-batch by micro-batch, in the order of ranks."""
    found = {}
    for step, rows in rank.items():
        size = len(rows) // (2 if int(step) > 1 else 1)
        batches = [rows[i : i + size] + other[step][i : i + size] for i in range(0, len(rows), size)]
        found[int(step)] = [row for batch in batches for row in batch]
    return found


def test_two_processes_see_what_one_sees(tmp_path: Path) -> None:
    whole = {kind: train(tmp_path / f"{kind} one", kind, "auto") for kind in KINDS}
    on_processes(2, _two_processes, tmp_path)
    last = f"checkpoints/step={STEPS}.ckpt"
    for kind, one in whole.items():
        assert [len(rows) for rows in one.rows.values()] == [4, 4, 8, 8, 8, 8]
        for name, begin in (("fsdp2", 0), ("fsdp2 on", 4), ("ddp on", 3)):
            ranks = [json.loads((tmp_path / f"{kind} {name} {rank}.json").read_text()) for rank in range(2)]
            assert by_step(*ranks) == {step: rows for step, rows in one.rows.items() if step >= begin}
        assert_same_training_state(tmp_path / f"{kind} fsdp2" / last, tmp_path / f"{kind} fsdp2 on" / last)


CALLBACKS: dict[str, list[dict[str, Any]]] = {
    "warm-up": [
        {
            "class_path": "lit_recycle.callbacks.SequenceLengthWarmup",
            "init_args": {"start": 8, "over": {"steps": 5}, "root": 2, "constant_tokens": True},
        }
    ],
    "growth": [
        {
            "class_path": "lit_recycle.callbacks.GrowthCallback",
            "init_args": {
                "start_seq_len": 8,
                "events": [
                    {"at": {"steps": 2}, "depth": {"factor": 2}, "seq_len": 16},
                    {
                        "at": {"steps": 4},
                        "grow": [{"class_path": "RotaryBase", "init_args": {"theta": 500}}],
                        "seq_len": 32,
                    },
                ],
            },
        }
    ],
}
BATCHES = {
    "class_path": "lit_recycle.callbacks.BatchSizeWarmup",
    "init_args": {"stages": [{"accumulate": 1, "until": {"tokens": 150}}], "sqrt_rate": True},
}


FSDP2 = ("--trainer.strategy", "fsdp2", "--trainer.devices", 2, "--data.batch_size", 2)
KILL = ("--trainer.callbacks+", "killing.Kill", "--trainer.callbacks.init_args.at")


def written(root: Path, kind: str) -> Path:
    """A configuration file with what grows, and a checkpoint after every step."""
    path = config(root, trainer__accumulate_grad_batches=2)
    values = yaml.safe_load(path.read_text())
    values["trainer"]["callbacks"] = [*CALLBACKS[kind], BATCHES, *values["trainer"]["callbacks"][1:]]
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize("kind", CALLBACKS)
def test_a_killed_command_goes_on_bit_for_bit(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From YAML, under FSDP2 with two processes; as it was planned."""

    def run(name: str, *options: object) -> list[int]:
        path = written(tmp_path / name, kind)
        command = start("fit", "--config", path, *FSDP2, *options, log=tmp_path / f"{name}.log", world=2)
        codes = command.wait()
        assert codes == [0, 0] or -signal.SIGKILL in codes, command.output
        return codes

    assert run("whole") == [0, 0]
    progress = load_whole_checkpoint(tmp_path / f"whole/checkpoints/step={STEPS}.ckpt")["progress"]
    assert main(["plan", "--config", str(tmp_path / "whole.yaml"), *map(str, FSDP2), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["stages"]
    assert [row["seq_len"] for row in rows] == ([[8, 32]] if kind == "warm-up" else [[8, 8], [16, 16], [32, 32]])
    assert rows[-1]["start_tokens"] + rows[-1]["tokens"] == progress["tokens_seen"]
    assert sum(row["flops"] for row in rows) == progress["flops_spent"]
    assert run("killed", *KILL, "step=4") != [0, 0]
    assert run("killed", "--ckpt_path", "last") == [0, 0]
    assert_same_training_state(*(tmp_path / name / f"checkpoints/step={STEPS}.ckpt" for name in ("whole", "killed")))
