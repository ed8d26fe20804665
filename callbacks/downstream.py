"""Downstream evaluation in a run: tasks of lm-eval at intervals and around growths."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import redirect_stderr
from io import StringIO
from typing import Any

import lightning as L
import torch
from torch import Tensor
from typing_extensions import override

from lit_recycle.callbacks.monitor import GrowthHooks, is_multiple, write_scalars
from lit_recycle.data.module import TextData
from lit_recycle.growth.event import GrowthEvent
from lit_recycle.training.growable import GrowableModule
from lit_recycle.training.module import Batch


class DownstreamEval(GrowthHooks, L.Callback):
    """Logs, under ``eval/``, the metrics of lm-eval's tasks: ``eval/hellaswag/acc_norm``.

    Evaluated are the model that a run begins with, every so many steps, right before and after each growth, and at the
    end; under every strategy, the questions shared out over the processes. Tasks that generate text are refused.

    Args:
        tasks: Names of tasks or groups.
        every_n_steps: Optimizer steps between evaluations; 0 for growths, start and end alone.
        limit: Number of questions of each task; all when not given.
        num_fewshot: Examples before each question; what the task says when not given.
        batch_size: Questions that a process scores together.
        include_path: Folder of task files of your own.
    """

    def __init__(
        self,
        tasks: list[str],
        every_n_steps: int = 0,
        limit: int | None = None,
        num_fewshot: int | None = None,
        batch_size: int = 8,
        include_path: str | None = None,
    ) -> None:
        try:
            from lit_recycle.evaluation.harness import Tasks
        except ImportError as error:
            raise ValueError(f"DownstreamEval needs lm-eval ({error}): pip install 'lit-recycle[eval]'") from None
        if every_n_steps < 0 or batch_size < 1:
            raise ValueError("DownstreamEval.every_n_steps must not be negative, and batch_size at least 1")
        self.tasks = Tasks(tuple(tasks), include_path, limit, num_fewshot)
        self.tasks.manager()
        self.every_n_steps, self.batch_size = every_n_steps, batch_size
        self._seen = 0

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: GrowableModule) -> None:
        self._seen = trainer.global_step
        if not trainer.global_step:
            self._evaluate(trainer, pl_module, 0)

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: GrowableModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step != self._seen and (is_multiple(step, self.every_n_steps) or step == trainer.max_steps):
            self._evaluate(trainer, pl_module, step - 1)
        self._seen = step

    @override
    def on_growth_start(self, trainer: L.Trainer, module: GrowableModule, event: GrowthEvent) -> None:
        self._evaluate(trainer, module, max(trainer.global_step - 1, 0))

    @override
    def on_growth_end(self, trainer: L.Trainer, module: GrowableModule, record: Mapping[str, Any]) -> None:
        self._evaluate(trainer, module, record["steps"])

    def _evaluate(self, trainer: L.Trainer, module: GrowableModule, step: int) -> None:
        from lit_recycle.evaluation.harness import HarnessModel, evaluate

        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, TextData):
            raise ValueError(f"DownstreamEval needs the tokenizer of TextData, and the data is {type(data).__name__}")

        @torch.no_grad()
        def score(tokens_BS: Tensor, labels_BS: Tensor) -> tuple[Tensor, Tensor]:
            found = trainer.strategy.predict_step({"input_ids": tokens_BS, "labels": labels_BS}, 0)
            return found["losses"], found["likeliest"]

        model = HarnessModel(
            score,
            lambda text: data.tokenizer.encode(text).tolist(),
            data.tokenizer.eos_id,
            data.seq_len,
            self.batch_size,
            device=trainer.strategy.root_device,
        )
        module.eval()
        with redirect_stderr(StringIO()):  # bars of lm-eval's own, under the run's
            values = evaluate(model, self.tasks)
        module.train()
        write_scalars(trainer, {f"eval/{name}": value for name, value in values.items()}, step)
