"""Whole training loops: `lit-recycle fit` beside the bare training step, and litgpt's pretraining of the same shape.

    python benchmarks/loop.py [--steps 480]

The quickstart model without its growths, on one device. `fit` and the bare step take turns in one process, twenty steps
each, with the same batches: forward, loss with the routers' losses, backward, clipping, AdamW, nothing else. Once `fit`
has all that the shipped configuration has on (monitors with a set of their pictures every 160 steps, a progress bar
that is drawn, TensorBoard) and skips spikes; once nothing of it. litgpt trains a model of the same shape in its own
loop where it is installed (`pip install litgpt`).
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import math
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from contest import synchronize
from table import Row
from torch import Tensor

import lit_recycle.report.plots  # noqa: F401 (a process imports it once)
from lit_recycle.callbacks import RunProgressBar
from lit_recycle.commands.trainer import RecycleCLI
from lit_recycle.experiments.budgets import merge, nested
from lit_recycle.model.loss import balance_loss
from lit_recycle.training.module import LitMoE

BLOCK = 20
"""Steps of a turn."""
CONFIG = Path(__file__).parents[1] / "configs/quickstart.yaml"
WITHOUT = {
    "trainer.limit_val_batches": 0,
    "trainer.enable_checkpointing": False,
    "data.cache_dir": ".cache",
    "model.lr_scheduler.init_args.warmup_steps": 10,
    "model.lr_scheduler.init_args.decay_steps": 10,
}
ALL_ON = {"model.gradient_norm": "total", "model.spike_skip": {}}
ALL_OFF = {"trainer.callbacks": [], "trainer.logger": False, "trainer.enable_progress_bar": False}
GOAL = 0.98


class BareSteps(L.Callback):
    """After every block of steps of the run, as many of a copy of its model, on the same batches."""

    def __init__(self) -> None:
        self.batches: list[dict[str, Tensor]] = []
        self.fit: list[float] = []
        self.bare: list[float] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: LitMoE) -> None:
        self.model = copy.deepcopy(pl_module.model)
        (group, *_) = trainer.optimizers[0].param_groups
        options = {key: group[key] for key in ("lr", "betas", "weight_decay", "fused")}
        self.optimizer = torch.optim.AdamW(self.model.parameters(), **options)
        self.began = time.perf_counter()

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: LitMoE, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: LitMoE, *_: Any) -> None:
        if trainer.global_step % BLOCK:
            return
        device = pl_module.device.type
        synchronize(device)
        ended = time.perf_counter()
        for batch in self.batches:
            self._step(pl_module, batch)
        synchronize(device)
        self.fit.append(ended - self.began)
        self.bare.append(time.perf_counter() - ended)
        self.batches = []
        self.began = time.perf_counter()

    def _step(self, module: LitMoE, batch: dict[str, Tensor]) -> None:
        loss, routing = self.model(batch["input_ids"], labels_BS=batch["labels"])
        balance = balance_loss(routing.counts_E, routing.scores_E)
        loss = loss + module.balance_loss * balance + module.z_loss * routing.z.mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def configuration(root: Path, changes: dict[str, Any]) -> Path:
    """The shipped configuration without its growths and checkpoints, and with these changes by dotted key."""
    values = yaml.safe_load(CONFIG.read_text())
    callbacks = values["trainer"]["callbacks"]
    values["trainer"]["callbacks"] = [
        c for c in callbacks if not c["class_path"].endswith(("GrowthCallback", "ModelCheckpoint"))
    ]
    for key, value in changes.items():
        values = merge(values, nested(key, value))
    file = root / "config.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def on_a_terminal(bar: RunProgressBar) -> RunProgressBar:
    """The same bar, drawn whatever the output of this process is."""
    nowhere = open(os.devnull, "w")  # noqa: SIM115 (as long as the process)
    return RunProgressBar(bar.refresh_rate, console_kwargs={"file": nowhere, "width": 100, "force_terminal": True})


def race(changes: dict[str, Any], steps: int) -> tuple[float, float, tuple[int, int]]:
    """Seconds per step of a run and of the bare step, after the first turn of each; and the size of a batch."""
    turns = BareSteps()
    with tempfile.TemporaryDirectory() as root:
        # One step more than is measured: at the end of a run there are pictures once more.
        place = {"trainer.default_root_dir": f"{root}/run", "trainer.max_steps": steps + BLOCK + 1}
        cli = RecycleCLI("fit", ["--config", str(configuration(Path(root), WITHOUT | changes | place))])
        callbacks = cli.trainer.callbacks  # type: ignore[attr-defined]
        callbacks[:] = [on_a_terminal(c) if isinstance(c, RunProgressBar) else c for c in callbacks] + [turns]
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)
        size = cli.datamodule.batch_size, cli.datamodule.seq_len
    return sum(turns.fit[1:]) / steps, sum(turns.bare[1:]) / steps, size


def litgpt_step(steps: int, batch_size: int, seq_len: int) -> float:
    """Seconds per step of ``litgpt.pretrain.fit``, in the median, for a model of the quickstart's shape."""
    from litgpt import GPT, Config
    from litgpt.args import EvalArgs, TrainArgs
    from litgpt.pretrain import fit
    from torch.fx.experimental import _config

    _config.meta_nonzero_assume_all_nonzero = True  # litgpt counts FLOPs on the meta device, where experts need it
    config = Config(
        block_size=seq_len,
        padded_vocab_size=512,
        n_layer=2,
        n_embd=256,
        n_head=4,
        n_query_groups=2,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        norm_qk=True,
        mlp_class_name="LLaMAMoE",
        intermediate_size=256,
        moe_intermediate_size=256,
        n_expert=8,
        n_expert_per_token=2,
    )
    starts: list[float] = []

    class Batches(list[Tensor]):
        def __iter__(self) -> Iterator[Tensor]:
            for batch in super().__iter__():
                starts.append(time.perf_counter())
                yield batch

    tokens = Batches(torch.randint(0, 512, (batch_size, seq_len + 1)) for _ in range(steps))
    fabric = L.Fabric(devices=1)
    fabric.launch()
    model = GPT(config)
    model.apply(model._init_weights)
    model = fabric.setup(model)
    optimizer = fabric.setup_optimizers(torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95), fused=True))
    state = {"model": model, "optimizer": optimizer, "iter_num": 0, "step_count": 0}
    train = TrainArgs(
        save_interval=None,
        log_interval=10,
        global_batch_size=batch_size,
        micro_batch_size=batch_size,
        max_tokens=steps * batch_size * seq_len,
        max_norm=1.0,
        min_lr=2e-4,
        lr_warmup_steps=5,
    )
    checks = EvalArgs(interval=10**9, max_iters=1, initial_validation=False, final_validation=False)
    with tempfile.TemporaryDirectory() as root:
        fit(fabric, 1, state, tokens, [tokens[0]], Path(root), None, train, checks)
    return statistics.median(b - a for a, b in zip(starts[BLOCK:], starts[BLOCK + 1 :], strict=False))


def main(argv: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=480)
    steps = parser.parse_args(argv).steps
    rows = []
    for what, changes in (("nothing on", ALL_OFF), ("monitors, norm and spike skip on", ALL_ON)):
        ours, bare, size = race(changes, steps)
        tokens = math.prod(size)
        rows.append(
            Row(
                f"`fit` on the quickstart model, {what}",
                f"{tokens / ours:,.0f} tokens/s",
                f"the bare step: {tokens / bare:,.0f}",
                f"{bare / ours:.3f} ×",
                f"≥ {GOAL} ×",
            )
        )
        print(*rows[-1], sep=" | ", flush=True)
    if importlib.util.find_spec("litgpt") is None:
        return [*rows, Row("`fit` beside litgpt's pretraining", "", "not installed: pip install litgpt", "", "")]
    theirs = litgpt_step(steps // 2, *size)
    rival = f"litgpt: {tokens / theirs:,.0f}"
    rows.append(
        Row("`fit` beside litgpt's pretraining", rows[-1].ours, rival, f"{theirs / ours:.2f} ×", "≥ 1 ×"),
    )
    print(*rows[-1], sep=" | ", flush=True)
    return rows


if __name__ == "__main__":
    main()
