"""Estimates of the time that tasks take, from measured FLOPs per second by the size of the model."""

from __future__ import annotations

import json
import time
from pathlib import Path

from lit_recycle.experiments.budgets import Fit, shape_of
from lit_recycle.experiments.tasks import Task
from lit_recycle.growth.native import NativeModel
from lit_recycle.model.config import MoEConfig

START_UP = 5.0
"""Seconds of a process before its first step, and for measuring at its end."""


def stage_costs(fit: Fit, start: int) -> list[tuple[MoEConfig, int, int]]:
    """Shape, steps and FLOPs of each stage of a run from step ``start`` on."""
    costs = []
    for stage in shape_of(fit).stages():
        begin = max(stage.start.steps, start)
        if stage.end.steps > begin:
            assert isinstance(stage.shape, NativeModel)
            flops = stage.end.flops - stage.after(begin).flops
            costs.append((stage.shape.config, stage.end.steps - begin, flops))
    return costs


def flops_of(task: Task) -> int:
    """Training FLOPs of a task alone, without those of its parents."""
    return sum(flops for _, _, flops in stage_costs(task.fit, task.start))


class Speeds:
    """FLOPs per second: what finished tasks had, or a measurement of some steps before there are any.

    Args:
        file: Keeps what was seen, so that the next plan is better.
        threads: Threads of a process.
    """

    def __init__(self, file: Path, threads: int) -> None:
        self.file, self.threads = file, threads
        self.seen: dict[str, float] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}

    def seconds(self, task: Task) -> float:
        """Estimate for a task as a whole."""
        return START_UP + sum(flops / self._rate(task.fit, config) for config, _, flops in self._costs(task))

    def add(self, task: Task, first_step: int, seconds: float) -> None:
        """Learn from a task that took so long from ``first_step`` on."""
        costs = stage_costs(task.fit, first_step)
        if not costs or seconds < 2 * START_UP:
            return
        expected = sum(flops / self._rate(task.fit, config) for config, _, flops in costs)
        faster = expected / (seconds - START_UP)
        for config, _, _ in costs:
            key = _key(config)
            self.seen[key] = self._rate(task.fit, config) * faster**0.5  # half-way: a neighbour may have been busy
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(self.seen, indent=1), encoding="utf-8")

    def _costs(self, task: Task) -> list[tuple[MoEConfig, int, int]]:
        return stage_costs(task.fit, task.start)

    def _rate(self, fit: Fit, config: MoEConfig) -> float:
        key = _key(config)
        if key not in self.seen:
            self.seen[key] = measured_rate(config, fit["data"]["batch_size"], fit["data"]["seq_len"], self.threads)
        return self.seen[key]


def _key(config: MoEConfig) -> str:
    return f"{config.num_layers}x{config.num_experts}({config.top_k})x{config.expert_size} of {config.hidden_size}"


def measured_rate(config: MoEConfig, batch_size: int, seq_len: int, threads: int, steps: int = 6) -> float:
    """FLOPs per second of some training steps on random tokens."""
    import torch

    from lit_recycle.model.transformer import MoETransformer

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        model = MoETransformer(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        ids = torch.randint(config.vocab_size, (batch_size, seq_len))
        for step in range(steps + 2):
            if step == 2:
                begun = time.perf_counter()
            loss, _ = model(ids, labels_BS=ids)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        seconds = time.perf_counter() - begun
    finally:
        torch.set_num_threads(before)
    return steps * batch_size * seq_len * config.num_flops_per_token(seq_len) / seconds
