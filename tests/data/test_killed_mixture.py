"""A run over several sources in stages, killed at random and resumed on 1, 2 and 3 processes, sees the same samples."""

import random
import signal
from pathlib import Path

import numpy as np
import pytest
import zstandard
from data import token_files
from processes import Command, config, start
from runs import assert_same_training_state
from witness import steps_seen

STEPS, KILLS = 12, 3
LAST = f"checkpoints/step={STEPS}.ckpt"
STAGES = [
    {"weights": {"web": 3, "code": 1}, "until": {"tokens": 6 * 32 * 5 - 10}},
    {"weights": {"web": 1, "code": 0.5, "rows": 1.5}},
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Sources of three formats."""
    tmp_path = tmp_path_factory.mktemp("data")
    draw = np.random.default_rng(0)
    texts = [draw.integers(97, 123, 300, dtype=np.uint8).tobytes().decode() for _ in range(90)]
    (tmp_path / "web").mkdir()
    for number, text in enumerate(texts[:30]):
        (tmp_path / f"web/{number}.txt").write_text(text)
    lines = "".join(f'{{"body": "{text}"}}\n' for text in texts[30:60])
    (tmp_path / "code.jsonl.zst").write_bytes(zstandard.compress(lines.encode()))
    rows = token_files.megatron(tmp_path, [np.array([*text.encode(), 256]) for text in texts[60:]])
    sources = [
        {"name": "web", "path": str(tmp_path / "web")},
        {"name": "code", "path": str(tmp_path / "code.jsonl.zst"), "text_field": "body"},
        {"name": "rows", "path": str(rows)},
    ]
    return {"sources": sources, "stages": STAGES, "seq_len": 32, "cache_dir": str(tmp_path / "cache")}


def fit(root: Path, data: dict, world: int = 1, *options: object) -> Command:
    several = ("--trainer.strategy", "ddp", "--trainer.devices", world) if world > 1 else ()
    witness = ("--trainer.callbacks+", "witness.Witness", "--trainer.callbacks.init_args.folder", root / "seen")
    settings = config(root, data={**data, "batch_size": 6 // world}, trainer__max_steps=STEPS)
    log = root.with_name(f"{root.name}-{len(list(root.parent.iterdir()))}.log")
    root.mkdir(exist_ok=True)
    argv = ("fit", "--config", settings, *several, *witness, "--ckpt_path", "last", *options)
    return start(*argv, log=log, world=world)


def killed_until_the_end(root: Path, data: dict, worlds: tuple[int, ...], draw: random.Random) -> None:
    """Kills, each at a moment and a step drawn at random after the last one, and a last process that ends."""
    for number, step in enumerate(sorted(draw.sample(range(1, STEPS), KILLS))):
        at = f"{draw.choice(('step', 'saving', 'saved'))}={step}"
        kill = ("--trainer.callbacks+", "killing.Kill", "--trainer.callbacks.init_args.at", at)
        run = fit(root, data, worlds[number % len(worlds)], *kill)
        assert -signal.SIGKILL in run.wait(300), run.output
    run = fit(root, data, worlds[-1])
    assert set(run.wait(300)) == {0}, run.output


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs") / "whole"
    run = fit(root, data)
    assert run.wait() == [0], run.output
    return root


@pytest.mark.parametrize("worlds", [(1,), (1, 2, 3)])
def test_killed_at_random_moments(tmp_path, data, undisturbed, worlds):
    whole = steps_seen(undisturbed / "seen")
    rows = [str(row) for step in range(STEPS) for row in whole[step][0]]
    assert len(set(rows)) == len(rows) == 6 * STEPS
    killed_until_the_end(tmp_path / "killed", data, worlds, random.Random(len(worlds)))
    seen = steps_seen(tmp_path / "killed/seen")
    assert seen.keys() == whole.keys()
    assert all(rows == whole[step][0] for step, times in seen.items() for rows in times)
    if worlds == (1,):
        assert_same_training_state(undisturbed / LAST, tmp_path / "killed" / LAST)
