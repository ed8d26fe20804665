"""Remarks for advice: what a checkpoint's rate and weight norms and the formulas of other papers say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from lit_recycle.advice.law import tokens_of
from lit_recycle.advice.situation import PAPER, Situation
from lit_recycle.model.config import MoEConfig
from lit_recycle.text import human

G_STACK = "arXiv 2405.15319"
FEWEST = 4
"""Layers that make a profile."""
DECAYED = 0.9
"""Share of the full rate below which a checkpoint's is said to have decayed."""


def rate_remarks(now: Situation, first: float | None) -> list[str]:
    """A rate that has come down and goes up again without a ramp, where nothing grows at once.

    Args:
        now: What is known.
        first: FLOPs before the first growth that is advised; None without one.
    """
    if now.rate is None or now.rate >= DECAYED or (first is not None and first <= now.sunk):
        return []
    return [
        f"the checkpoint's rate stands at {now.rate:.0%} of the full one, and a schedule that decays at the end of the "
        "run begins at the full one again: go on from a checkpoint of before the decay if there is one"
    ]


def profile_remarks(now: Situation) -> list[str]:
    """Is the profile of weight norms formed, and where would a stack break it?"""
    norms = now.profile
    if norms is None:
        return ["norm profile: taken from checkpoints of this project alone, and there is none: F_c decide"]
    if len(norms) < FEWEST:
        return [f"norm profile {_numbers(norms)}: too few layers to tell whether it has formed: F_c decide"]
    steps = [after - before for before, after in pairwise(norms)]
    seam = norms[0] - norms[-1]
    return [
        f"norm profile {_numbers(norms)}: rises at {_rising(norms)} of {len(steps)} steps, so it has "
        f"{'' if is_formed(norms) else 'not '}formed: a formed one rises and dips a little at the end ({PAPER})",
        f"a stack would put layer 0 above layer {len(norms) - 1}: a step of {seam:+.4f}, "
        f"{abs(seam) / max(map(abs, steps)):.1f} times the largest between neighbours; interposition makes none",
    ]


def is_formed(norms: Sequence[float] | None) -> bool:
    """Whether a profile rises from layer to layer but for one step; False where that cannot be told."""
    return norms is not None and len(norms) >= FEWEST and _rising(norms) >= len(norms) - 2


def _rising(norms: Sequence[float]) -> int:
    return sum(after > before for before, after in pairwise(norms))


def _numbers(values: Sequence[float]) -> str:
    shown = [f"{value:.4f}" for value in values]
    return " ".join(shown if len(shown) <= 8 else [*shown[:4], "…", *shown[-4:]])


def g_stack_tokens(target: MoEConfig, flops: float) -> float:
    """Tokens to train on before growing, by the fit of G_stack (arXiv 2405.15319, its scaling law of growth timing).

    log10 d = 0.88 · log10 N + 163.27 / log10 C − 5.74, with N the target's parameters without embeddings.

    Args:
        target: Shape after the growth.
        flops: C, all FLOPs of the run.
    """
    embeddings = target.vocab_size * target.hidden_size * (1 if target.tie_embeddings else 2)
    params = target.num_params() - embeddings
    return 10 ** (0.88 * math.log10(params) + 163.27 / math.log10(flops) - 5.74)


def g_stack_remarks(now: Situation, target: MoEConfig | None, first: float | None) -> list[str]:
    """When G_stack would grow, beside when it is advised; nothing where none of its growths is.

    Args:
        now: What is known.
        target: Shape at the end.
        first: FLOPs before the first growth.
    """
    if target is None or first is None:
        return []
    tokens = g_stack_tokens(target, now.total)
    possible = now.total / (6 * target.num_active_params())
    said = f"G_stack's formula would grow after {human(tokens)} tokens ({G_STACK})"
    if tokens > possible:
        return [said + ": more than the budget has, which is below the range that it was fitted in; not used"]
    at = tokens_of(now.past) + (first - now.sunk) / (6 * now.config.num_active_params())
    return [said + f"; here it is after {human(at)}"]
