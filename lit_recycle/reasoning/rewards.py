"""Rewards of reasoning under a budget: formulas of two papers, and the budget that shrinks in stages. No torch, no trl.

Lengths are in tokens. An answer stands between ``<answer>`` and ``</answer>``, the reasoning between ``<think>`` and
``</think>`` before it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Literal

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_FORMAT = re.compile(r"\s*<think>(.*?)</think>\s*<answer>(.*?)</answer>\s*", re.DOTALL)
_TAG = re.compile(r"</?(?:think|answer)>")


def is_correct(completion: str, answer: object) -> bool:
    """Whether the one answer that a completion gives is the right one."""
    found = _ANSWER.findall(completion)
    return len(found) == 1 and found[0].strip() == str(answer)


def has_format(completion: str) -> bool:
    """Whether a completion is reasoning and an answer, each once and in their tags, and nothing besides."""
    match = _FORMAT.fullmatch(completion)
    return match is not None and not any(_TAG.search(part) for part in match.groups())


def efficient_rewards(correct: Sequence[bool], lengths: Sequence[int], alpha: float) -> list[float]:
    """Rewards of all completions of one prompt: 1{correct} · (1 − α·σ((length − mean) / deviation)).

    Mean and standard deviation are of the correct ones, σ is the logistic function (Arora and Zanette 2025, arXiv
    2502.04463). Where all of them are as long as each other, σ is ½.

    Args:
        correct: Whether each is right.
        lengths: Their lengths.
        alpha: Strength of the penalty in 0..1; with 0 a right answer is worth one.
    """
    right = [length for length, is_right in zip(lengths, correct, strict=True) if is_right]
    mean, deviation = (fmean(right), pstdev(right)) if right else (0.0, 0.0)

    def penalty(length: int) -> float:
        return 1 / (1 + math.exp(-(length - mean) / deviation)) if deviation else 0.5

    return [1 - alpha * penalty(n) if is_right else 0.0 for n, is_right in zip(lengths, correct, strict=True)]


Shape = Literal["triangle", "band"]
SHAPES = ("triangle", "band")


def length_reward(length: int, budget: float, shape: Shape = "triangle") -> float:
    """How well a length keeps to a budget, in 0..1.

    ``triangle`` rises from zero to one at the budget B and falls to zero at 2B, so that a budget is to be used;
    ``band`` is one up to the budget and falls likewise (Hammoud et al. 2025, arXiv 2508.08940).
    """
    if length <= budget:
        return length / budget if shape == "triangle" else 1.0
    return max(0.0, 2 - length / budget)


@dataclass(frozen=True)
class Weights:
    """What each term of the budget's reward counts.

    Args:
        correct: A right answer.
        length: Its length, see :func:`length_reward`.
        format: Reasoning and answer in their tags.
    """

    correct: float = 0.6
    length: float = 0.3
    format: float = 0.1

    def __post_init__(self) -> None:
        for name in ("correct", "length", "format"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"weights.{name} must be a finite number and not negative, got {getattr(self, name)}")


def budget_reward(
    completion: str, answer: object, length: int, budget: float, weights: Weights, shape: Shape = "triangle"
) -> float:
    """λ_c · 1{correct} + λ_l · (how well the budget is kept) + λ_f · 1{format} (arXiv 2508.08940)."""
    terms = (is_correct(completion, answer), length_reward(length, budget, shape), has_format(completion))
    return sum(w * t for w, t in zip((weights.correct, weights.length, weights.format), terms, strict=True))


@dataclass(frozen=True)
class Curriculum:
    """A budget that shrinks in stages: B(t) = max(1, B₀·γ^⌊t/T⌋) (arXiv 2508.08940).

    Args:
        start: B₀, tokens of a completion.
        factor: γ, what it is multiplied by after each stage.
        every: T, optimizer steps of a stage.
    """

    start: float = 256
    factor: float = 0.8
    every: int = 100

    def __post_init__(self) -> None:
        if not 1 <= self.start < math.inf:
            raise ValueError(f"curriculum.start must be at least one token, got {self.start}")
        if not 0 < self.factor <= 1:
            raise ValueError(f"curriculum.factor must lie in 0..1, 0 excluded, got {self.factor}")
        if self.every < 1:
            raise ValueError(f"curriculum.every must be at least one step, got {self.every}")

    def budget(self, step: int) -> float:
        """Tokens at a step, counted from 0."""
        return max(1.0, self.start * self.factor ** (step // self.every))
