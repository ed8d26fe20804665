"""Arithmetic problems with answers that can be checked, made on the spot from a seed. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import NamedTuple

OPERATIONS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}


class Problem(NamedTuple):
    """``3 + 4 - 5`` and its answer; operations are carried out from left to right."""

    text: str
    answer: int
    steps: tuple[str, ...]
    """Its solution, one operation at a time: ``3 + 4 = 7``, ``7 - 5 = 2``."""


@dataclass(frozen=True)
class Problems:
    """Which problems there are.

    Args:
        count: How many, all different.
        least_terms: Numbers in a problem, at least.
        most_terms: And at most.
        largest: Largest number.
        operations: Some of ``+``, ``-`` and ``*``; no result on the way is negative.
        seed: Seed of the problems.
    """

    count: int = 1000
    least_terms: int = 3
    most_terms: int = 3
    largest: int = 9
    operations: str = "+"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"problems.count must be at least 1, got {self.count}")
        if not 2 <= self.least_terms <= self.most_terms:
            raise ValueError(
                f"problems.least_terms must be at least 2 and at most most_terms, got {self.least_terms} and "
                f"{self.most_terms}"
            )
        if self.largest < 1:
            raise ValueError(f"problems.largest must be at least 1, got {self.largest}")
        if not self.operations or set(self.operations) - OPERATIONS.keys():
            raise ValueError(f"problems.operations must be some of {''.join(OPERATIONS)}, got {self.operations!r}")


def problem_set(which: Problems, held_out: int = 0) -> tuple[list[Problem], list[Problem]]:
    """Problems to train on, and so many others to measure on, all different.

    Raises:
        ValueError: If there are not as many.
    """
    random, found = Random(f"{which.seed} problems"), dict[str, Problem]()
    wanted = which.count + held_out
    for _ in range(50 * wanted):
        problem = _draw(random, which)
        found.setdefault(problem.text, problem)
        if len(found) == wanted:
            every = list(found.values())
            return every[held_out:], every[:held_out]
    raise ValueError(
        f"there are hardly {wanted} different problems of these: lower problems.count, or raise largest or most_terms"
    )


def _draw(random: Random, which: Problems) -> Problem:
    value = random.randint(0, which.largest)
    text, steps = str(value), []
    for _ in range(random.randint(which.least_terms, which.most_terms) - 1):
        sign, number = random.choice(which.operations), random.randint(0, which.largest)
        if sign == "-":
            number = min(number, value)
        result = OPERATIONS[sign](value, number)
        text += f" {sign} {number}"
        steps.append(f"{value} {sign} {number} = {result}")
        value = result
    return Problem(text, value, tuple(steps))
