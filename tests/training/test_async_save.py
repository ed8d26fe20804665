"""Checkpoints written while training goes on are those written at once, and nothing that happens meanwhile is lost."""

from __future__ import annotations

import random
import resource
import signal
import threading
import time
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import MLFlowLogger, WandbLogger
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from processes import Command, config, start
from runs import assert_same_training_state, fit, on_processes

from lit_recycle.callbacks.async_save import AsyncSave
from lit_recycle.callbacks.monitor import GrowthHooks
from lit_recycle.checkpoints import background as background_module
from lit_recycle.checkpoints.atomic import save
from lit_recycle.checkpoints.background import Background
from lit_recycle.checkpoints.io import own_io
from lit_recycle.checkpoints.native import load_whole_checkpoint
from lit_recycle.checkpoints.plain_reader import INDEX, METADATA
from lit_recycle.checkpoints.staging import staged
from lit_recycle.growth.event import Depth, GrowthEvent, Trigger, Width

# --- the same bits ---------------------------------------------------------------------------------------------------

EVENTS = [GrowthEvent(Trigger(steps=2), depth=Depth(2)), GrowthEvent(Trigger(steps=3), width=Width(2, noise=0.01))]


class SaveTwice(GrowthHooks, L.Callback):
    """Before each step but the first: a checkpoint held back until the weights have changed, and the same at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.changed = threading.Event()

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if not trainer.global_step:
            return
        io, name = own_io(trainer.strategy), f"step={trainer.global_step}.ckpt"
        background = io.background
        assert background is not None
        background.wait()
        self.changed.clear()
        start_, changed = Background.save, self.changed
        Background.save = lambda self, checkpoint, write, peers: start_(
            self, checkpoint, lambda copy: write(copy) if changed.wait(60) else None, peers
        )
        trainer.save_checkpoint(self.root / "later" / name, weights_only=False)
        Background.save, io.background = start_, None
        trainer.save_checkpoint(self.root / "at once" / name, weights_only=False)
        io.background = background

    def on_growth_start(self, *_: Any) -> None:
        self.changed.set()

    def on_train_batch_end(self, *_: Any) -> None:
        self.changed.set()


class NothingIsSaved(GrowthHooks, L.Callback):
    """While the model grows."""

    def on_growth_start(self, trainer: L.Trainer, *_: Any) -> None:
        assert not own_io(trainer.strategy).background.is_saving


def run(root: Path, strategy: str) -> None:
    callbacks = [SaveTwice(root / strategy), AsyncSave(), NothingIsSaved()]
    fit(root / strategy, strategy, steps=5, events=EVENTS, saves=(), before_growth=callbacks)


def run_each(root: Path) -> None:
    for strategy in SEVERAL:
        run(root, strategy)


SEVERAL = ["ddp", "fsdp", "fsdp2", "fsdp_full"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("saved")
    run(root, "auto")
    on_processes(2, run_each, root)
    return root


@pytest.mark.parametrize("strategy", ["auto", *SEVERAL])
def test_what_is_written_later_is_what_is_written_at_once(saved: Path, strategy: str) -> None:
    """Byte for byte, but for the names and the time that torch writes into the index of a folder."""
    for step in range(1, 5):
        later, at_once = (saved / strategy / kind / f"step={step}.ckpt" for kind in ("later", "at once"))
        assert_same_training_state(later, at_once)
        assert later.is_dir() == (strategy in ("fsdp", "fsdp2"))
        files = [path for path in later.iterdir() if path.name not in (INDEX, METADATA)] if later.is_dir() else [later]
        assert len(files) == (2 if later.is_dir() else 1)
        for file in files:
            assert file.read_bytes() == (at_once / file.relative_to(later)).read_bytes()
        assert not list(later.parent.glob(".*"))


def test_a_copy_shares_what_the_original_shares_and_nothing_with_it() -> None:
    whole = torch.arange(6.0)
    original = {"a": whole, "b": [whole[2:4].view(2, 1)], "c": {"n": 3, "empty": torch.empty(0)}, "d": {"l": [1]}}
    copy = staged(original)
    original["d"]["l"].append(2)
    whole += 1
    assert copy["d"] == {"l": [1]} and copy["c"]["n"] == 3 and copy["c"]["empty"].numel() == 0
    assert copy["a"].tolist() == [0, 1, 2, 3, 4, 5] and copy["b"][0].tolist() == [[2], [3]]
    copy["a"][2] = 7
    assert copy["b"][0][0] == 7


# --- one at a time, errors, rotation ---------------------------------------------------------------------------------


def test_one_save_at_a_time_and_the_next_one_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    background, begun, go_on, now = Background(), [], threading.Event(), count()

    def clock() -> int:
        go_on.set()  # whoever waits asks for the time first
        return next(now)

    monkeypatch.setattr(background_module, "time", SimpleNamespace(perf_counter=clock))

    def write(number: int) -> None:
        begun.append(number)
        assert number == 2 or go_on.wait(60)

    background.save(1, write, needs_peers=False)
    background.check()
    background.save(2, write, needs_peers=False)
    background.wait()
    assert begun == [1, 2] and background.seconds_waited == 2


def test_an_error_is_told_once_by_whoever_looks_first() -> None:
    background, deleted = Background(), []

    def fails(_: int) -> None:
        time.sleep(0.1)
        raise OSError("no room")

    for look in (background.wait, lambda: background.save(1, fails, needs_peers=False)):
        background.save(1, fails, needs_peers=False)
        background.afterwards(lambda: deleted.append(1))
        with pytest.raises(OSError, match="no room"):
            look()
        background.wait()
        background.check()
    assert not deleted


def test_a_rotation_deletes_when_the_replacement_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def watched(checkpoint: dict[str, Any], path: Path) -> None:
        time.sleep(0.2)  # by now the rotation has been told to delete the one before
        seen.append(sorted(file.name for file in path.parent.glob("*.ckpt")))
        save(checkpoint, path)

    monkeypatch.setattr("lit_recycle.checkpoints.io.save", watched)
    rotation = ModelCheckpoint(
        tmp_path / "run", "s{step}", save_top_k=1, every_n_train_steps=1, monitor="step", mode="max"
    )
    fit(tmp_path / "fit", steps=3, events=[], saves=(), callbacks=[AsyncSave(), rotation])
    assert seen == [[], ["sstep=1.ckpt"], ["sstep=2.ckpt"]]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["sstep=3.ckpt"]


def test_waits_are_logged_on_request(tmp_path: Path) -> None:
    trainer, _, _ = fit(tmp_path / "run", steps=3, events=[], callbacks=[AsyncSave(log_wait=True)])
    assert float(trainer.callback_metrics["checkpoint/wait_seconds"]) >= 0
    trainer, _, _ = fit(tmp_path / "run", steps=3, events=[], callbacks=[AsyncSave()])
    assert "checkpoint/wait_seconds" not in trainer.callback_metrics


def test_what_cannot_be_saved_later_is_refused() -> None:
    trainer = SimpleNamespace(loggers=[SimpleNamespace(_log_model="all")])
    with pytest.raises(ValueError, match="log_model all sends each checkpoint at once"):
        AsyncSave().setup(trainer, None, "fit")
    with pytest.raises(ValueError, match=r"trainer.plugins has AsyncCheckpointIO.*callbacks.AsyncSave"):
        own_io(SimpleNamespace(checkpoint_io=AsyncCheckpointIO()))


def test_loggers_have_it_where_it_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a private name; nothing is sent anywhere."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")

    for logger in (
        WandbLogger(save_dir=tmp_path, log_model="all"),
        MLFlowLogger(save_dir=str(tmp_path), log_model="all"),
    ):
        assert logger._log_model == "all"


# --- whole runs ------------------------------------------------------------------------------------------------------

LAST = "checkpoints/step=6.ckpt"
ASYNC = ("--trainer.callbacks+", "lit_recycle.callbacks.AsyncSave")
TWO = ("--trainer.devices", "2", "--data.batch_size", "2", "--trainer.strategy")
STRATEGIES: dict[str, tuple[str, ...]] = {"alone": (), "ddp": (*TWO, "ddp"), "fsdp2": (*TWO, "fsdp2")}


def command(root: Path, strategy: str, *options: object, **more: Any) -> Command:
    world = 1 if strategy == "alone" else 2
    argv = ("fit", "--config", config(root), *STRATEGIES[strategy], *options)
    return start(*argv, log=root.with_name(f"{root.name}-{time.monotonic_ns()}.log"), world=world, **more)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The run that saves at once and is left alone, under each strategy: its last checkpoint."""
    root = tmp_path_factory.mktemp("undisturbed")
    for name in STRATEGIES:
        run = command(root / name, name)
        assert set(run.wait()) == {0}, run.output
    return {name: root / name / LAST for name in STRATEGIES}


def moments(seed: int, world: int) -> list[tuple[int, str, float, int | None]]:
    """Steps, moments, shares of a file and processes, in the order of steps: before growths (2, 4) and between them."""
    draw = random.Random(seed)
    steps = sorted(draw.sample(range(1, 7), 4 if world == 1 else 2))
    kinds = draw.sample(["begun", "half", "whole", "placed"], len(steps))
    # Only the first process renames, and the second one has something halfway on disk where it writes shards.
    return [
        (step, kind, draw.random(), draw.choice([None, 0]) if world > 1 else None)
        for step, kind in zip(steps, kinds, strict=True)
    ]


@pytest.mark.parametrize(("strategy", "seed"), [("alone", 1), ("alone", 2), ("ddp", 3), ("fsdp2", 4), ("fsdp2", 5)])
def test_killed_while_a_checkpoint_is_written_a_run_loses_nothing(
    undisturbed: dict[str, Path], tmp_path: Path, strategy: str, seed: int
) -> None:
    root, world = tmp_path / "run", 1 if strategy == "alone" else 2
    for step, kind, share, rank in moments(seed, world):
        victim = () if rank is None else ("--trainer.callbacks.init_args.rank", rank)
        kill = ("--trainer.callbacks+", "killing.KillWriting", "--trainer.callbacks.init_args.step", step)
        kill += ("--trainer.callbacks.init_args.moment", kind, "--trainer.callbacks.init_args.share", share, *victim)
        run = command(root, strategy, *kill, *ASYNC, "--ckpt_path", "last")
        codes = run.wait()
        assert -signal.SIGKILL in codes and 0 not in codes, (step, kind, codes, run.output)
        assert "Traceback" not in run.output, (step, kind, run.output)
        whole = {path.name: load_whole_checkpoint(path) for path in (root / "checkpoints").glob("*.ckpt")}
        assert (f"step={step}.ckpt" in whole) == (kind == "placed"), (step, kind, run.output)
        newest = max((saved["global_step"] for saved in whole.values()), default=0)
        assert newest >= step - (kind != "placed"), (step, kind, run.output)
    again = command(root, strategy, *ASYNC, "--ckpt_path", "last")
    assert set(again.wait()) == {0}, again.output
    assert not list((root / "checkpoints").glob(".*"))
    assert_same_training_state(undisturbed[strategy], root / LAST)


def small_disk() -> None:
    """Files as large as a checkpoint before the growth, and no larger."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (250_000, 250_000))


@pytest.mark.parametrize("strategy", ["alone", "fsdp2"])
def test_a_full_disk_ends_the_run_in_a_sentence(undisturbed: dict[str, Path], tmp_path: Path, strategy: str) -> None:
    root = tmp_path / "run"
    run = command(root, strategy, *ASYNC, before=small_disk)
    assert set(run.wait()) == {2}, run.output
    assert "Traceback" not in run.output
    assert any("is the disk full? Nothing that was saved before is lost" in line for line in run.errors), run.output
    saved = {path.name for path in (root / "checkpoints").iterdir()}
    assert saved == {"step=1.ckpt", "step=2.ckpt", "anchor-step=2.ckpt"}
    again = command(root, strategy, *ASYNC, "--ckpt_path", "last")
    assert set(again.wait()) == {0}, again.output
    assert_same_training_state(undisturbed[strategy], root / LAST)


@pytest.mark.parametrize("strategy", ["alone", "fsdp2"])
def test_an_interrupted_run_has_saved_when_it_says_so(
    undisturbed: dict[str, Path], tmp_path: Path, strategy: str
) -> None:
    number = ("--trainer.callbacks+", "killing.Signal", "--trainer.callbacks.init_args.number", int(signal.SIGTERM))
    run = command(tmp_path / "run", strategy, *number, *ASYNC)
    assert 0 not in run.wait(), run.output
    assert load_whole_checkpoint(tmp_path / "run/checkpoints/interrupt-step=3.ckpt")["global_step"] == 3
    assert "Traceback" not in run.output and "is lost" not in run.output
    again = command(tmp_path / "run", strategy, *ASYNC, "--ckpt_path", "last")
    assert set(again.wait()) == {0}, again.output
    assert_same_training_state(undisturbed[strategy], tmp_path / "run" / LAST)
