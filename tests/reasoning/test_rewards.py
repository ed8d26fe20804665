"""Rewards and budgets by hand, the problems, and what a configuration refuses. None of it needs trl."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lit_recycle.reasoning.config import Reasoning
from lit_recycle.reasoning.problems import Problems, problem_set
from lit_recycle.reasoning.rewards import (
    Curriculum,
    Weights,
    budget_reward,
    efficient_rewards,
    has_format,
    is_correct,
    length_reward,
)

GOOD = "<think>3 + 4 = 7</think> <answer>7</answer>"


@pytest.mark.parametrize(
    ("completion", "correct", "formatted"),
    [
        (GOOD, True, True),
        ("<think> 3 + 4 = 7 </think>\n<answer> 7 </answer>\n", True, True),
        ("<think>no</think><answer>8</answer>", False, True),
        ("<think>no</think><answer>77</answer>", False, True),
        ("<answer>7</answer>", True, False),
        ("so <think>x</think><answer>7</answer>", True, False),
        ("<think>x</think><answer>7</answer> then", True, False),
        ("<think>x</think><answer>6</answer><answer>7</answer>", False, False),
        ("<think>x<think>y</think><answer>7</answer>", True, False),
        ("<think>x</think>7", False, False),
        ("<answer>7</answer><think>x</think>", True, False),
        ("", False, False),
    ],
)
def test_answers_and_format(completion: str, correct: bool, formatted: bool) -> None:
    assert is_correct(completion, 7) is correct and has_format(completion) is formatted


def test_right_answers_are_worth_less_the_longer_they_are_among_the_right_ones() -> None:
    """Right ones of 10, 20 and 30 tokens: mean 20, deviation √(200/3); the wrong one counts in neither."""
    found = efficient_rewards([True, True, False, True], [10, 20, 500, 30], alpha=0.4)
    z = 10 / math.sqrt(200 / 3)
    by_hand = [1 - 0.4 / (1 + math.exp(z)), 1 - 0.4 * 0.5, 0.0, 1 - 0.4 / (1 + math.exp(-z))]
    assert found == pytest.approx(by_hand, abs=1e-15)
    assert [round(r, 4) for r in found] == [0.9092, 0.8, 0.0, 0.6908]
    assert efficient_rewards([True, True], [9, 90], alpha=0.0) == [1, 1]
    assert efficient_rewards([True, False], [9, 5], alpha=0.4) == [0.8, 0.0], "alone it is as long as the mean"
    assert efficient_rewards([True, True], [9, 9], alpha=1.0) == [0.5, 0.5]
    assert efficient_rewards([False, False], [9, 5], alpha=0.4) == [0, 0]


@pytest.mark.parametrize(
    ("length", "triangle", "band"),
    [(0, 0, 1), (10, 0.25, 1), (40, 1, 1), (50, 0.75, 0.75), (60, 0.5, 0.5), (80, 0, 0), (200, 0, 0)],
)
def test_the_length_term_of_a_budget_of_forty(length: int, triangle: float, band: float) -> None:
    assert length_reward(length, 40) == pytest.approx(triangle)
    assert length_reward(length, 40, "band") == pytest.approx(band)


def test_the_budget_s_reward_is_the_weighted_sum_of_its_terms() -> None:
    weights = Weights(correct=0.5, length=0.3, format=0.2)
    assert budget_reward(GOOD, 7, 30, 40, weights) == pytest.approx(0.5 + 0.3 * 0.75 + 0.2)
    assert budget_reward(GOOD, 8, 30, 40, weights) == pytest.approx(0.3 * 0.75 + 0.2)
    assert budget_reward("<answer>7</answer>", 7, 60, 40, weights) == pytest.approx(0.5 + 0.3 * 0.5)
    assert budget_reward(GOOD, 7, 30, 40, weights, "band") == pytest.approx(1.0)
    assert budget_reward("", 7, 100, 40, weights) == 0


def test_the_budget_at_each_step() -> None:
    halved = Curriculum(start=64, factor=0.5, every=3)
    assert [halved.budget(t) for t in range(10)] == [64, 64, 64, 32, 32, 32, 16, 16, 16, 8]
    assert halved.budget(18) == 1 and halved.budget(3000) == 1, "never below one token"
    assert [Curriculum(100, 0.9, 1).budget(t) for t in range(3)] == pytest.approx([100, 90, 81])
    assert Curriculum(100, 1.0, 1).budget(1000) == 100


def test_problems_are_solved_from_left_to_right_and_all_different() -> None:
    which = Problems(count=300, least_terms=2, most_terms=4, largest=12, operations="+-*", seed=3)
    train, held_out = problem_set(which, held_out=50)
    assert len(train) == 300 and len(held_out) == 50
    assert len({p.text for p in (*train, *held_out)}) == 350
    assert {p.text.count(" ") // 2 + 1 for p in train} == {2, 3, 4}
    for problem in train:
        first, *rest = problem.text.split()
        value = int(first)
        for sign, number in zip(rest[::2], rest[1::2], strict=True):
            value = eval(f"{value} {sign} {number}")
            assert value >= 0
        assert value == problem.answer and problem.steps[-1].endswith(f"= {value}")
    assert problem_set(which, held_out=50) == (train, held_out)
    assert problem_set(Problems(300, 2, 4, 12, "+-*", seed=4))[0] != train
    with pytest.raises(ValueError, match=r"lower problems\.count"):
        problem_set(Problems(count=200, least_terms=2, most_terms=2))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Curriculum(start=0), "curriculum.start"),
        (lambda: Curriculum(factor=1.5), "curriculum.factor"),
        (lambda: Curriculum(every=0), "curriculum.every"),
        (lambda: Weights(length=-1), "weights.length"),
        (lambda: Problems(operations="/"), "problems.operations"),
        (lambda: Problems(least_terms=4, most_terms=3), "problems.least_terms"),
        (lambda: Reasoning("m", completions=1), "completions must be at least 2"),
        (lambda: Reasoning("m", alpha=2), "alpha must lie"),
        (lambda: Reasoning("m", prompt="solve"), "{problem} in it"),
        (lambda: Reasoning("m", trainer={"max_steps": 3}), "set max_steps"),
        (lambda: Reasoning("m", shape="box"), "shape must be one of"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_meant_is_refused(make: Any, told: str) -> None:
    with pytest.raises(ValueError) as error:
        make()
    assert told in str(error.value)
