"""Checkpoints and Hugging Face folders, evaluated on tasks of lm-eval."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from lit_recycle.model.loss import label_losses
from lit_recycle.sampling.generate import generate_batch
from lit_recycle.sampling.sampled import Sampled, load_sampled


def evaluate_model(path: str, options: Namespace, device: str) -> dict[str, float]:
    """The metrics of a model, as :func:`lit_recycle.evaluation.harness.evaluate` names them.

    Raises:
        ValueError: lm-eval is not installed, there is no such model or task, or a number is out of range.
    """
    try:
        from lit_recycle.evaluation.harness import HarnessModel, Tasks, evaluate
    except ImportError as error:
        raise ValueError(f"eval needs lm-eval ({error}): pip install 'lit-recycle[eval]'") from None
    tasks = Tasks(tuple(options.tasks), options.include_path, options.limit, options.num_fewshot)
    tasks.manager()
    sampled = load_sampled(path, device)

    @torch.inference_mode()
    def score(tokens_BS: Tensor, labels_BS: Tensor) -> tuple[Tensor, Tensor]:
        return label_losses(sampled.model(tokens_BS)[0], labels_BS)

    model = HarnessModel(
        score,
        sampled.encode,
        min(sampled.ends),
        sampled.max_length,
        options.batch_size,
        partial(_continued, sampled),
        device,
    )
    return evaluate(model, tasks)


def _continued(sampled: Sampled, prompt: str, stops: Sequence[str], most: int) -> str:
    """The likeliest continuation, as far as one of the texts at which it stops.

    Prompt and continuation are within the model's length together: of a longer prompt its end is read, and where a task
    asks for as many tokens as the model reads, half of them are for the prompt.
    """
    most = most if most < sampled.max_length else sampled.max_length // 2

    def ends(ids: list[int]) -> bool:
        return ids[-1] in sampled.ends or any(stop in sampled.decode(ids) for stop in stops)

    ids = sampled.encode(prompt)[most - sampled.max_length :] or [min(sampled.ends)]
    (found,) = generate_batch(sampled.model, [ids], [0], most, ends, temperature=0, allowed=sampled.allowed)
    text = sampled.decode([token for token in found if token not in sampled.ends])
    for stop in stops:
        text = text.partition(stop)[0]
    return text
