"""Summary of a run, printed at its end."""

from __future__ import annotations

import itertools
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from typing_extensions import override

from lit_recycle.checkpoints.find import checkpoints_of
from lit_recycle.data.batches import Batch
from lit_recycle.data.module import TextData
from lit_recycle.growth.history import of_this_run
from lit_recycle.growth.shape import sizes
from lit_recycle.sampling.generate import generate
from lit_recycle.stage_table import print_stages
from lit_recycle.text import human
from lit_recycle.training.growable import GrowableModule, ShardingStrategy
from lit_recycle.training.loggers import holders
from lit_recycle.training.module import LitMoE


class RunSummary(L.Callback):
    """Prints what became of a run: a line per stage, FLOPs sunk and extra, a sample, and the commands that go on.

    Args:
        sample_tokens: Length of the sampled text; 0 for none.
        prompt_tokens: It continues so many tokens of the validation data.
    """

    def __init__(self, sample_tokens: int = 200, prompt_tokens: int = 48) -> None:
        if sample_tokens < 0 or prompt_tokens < 1:
            raise ValueError("RunSummary.sample_tokens must not be negative, prompt_tokens be at least 1")
        self.sample_tokens, self.prompt_tokens = sample_tokens, prompt_tokens
        self.val_losses: list[tuple[int, float]] = []
        self.seconds: dict[int, float] = {}
        self._started = 0.0

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"val_losses": list(self.val_losses), "seconds": dict(self.seconds)}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.val_losses, self.seconds = list(state_dict["val_losses"]), dict(state_dict["seconds"])

    @override
    def on_train_batch_start(self, trainer: L.Trainer, pl_module: GrowableModule, batch: Batch, batch_idx: int) -> None:
        self._started = time.perf_counter()

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: GrowableModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        stage = len(of_this_run(pl_module.growth))
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - self._started

    @override
    def on_validation_end(self, trainer: L.Trainer, pl_module: GrowableModule) -> None:
        if not trainer.sanity_checking:
            self.val_losses.append((trainer.global_step, float(trainer.callback_metrics["loss/val"])))

    @override
    def on_fit_end(self, trainer: L.Trainer, pl_module: GrowableModule) -> None:
        sample = self._sample(trainer, pl_module)
        for holder in holders(trainer) if sample else ():
            holder.text("run/sample", f"```\n{sample}\n```", trainer.global_step)  # `lit-recycle report` shows it
        if trainer.is_global_zero:
            console = Console(highlight=False)
            console.print("the run")
            self._print_stages(console, pl_module)
            print(flops_line(pl_module))
            if sample:
                console.rule("validation text ▸ sampled continuation")
                console.print(sample, markup=False)
                console.rule()
            if commands := next_commands(trainer):
                print(commands, flush=True)

    def _print_stages(self, console: Console, module: GrowableModule) -> None:
        """One column per stage: sizes, speed, and the losses at its beginning and end."""
        growth = of_this_run(module.growth)
        ends = [(record["steps"], record["tokens"]) for record in growth]
        ends.append((module.trainer.global_step, module.tokens_seen))
        stages = [record["sizes_before"] for record in growth] + [sizes(module.shape)]
        heads: list[tuple[str, str | None]] = []
        rows: dict[str, list[str]] = {}

        def add(name: str, value: str) -> None:
            rows.setdefault(name, []).append(value)

        began = (0, 0)
        for number, ((step, tokens), size) in enumerate(zip(ends, stages, strict=True)):
            record = growth[number - 1] if number else None
            heads.append((f"stage {number}", record["label"] if record else None))
            add("steps", f"{began[0]:,} – {step:,}")
            add("tokens", human(tokens - began[1]))
            add("layers × experts (top-k)", f"{size['layers']} × {size['experts']} ({size['top_k']})")
            add("parameters", human(size["params"]))
            add("active parameters", human(size["active_params"]))
            add("loss before growth", _loss(record["loss_before"] if record else None))
            add("loss after growth", _loss(record["loss_after"] if record else None))
            add("validation loss at the end", _loss(self._val_loss(began[0], step)))
            seconds = self.seconds.get(number)
            add("tokens per second", f"{(tokens - began[1]) / seconds:,.0f}" if seconds else "–")
            began = (step, tokens)
        print_stages(console, heads, rows)

    def _val_loss(self, begin: int, end: int) -> float | None:
        """The last one of a stage; the stage before has had the one at its beginning."""
        return next((loss for at, loss in reversed(self.val_losses) if begin < at <= end), None)

    def _sample(self, trainer: L.Trainer, module: GrowableModule) -> str:
        data, model = trainer.datamodule, module.model  # type: ignore[attr-defined]
        if not self.sample_tokens or not isinstance(data, TextData) or not isinstance(module, LitMoE):
            return ""
        if not data.val_sets:
            return ""  # there is no text that it has not been trained on
        if isinstance(trainer.strategy, ShardingStrategy):
            return ""  # a sharded model would be assembled once per token; `lit-recycle generate` reads its checkpoint
        assert model is not None
        tokenizer = data.tokenizer
        loaders = data.val_dataloader()
        batch = next(iter(loaders[0] if isinstance(loaders, list) else loaders))
        prompt = batch["input_ids"][0, : self.prompt_tokens].tolist()
        model.eval()
        ids = generate(model, prompt, temperature=0.8, top_p=0.95, seed=0, allowed=tokenizer.vocab_size)
        tokens = itertools.takewhile(lambda i: i != tokenizer.eos_id, itertools.islice(ids, self.sample_tokens))
        return f"{tokenizer.decode(prompt)} ▸ {tokenizer.decode(list(tokens))}"


def flops_line(module: GrowableModule) -> str:
    """Training FLOPs before the first growth (sunk) and after it (extra)."""
    total = module.flops_spent
    if not (growth := of_this_run(module.growth)):
        return f"training FLOPs: {total:.3g}"
    sunk = growth[0]["flops"]
    return f"training FLOPs: {sunk:.3g} sunk before the first growth + {total - sunk:.3g} extra = {total:.3g}"


def next_commands(trainer: L.Trainer) -> str:
    """What to type next, as it can be pasted; only what can work after this run."""
    lines = []
    if any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers):
        lines.append(f"watch:    tensorboard --logdir {shlex.quote(str(trainer.default_root_dir))}")
    if saved := next(iter(checkpoints_of(trainer)), None):
        lines.append(f"go on:    {resume_command(_longer(trainer))}")
        lines.append(f"generate: lit-recycle generate --ckpt_path {shlex.quote(str(saved))}")
    return "\n".join(lines)


def _longer(trainer: L.Trainer) -> dict[str, str]:
    """Options without which a run that is gone on from would end at once: the checkpoint knows how long it took."""
    if trainer.global_step >= trainer.max_steps:
        return {"--trainer.max_steps": str(2 * trainer.max_steps)}
    timers = (callback for callback in trainer.callbacks if isinstance(callback, Timer))  # type: ignore[attr-defined]
    is_over = any((timer.time_remaining() or 0) < 0 for timer in timers)
    return {"--trainer.max_time": "null"} if is_over else {}


def resume_command(changes: Mapping[str, str] | None = None) -> str:
    """The command line of this process, going on from the newest checkpoint, with some options changed."""
    options = {"--ckpt_path": "last", **(changes or {})}
    kept, words = [], iter(sys.argv[1:])
    for word in words:
        name, equals, _ = word.partition("=")
        if name not in options:
            kept.append(word)
        elif not equals:
            next(words, None)  # its value
    added = [word for option in options.items() for word in option]
    return shlex.join([Path(sys.argv[0]).name, *kept, *added[2:], *added[:2]])


def _loss(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
