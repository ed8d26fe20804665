"""Downstream evaluation in a run: tasks of lm-eval at intervals and around growths."""

from __future__ import annotations

from contextlib import redirect_stderr
from io import StringIO

import lightning as L
import torch
from torch import Tensor
from typing_extensions import override

from lit_recycle.callbacks.monitor import write_scalars
from lit_recycle.callbacks.periodic import PeriodicEvaluation
from lit_recycle.data.module import TextData
from lit_recycle.training.growable import GrowableModule


class DownstreamEval(PeriodicEvaluation):
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
        super().__init__(every_n_steps)
        if batch_size < 1:
            raise ValueError(f"DownstreamEval.batch_size must be at least 1, got {batch_size}")
        self.tasks = Tasks(tuple(tasks), include_path, limit, num_fewshot)
        self.tasks.manager()
        self.batch_size = batch_size

    @override
    def evaluate(self, trainer: L.Trainer, module: GrowableModule, data: TextData, step: int) -> None:
        from lit_recycle.evaluation.harness import HarnessModel, evaluate

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
        with redirect_stderr(StringIO()):  # bars of lm-eval's own, under the run's
            values = evaluate(model, self.tasks)
        write_scalars(trainer, {f"eval/{name}": value for name, value in values.items()}, step)
