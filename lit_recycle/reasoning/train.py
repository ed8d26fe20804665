"""Reinforcement learning on arithmetic with trl's GRPO trainer: rewards, scalars, measurements, going on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lit_recycle.reasoning.config import Reasoning
from lit_recycle.reasoning.problems import Problem, problem_set
from lit_recycle.reasoning.rewards import budget_reward, efficient_rewards, is_correct
from lit_recycle.seeding import seeded

MEASURED = "measured.json"
TRAINED = "model"
"""Where in a run's folder the measurements and the trained model are."""


class Measured(NamedTuple):
    """How a model does on problems.

    Args:
        accuracy: Share of right answers.
        length: Mean tokens of an answer, the end of the text among them.
    """

    accuracy: float
    length: float


def reward_function(run: Reasoning) -> Callable[..., list[float]]:
    """The reward as trl calls it, which also logs accuracy, length and budget of each step."""

    def reward(
        prompts: Sequence[str],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        answer: Sequence[int],
        trainer_state: Any,
        log_metric: Callable[[str, float], None],
        **_: Any,
    ) -> list[float]:
        lengths, budget = [len(ids) for ids in completion_ids], run.curriculum.budget(trainer_state.global_step)
        correct = [is_correct(text, right) for text, right in zip(completions, answer, strict=True)]
        log_metric("accuracy", sum(correct) / len(correct))
        log_metric("length", sum(lengths) / len(lengths))
        if run.reward == "budget":
            log_metric("budget", budget)
            told = zip(completions, answer, lengths, strict=True)
            return [budget_reward(text, right, n, budget, run.weights, run.shape) for text, right, n in told]
        found: list[float] = []
        for _, group in groupby(range(len(prompts)), key=lambda i: prompts[i]):
            places = list(group)
            found += efficient_rewards([correct[i] for i in places], [lengths[i] for i in places], run.alpha)
        return found

    return reward


def reason(run: Reasoning, resume: bool = False) -> dict[str, Measured]:
    """Train; write checkpoints, TensorBoard's files, measurements, and the trained model as a folder.

    Args:
        run: The run.
        resume: Go on from the newest checkpoint in its folder.

    Returns:
        What was measured ``before`` and ``after``, on problems that were held out; nothing without any.

    Raises:
        ValueError: Without trl, for a model that cannot be loaded, a folder that holds another run, or one that holds
            none to go on with.
    """
    try:
        from datasets import Dataset
        from torch.utils.tensorboard import SummaryWriter
        from transformers import AutoModelForCausalLM
        from transformers.integrations import TensorBoardCallback
        from transformers.trainer_utils import get_last_checkpoint
        from trl import GRPOConfig, GRPOTrainer
    except ImportError as error:
        raise ValueError(f"reason needs trl ({error}): pip install 'lit-recycle[reason]'") from None
    root = Path(run.output_dir)
    last = get_last_checkpoint(str(root)) if root.is_dir() else None
    if last and not resume:
        raise ValueError(f"{root} holds a run: go on with --resume, or give another output_dir")
    if resume and not last:
        raise ValueError(f"{root} holds no checkpoint to go on from: leave --resume out")
    tokenizer = tokenizer_of(run.model)
    problems, held_out = problem_set(run.problems, run.held_out)
    settings = grpo_settings(run)
    try:
        config = GRPOConfig(**settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"trainer: {error}") from error
    # The trainer's own way to go on looks for the names that a folder has in a model in memory, where experts have
    # others, and passes over what it does not find.
    model = AutoModelForCausalLM.from_pretrained(last or run.model, dtype=torch.float32)
    measured: dict[str, Measured] = {}
    file = root / MEASURED
    if held_out and not resume:
        measured["before"] = measure(model, tokenizer, run, held_out)
    elif file.is_file():
        measured = {name: Measured(**values) for name, values in json.loads(file.read_text()).items()}
    _write(file, measured)
    purge = int(last.rpartition("-")[2]) + 1 if last else None  # points after the checkpoint come again
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=[reward_function(run)],  # type: ignore[list-item]  # no reward is None
        args=config,
        train_dataset=Dataset.from_list([{"prompt": run.ask(p.text), "answer": p.answer} for p in problems]),
        processing_class=tokenizer,
        callbacks=[TensorBoardCallback(SummaryWriter(str(root / "tensorboard"), purge_step=purge))],
    )
    trainer.train(resume_from_checkpoint=last)
    if held_out:
        measured["after"] = measure(trainer.model, tokenizer, run, held_out)
    _write(file, measured)
    trainer.save_model(str(root / TRAINED))
    return measured


def grpo_settings(run: Reasoning) -> dict[str, Any]:
    """Arguments of trl's ``GRPOConfig``."""
    on_gpu = torch.cuda.is_available()
    settings: dict[str, Any] = {
        "output_dir": run.output_dir,
        "seed": run.seed,
        "max_steps": run.max_steps,
        "per_device_train_batch_size": run.prompts * run.completions,
        "num_generations": run.completions,
        "max_completion_length": run.max_tokens,
        "temperature": run.temperature,
        "learning_rate": run.learning_rate,
        "save_steps": run.save_every,
        "report_to": "none",
        "logging_steps": 1,
        "use_cpu": not on_gpu,
        "bf16": on_gpu,
        "gradient_checkpointing": on_gpu,
    }
    return settings | run.trainer


def tokenizer_of(folder: str) -> Any:
    """The tokenizer of a folder, which pads on the left, as sampling needs it."""
    from transformers import AutoTokenizer

    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"model: {folder} is no Hugging Face folder: make one with `lit-recycle export CKPT {folder}`")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    except (OSError, ValueError) as error:
        raise ValueError(f"model: {folder} has no tokenizer that transformers can load: {error}") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@torch.no_grad()
def measure(model: Any, tokenizer: Any, run: Reasoning, problems: Sequence[Problem]) -> Measured:
    """Accuracy and length of one sampled answer to each problem, at the run's temperature; always with one seed."""
    model.eval()
    asked = tokenizer([run.ask(p.text) for p in problems], return_tensors="pt", padding=True, add_special_tokens=False)
    asked = asked.to(model.device)
    with seeded(model.device, run.seed, "measure"):
        tokens = model.generate(
            input_ids=asked["input_ids"],
            attention_mask=asked["attention_mask"],
            do_sample=True,
            temperature=run.temperature,
            top_k=0,
            max_new_tokens=run.max_tokens,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    answers = [_until(ids, tokenizer.eos_token_id) for ids in tokens[:, asked["input_ids"].shape[1] :].tolist()]
    texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
    right = [is_correct(text, problem.answer) for text, problem in zip(texts, problems, strict=True)]
    return Measured(sum(right) / len(right), sum(map(len, answers)) / len(answers))


def _until(ids: list[int], end: int) -> list[int]:
    """Tokens up to the end of the text, and the end."""
    return ids[: ids.index(end) + 1] if end in ids else ids


def _write(file: Path, measured: dict[str, Measured]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({name: values._asdict() for name, values in measured.items()}, indent=1))
