"""Text sampled from the model during a run, at intervals and around growths."""

from __future__ import annotations

import itertools
from typing import Any

import lightning as L
from torch import Tensor
from typing_extensions import override

from lit_recycle.callbacks.periodic import PeriodicEvaluation
from lit_recycle.data.module import TextData
from lit_recycle.sampling.generate import check_sampling, generate_batch
from lit_recycle.training.growable import GrowableModule
from lit_recycle.training.loggers import holders


class TextSamples(PeriodicEvaluation):
    """Writes continuations of prompts to the loggers, as the text ``samples``.

    Sampled is from the model that a run begins with, every so many steps, right before and after each growth, and at
    the end; under every strategy. The run is not changed: the draws have a generator of their own.

    Args:
        prompts: Texts to continue; with an empty one a text begins.
        every_n_steps: Optimizer steps between samples; 0 for growths, start and end alone.
        max_new_tokens: Length of a continuation; it ends sooner at the token that ends a text. Sharded models are
            gathered once per token.
        temperature: Divides the logits; 0 always takes the likeliest token.
        top_p: Sample among the likeliest tokens that together have this probability.
        seed: Seed of the draws, the same each time, so that differences are the model's.
    """

    def __init__(
        self,
        prompts: list[str],
        every_n_steps: int = 0,
        max_new_tokens: int = 100,
        temperature: float = 0.8,
        top_p: float = 0.95,
        seed: int = 0,
    ) -> None:
        super().__init__(every_n_steps)
        if not prompts:
            raise ValueError('TextSamples.prompts is empty: give a text to continue, or "" to begin one')
        if max_new_tokens < 1:
            raise ValueError(f"TextSamples.max_new_tokens must be at least 1, got {max_new_tokens}")
        check_sampling(temperature, top_p, seed)
        self.prompts, self.max_new_tokens, self.seed = prompts, max_new_tokens, seed
        self.temperature, self.top_p = temperature, top_p

    @override
    def evaluate(self, trainer: L.Trainer, module: GrowableModule, data: TextData, step: int) -> None:
        tokenizer = data.tokenizer

        def model(tokens_BS: Tensor, cache: list[Any]) -> tuple[Tensor, None]:
            found: Any = trainer.strategy.predict_step({"input_ids": tokens_BS, "cache": cache}, 0)
            cache[:] = found["cache"]
            return found["logits"], None

        ids = generate_batch(
            model,
            [tokenizer.encode(prompt).tolist() or [tokenizer.eos_id] for prompt in self.prompts],
            [self.seed] * len(self.prompts),
            self.max_new_tokens,
            lambda _: False,  # all processes take as many steps, whatever a difference in the last bit makes them draw
            temperature=self.temperature,
            top_p=self.top_p,
            allowed=tokenizer.vocab_size,
            device=trainer.strategy.root_device,
        )
        text = "\n\n".join(self._shown(prompt, tokenizer, row) for prompt, row in zip(self.prompts, ids, strict=True))
        for holder in holders(trainer):
            holder.text("samples", text, step)

    @staticmethod
    def _shown(prompt: str, tokenizer: Any, ids: list[int]) -> str:
        text = itertools.takewhile(lambda token: token != tokenizer.eos_id, ids)
        return f"```\n{prompt} ▸ {tokenizer.decode(list(text))}\n```"
