"""What a run of reinforcement learning is, as a YAML file says it. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from lit_recycle.reasoning.problems import Problems
from lit_recycle.reasoning.rewards import SHAPES, Curriculum, Shape, Weights

OWN = {
    "output_dir": "output_dir",
    "seed": "seed",
    "max_steps": "max_steps",
    "num_generations": "completions",
    "max_completion_length": "max_tokens",
    "learning_rate": "learning_rate",
    "per_device_train_batch_size": "prompts",
    "save_steps": "save_every",
    "report_to": "",
    "temperature": "temperature",
}
"""Arguments of trl's ``GRPOConfig`` that are set by keys of ours."""


@dataclass(frozen=True)
class Reasoning:
    """A run.

    Args:
        model: Hugging Face folder of a causal language model with a tokenizer, such as ``lit-recycle export`` writes.
        output_dir: Where checkpoints, TensorBoard's files, measurements and the trained folder go.
        seed: Seed of sampling and of the order of problems.
        max_steps: Length of the run, in optimizer steps.
        problems: Problems that are made to train on.
        held_out: Other problems, on which the model is measured before and after.
        prompt: What the model is asked; ``{problem}`` stands for the problem.
        reward: ``budget``: right answers, a token budget and the format; ``efficient``: right answers, less so the
            longer they are among the right ones to the same prompt.
        curriculum: The budget, stage by stage.
        weights: Of the terms of the budget's reward.
        shape: Of its length term: ``triangle`` or ``band``.
        alpha: Strength of the length penalty of ``efficient``.
        prompts: Problems of a step in each process.
        completions: Answers that are sampled to each.
        max_tokens: Longest answer.
        temperature: Of sampling.
        learning_rate: Of AdamW.
        save_every: Steps between checkpoints.
        trainer: Whatever else trl's ``GRPOConfig`` takes.
    """

    model: str
    output_dir: str = "runs/reason"
    seed: int = 0
    max_steps: int = 100
    problems: Problems = field(default_factory=Problems)
    held_out: int = 200
    prompt: str = "{problem} ="
    reward: Literal["budget", "efficient"] = "budget"
    curriculum: Curriculum = field(default_factory=Curriculum)
    weights: Weights = field(default_factory=Weights)
    shape: Shape = "triangle"
    alpha: float = 0.2
    prompts: int = 16
    completions: int = 8
    max_tokens: int = 256
    temperature: float = 1.0
    learning_rate: float = 1e-5
    save_every: int = 50
    trainer: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        least = {"max_steps": 1, "held_out": 0, "prompts": 1, "completions": 2, "max_tokens": 1, "save_every": 1}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f"{name} must be at least {value}, got {getattr(self, name)}")
        for name in ("temperature", "learning_rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a positive number, got {getattr(self, name)}")
        if "{problem}" not in self.prompt:
            raise ValueError(f"prompt must have {{problem}} in it, got {self.prompt!r}")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must lie in 0..1, got {self.alpha}")
        for name, allowed in {"reward": ("budget", "efficient"), "shape": SHAPES}.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name in OWN.keys() & self.trainer.keys():
            way = f"set {OWN[name]}" if OWN[name] else "TensorBoard is written in any case"
            raise ValueError(f"trainer.{name} is set by this program: {way}")

    def ask(self, problem: str) -> str:
        """The prompt of a problem."""
        return self.prompt.replace("{problem}", problem)
