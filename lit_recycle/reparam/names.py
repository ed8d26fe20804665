"""Branches of a matrix: which matrices have them, and names and axes of the tensors that they are. No torch.

A matrix ``attn.q_proj.weight`` of axes ``(H P) D*`` becomes

    attn.q_proj.parametrizations.weight.original        (H P) D*        the matrix that was there, branch 0
    attn.q_proj.parametrizations.weight.0.matrix_1      (H P) D*        branches 1, 2, …
    attn.q_proj.parametrizations.weight.0.scale_0       (H P)           a factor for each output channel of a branch
    attn.q_proj.parametrizations.weight.0.left          (H P) rank*     the branch that is a product of two matrices
    attn.q_proj.parametrizations.weight.0.right         rank D*
    attn.q_proj.parametrizations.weight.0.scale_product (H P)

so that a growth treats branches as it treats any tensor. In front of the output channels the axis of experts stays. A
growth that leaves copied layers without an output zeroes the scales alone: branches of zeros would never learn.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from lit_recycle.growth.axes import parse_axes

ORIGINAL, LEFT, RIGHT, PRODUCT_SCALE = "original", "0.left", "0.right", "0.scale_product"
_TENSOR = re.compile(r"(?P<owner>.+)\.parametrizations\.(?P<attribute>\w+)\.(?P<part>original|0\.\w+)")
_WORD = re.compile(r"\([^()]*\)\S*|\S+")


@dataclass(frozen=True)
class Reparam:
    """Which matrices are trained as sums of branches, and of how many.

    Args:
        pattern: Regular expression that is looked for in the names of matrices within a layer, such as
            ``attn.q_proj.weight`` or ``moe.experts.down``.
        branches: Matrices that are added up, the one that was there among them.
        product_rank: Inner size of one more branch, a product of two matrices; 0 for none.

    Raises:
        ValueError: Naming the key under ``model.reparam``.
    """

    pattern: str
    branches: int = 3
    product_rank: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.pattern, str):
            raise ValueError(f"model.reparam.pattern must be a regular expression, got {self.pattern!r}")
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"model.reparam.pattern {self.pattern!r} is no regular expression: {error}") from error
        for name, least in {"branches": 1, "product_rank": 0}.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"model.reparam.{name} must be a whole number of at least {least}, got {value!r}")
        if self.branches == 1 and not self.product_rank:
            raise ValueError("model.reparam with one branch and no product changes nothing: raise branches")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Reparam:
        """From a configuration. Raises ``ValueError`` for keys that are unknown or missing."""
        if not isinstance(values, Mapping) or "pattern" not in values:
            raise ValueError("model.reparam needs a pattern, a regular expression that chooses matrices")
        if unknown := sorted(values.keys() - {"pattern", "branches", "product_rank"}):
            raise ValueError(f"model.reparam has no key {unknown[0]}: it takes pattern, branches, product_rank")
        return cls(**values)

    def chooses(self, suffix: str, axes: str) -> bool:
        """Whether a tensor of a layer is a matrix that has branches."""
        return len(_WORD.findall(axes)) > 1 and axes.endswith("*") and re.search(self.pattern, suffix) is not None

    def parts(self) -> Iterator[str]:
        """The tensors that a matrix is made of, by what stands behind its name."""
        yield ORIGINAL
        yield from (f"0.matrix_{i}" for i in range(1, self.branches))
        yield from (f"0.scale_{i}" for i in range(self.branches))
        if self.product_rank:
            yield from (LEFT, RIGHT, PRODUCT_SCALE)


class Part(NamedTuple):
    """A tensor of a branch: the matrix that it belongs to, and what it is of it."""

    matrix: str
    part: str

    @classmethod
    def of(cls, name: str) -> Part | None:
        """From a tensor's name; None for a tensor that belongs to no branch."""
        match = _TENSOR.fullmatch(name)
        return match and cls(f"{match['owner']}.{match['attribute']}", match["part"])

    @property
    def name(self) -> str:
        owner, _, attribute = self.matrix.rpartition(".")
        return f"{owner}.parametrizations.{attribute}.{self.part}"


def branch_axes(axes: Mapping[str, str], reparam: Reparam) -> dict[str, str]:
    """A table of axis strings by suffix in which the chosen matrices are replaced by their branches."""
    found: dict[str, str] = {}
    for suffix, text in axes.items():
        if reparam.chooses(suffix, text):
            found |= {Part(suffix, part).name: _axes_of(text, part) for part in reparam.parts()}
        else:
            found[suffix] = text
    return found


def _axes_of(text: str, part: str) -> str:
    label, _, body = text.rpartition(":")
    *experts, out, summed = _WORD.findall(body)
    plain = out.removesuffix("+")
    if part == RIGHT:
        words = [*experts, "rank", summed]
    elif part == LEFT:
        words = [*experts, plain, "rank*"]
    elif part.startswith("0.scale"):
        words = [*experts, out]
    else:
        words = [*experts, plain, summed]
    made = " ".join(words)
    if part != ORIGINAL:  # matrices of names of their own: noise on them is drawn apart, and norms are of the original
        tag = part.rpartition(".")[2]
        made = re.sub(r"\[([\w ]+)\]", lambda stack: f"[{' '.join(f'{m}_{tag}' for m in stack[1].split())}]", made)
        label = label and f"{label}_{tag}"
    made = f"{label}: {made}" if label else made
    parse_axes(made)
    return made
