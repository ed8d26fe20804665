"""Autocast for functions with gradients written by hand: the type of a product's inputs."""

from __future__ import annotations

import torch
from torch import Tensor


def in_product_type(x: Tensor) -> Tensor:
    """The input of a product, in autocast's type where autocast is on."""
    if torch.is_autocast_enabled(x.device.type):
        return x.to(torch.get_autocast_dtype(x.device.type))
    return x
