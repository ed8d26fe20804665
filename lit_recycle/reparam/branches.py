"""Branches as a parametrization: a matrix that is squeezed from a sum before it is used (OREPA, arXiv 2204.00826).

Axes: O output channels (behind experts E, where there are any), I input channels, R rank of a product.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lit_recycle.reparam.names import Reparam


class Branches(nn.Module):
    """W = Σᵢ sᵢ ⊙ Wᵢ + s ⊙ (A·B), with a factor s for each output channel.

    It is what ``torch.nn.utils.parametrize`` puts before a matrix, its ``original`` W₀: whoever reads the matrix gets
    W, made anew, and computes one product whatever the number of branches. Values are not drawn here.

    Args:
        weight_OI: The matrix, ``[O, I]`` or ``[E, O, I]``.
        reparam: How many branches.
    """

    def __init__(self, weight_OI: Tensor, reparam: Reparam) -> None:
        super().__init__()
        self.reparam = reparam
        *lead, inputs = weight_OI.shape
        for i in range(1, reparam.branches):
            self._add(f"matrix_{i}", weight_OI, *lead, inputs)
        for i in range(reparam.branches):
            self._add(f"scale_{i}", weight_OI, *lead)
        if reparam.product_rank:
            self._add("left", weight_OI, *lead, reparam.product_rank)
            self._add("right", weight_OI, *lead[:-1], reparam.product_rank, inputs)
            self._add("scale_product", weight_OI, *lead)

    def _add(self, name: str, like: Tensor, *shape: int) -> None:
        self.register_parameter(name, nn.Parameter(torch.empty(shape, dtype=like.dtype, device=like.device)))

    def forward(self, weight_OI: Tensor) -> Tensor:
        parts = {name: getattr(self, name) for name in self._parameters}  # under FSDP1 they are no parameters
        return squeeze(weight_OI, parts, self.reparam)


def squeeze(weight_OI: Tensor, parts: Mapping[str, Tensor], reparam: Reparam) -> Tensor:
    """One matrix of the branches. Nothing of its size is kept for the backward pass besides the branches themselves."""
    sum_OI = weight_OI * parts["scale_0"].unsqueeze(-1)
    for i in range(1, reparam.branches):
        sum_OI.addcmul_(parts[f"matrix_{i}"], parts[f"scale_{i}"].unsqueeze(-1))
    if reparam.product_rank:
        with torch.autocast(weight_OI.device.type, enabled=False):  # a weight is as exact as its branches
            sum_OI.add_((parts["left"] * parts["scale_product"].unsqueeze(-1)) @ parts["right"])
    return sum_OI


def attach(layers: Iterable[nn.Module], suffixes: Iterable[str], reparam: Reparam) -> None:
    """Train the matrices of these names in each layer that has them as sums of branches; values are not drawn."""
    chosen = list(suffixes)
    for layer in layers:
        for suffix in chosen:
            owner_name, _, attribute = suffix.rpartition(".")
            try:
                owner = layer.get_submodule(owner_name)
            except AttributeError:  # a dense layer has no experts, and the other way round
                continue
            branches = Branches(getattr(owner, attribute), reparam)
            parametrize.register_parametrization(owner, attribute, branches, unsafe=True)
