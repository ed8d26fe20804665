"""Small real runs, on one process or on several that gloo connects: what a trainer does, without a command line."""

from __future__ import annotations

import faulthandler
import json
import os
import shutil
import socket
import tempfile
import time
import traceback
from collections.abc import Container
from multiprocessing import connection
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from processes import FORKSERVER, fork

from lit_recycle.callbacks.growth import GrowthCallback
from lit_recycle.checkpoints.io import AtomicCheckpointIO
from lit_recycle.checkpoints.native import load_whole_checkpoint, read_hyperparameters
from lit_recycle.data.module import TextData
from lit_recycle.growth.event import Depth, GrowthEvent, Rewarm, Trigger, Width
from lit_recycle.model.config import MoEConfig
from lit_recycle.training.module import LitMoE
from lit_recycle.training.strategies import FSDP2Strategy, FSDPStrategy

TEXT = str(Path(json.__file__).parent)
"""Real text that every machine has: the sources of the standard library's json package."""

CONFIG = MoEConfig(
    vocab_size=257,
    hidden_size=16,
    num_layers=3,
    num_heads=2,
    num_experts=3,
    top_k=2,
    expert_size=8,
    shared_expert_size=8,
    router_score="sigmoid",
    balance_bias=True,
)
"""As many layers as experts, and an odd number of them, which no number of processes divides."""

EVENTS = [
    GrowthEvent(Trigger(steps=3), depth=Depth(2), optimizer_state="carry"),
    GrowthEvent(Trigger(tokens=6 * 4 * 32), width=Width(2, noise=0.01), rewarm=Rewarm(2)),
]
"""At steps 3 and 6 of batches of 4 samples of 32 tokens."""

STRATEGIES: dict[str, Any] = {
    "auto": lambda: "auto",
    "ddp": lambda: "ddp",
    "fsdp": FSDPStrategy,
    "fsdp2": FSDP2Strategy,
    "fsdp_full": lambda: FSDPStrategy(checkpoints="full"),
    "fsdp2_full": lambda: FSDP2Strategy(checkpoints="full"),
}


PROCESSES = "TEST_PROCESSES"
LIMIT = 600
"""Seconds for processes that run together, on a busy machine."""


class Losses(L.Callback):
    """Keeps the loss of every step, mean over processes."""

    def __init__(self) -> None:
        self.train: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: LitMoE, *_: Any) -> None:
        self.train.append(float(pl_module.step_losses[-1]))


class SaveAfter(ModelCheckpoint):
    """Lightning's callback, which saves after some steps alone."""

    def __init__(self, steps: Container[int] | None, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.steps = steps

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if self.steps is None or trainer.global_step in self.steps:
            super().on_train_batch_end(trainer, *args)


class SaveAtOnce(L.Callback):
    """Saves right after the events of some steps, before anything is trained; ``{step}`` in the path is the step."""

    def __init__(self, path: Path, *steps: int) -> None:
        self.path, self.steps = path, steps

    def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.global_step in self.steps:
            trainer.save_checkpoint(str(self.path).format(step=trainer.global_step), weights_only=False)


def fit(
    root: Path,
    strategy: str = "auto",
    *,
    steps: int = 9,
    events: list[GrowthEvent] | None = None,
    ckpt_path: Path | None = None,
    config: MoEConfig | None = CONFIG,
    batch_size: int = 4,
    saves: Container[int] | None = None,
    module: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    callbacks: list[L.Callback] | None = None,
    before_growth: list[L.Callback] | None = None,
    device: str = "cpu",
    **trainer: Any,
) -> tuple[L.Trainer, LitMoE, list[float]]:
    """A run of so many steps; returns the trainer, the module and the loss of each step.

    Its checkpoints are those after the steps ``saves``, after each step if that is left out: on several processes most
    of a run's time goes into them.
    """
    losses, world = Losses(), int(os.environ.get(PROCESSES, 1))
    if world > 1:
        os.environ["WORLD_SIZE"] = str(world)  # Lightning removes it at the end of a run
    events = EVENTS if events is None else events
    saver = SaveAfter(saves, root / "checkpoints", "{step}", save_top_k=-1, every_n_train_steps=1)
    L.seed_everything(7)
    lightning = L.Trainer(
        accelerator=device,
        devices=world,
        strategy=STRATEGIES[strategy](),
        max_steps=steps,
        max_epochs=-1,
        enable_model_summary=False,
        check_val_every_n_epoch=None,
        default_root_dir=root,
        callbacks=[
            losses,
            *(before_growth or []),
            *([GrowthCallback(events)] if events else []),
            saver,
            *(callbacks or []),
        ],
        **{
            "num_sanity_val_steps": 0,
            "gradient_clip_val": 1.0,
            "limit_val_batches": 0,
            "logger": False,
            "enable_progress_bar": False,
            **trainer,
        },
    )
    if strategy in ("auto", "ddp"):
        lightning.strategy.checkpoint_io = AtomicCheckpointIO()
    model = LitMoE(config, **(module or {}))
    if ckpt_path:
        saved = read_hyperparameters(ckpt_path)
        model.set_shape(model.shape_of(saved["config"]), saved["growth"])
    options = {"seq_len": 32, "batch_size": batch_size // world, "cache_dir": str(root.parent / "cache")}
    datamodule = TextData(**options, **(data or {"path": TEXT}))
    lightning.fit(model, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
    return lightning, model, losses.train


def half_precision_scaler(scale: float) -> dict[str, Any]:
    """Options of a trainer in float16 with a scaler of gradients, on a CPU."""
    return {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))]}


def assert_same_training_state(first: Path, second: Path) -> None:
    """Two checkpoints hold the same weights, optimizer state, schedule and counters, bit for bit."""
    a, b = load_whole_checkpoint(first), load_whole_checkpoint(second)
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "progress", "hyper_parameters", "global_step"):
        assert_equal(a[key], b[key], key)


def assert_equal(a: Any, b: Any, where: str) -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}[{i}]")
    else:
        assert a == b, f"{where}: {a} != {b}"


def by_name(saved: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's saved state by the names of parameters, whatever their order."""
    names = {i: n for g in saved["param_groups"] for i, n in zip(g["params"], g["param_names"], strict=True)}
    return {names[i]: state for i, state in saved["state"].items()}


def on_processes(world: int, target: Any, *args: Any) -> None:
    """Call ``target(*args)`` on so many processes, each of which Lightning and torch take for a launched rank.

    Raises:
        RuntimeError: One has failed, with its traceback, or has crashed, with the stacks of its threads, or still runs
            after the limit; the others are ended.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    several = {PROCESSES: str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    failures = FORKSERVER.SimpleQueue()
    crashes = Path(tempfile.mkdtemp())
    each = (crashes, {**os.environ, **several}, failures, target, args)
    ranks = [fork(_process, rank, *each) for rank in range(world)]
    end = time.monotonic() + LIMIT
    codes = [rank.exitcode for rank in ranks]
    while None in codes and not any(codes) and time.monotonic() < end:
        # Waits for those that were seen alive, ended since or not: a wait for nobody would never end.
        alive = [rank.sentinel for rank, code in zip(ranks, codes, strict=True) if code is None]
        connection.wait(alive, timeout=end - time.monotonic())
        codes = [rank.exitcode for rank in ranks]
    stacks = "".join(file.read_text() for file in crashes.iterdir())
    shutil.rmtree(crashes)
    if codes != [0] * world:
        for rank in ranks:
            rank.kill()
        told = f"exit codes {codes}, None after {LIMIT} s\n{stacks}"
        raise RuntimeError(told if failures.empty() else failures.get())


def _process(
    rank: int, crashes: Path, environment: dict[str, str], failures: Any, target: Any, args: tuple[Any, ...]
) -> None:
    os.environ |= {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    faulthandler.enable((crashes / str(rank)).open("w"))
    torch.set_num_threads(1)
    try:
        target(*args)
    except BaseException:
        failures.put(traceback.format_exc())
        raise
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
