"""Activations of inner channels on a batch, for operators that choose channels by them.

Axes: E experts, F inner channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor, nn

from lit_recycle.data.batches import Batch
from lit_recycle.growth.facts import PerLayer, entries
from lit_recycle.growth.names import Place
from lit_recycle.training.growable import GrowableModule
from lit_recycle.training.growth_log import batch_loss
from lit_recycle.training.named_state import clean_name


class _Reader(NamedTuple):
    """A module that multiplies inner channels by its matrix, and what that matrix is."""

    module: Any
    place: Place


@torch.no_grad()
def activations(trainer: L.Trainer, module: GrowableModule, batch: Batch, axis: str) -> PerLayer:
    """Root of the summed squares of each inner channel over a batch of all processes, by layer.

    Args:
        trainer: The trainer.
        module: The module, of which the batch passes forward once, in evaluation mode and without compiled blocks.
        batch: The batch; processes have other ones.
        axis: The axis of the channels: F, S or I.
    """
    shape, device = module.shape, module.device
    layers = [torch.zeros(entries(shape, axis, i), dtype=torch.float64, device=device) for i in range(shape.num_layers)]
    hooks = [
        reader.module.register_forward_pre_hook(partial(_add, layers, reader.place))
        for reader in _readers(module, axis)
    ]
    try:
        with torch.compiler.set_stance("force_eager"):
            batch_loss(trainer, module, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return [trainer.strategy.reduce(layer, reduce_op="sum").sqrt().tolist() for layer in layers]  # type: ignore[union-attr]


def check_activations(module: GrowableModule, axis: str) -> None:
    """Raises ``ValueError`` where the channels of a model cannot be seen."""
    for _ in _readers(module, axis):
        pass


def _readers(module: GrowableModule, axis: str) -> Iterator[_Reader]:
    for name, part in module.named_modules():
        for suffix, _ in part.named_parameters(recurse=False):
            place = module.shape.naming.parse(clean_name(f"{name}.{suffix}"))
            if place.layer is None or "down" not in place.axes.matrices or axis not in place.axes.names:
                continue
            if not (isinstance(part, nn.Linear) or hasattr(part, "inner_squares")):
                raise ValueError(
                    f"{place.name} is in a {type(part).__name__}, whose inner channels cannot be seen: choose by norm"
                )
            yield _Reader(part, place)


def _add(layers: list[Tensor], place: Place, module: Any, inputs: tuple[Any, ...]) -> None:
    """Take in what a module is about to be given."""
    if isinstance(module, nn.Linear):
        found = inputs[0].double().square().flatten(0, -2).sum(0)
    else:
        found = module.inner_squares(*inputs).flatten()
    assert place.layer is not None
    start = (place.expert or 0) * len(found)
    layers[place.layer][start : start + len(found)] += found
