"""Updates of new and of old rows: frozen or scaled, on what an optimizer's step has made of the parameters.

Right before a step the rows that it must not change, or not as it would, are copied, and right after it they are
written back: θ ← θ_old + f · (θ_new − θ_old). So it is the same with any optimizer, and exact with weight decay. A
parameter of which nothing is trained needs no gradient.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.optim import Optimizer

from lit_recycle.growth.new_rows import Block, Flags, blocks
from lit_recycle.growth.shards import local_part, window
from lit_recycle.growth.update_rules import UpdateRule, factor, is_trained, new_rows, update_rules
from lit_recycle.training import fsdp1
from lit_recycle.training.growable import GrowableModule
from lit_recycle.training.named_state import parameters

Index = tuple[slice | Tensor, ...]


class Rows(NamedTuple):
    """Rows of a parameter that are alike, as far as this process holds them."""

    param: nn.Parameter
    where: Index
    kind: Flags


class Saved(NamedTuple):
    """Rows as they were before a step, and what the step's update is multiplied by."""

    rows: Rows
    values: Tensor
    factor: float


class RowUpdates:
    """What the growths of a model say of its updates, carried out.

    Between steps it holds indices alone, and no values; nothing when no growth says anything.
    """

    def __init__(self) -> None:
        self.rules: list[UpdateRule] = []
        self._rows: list[Rows] = []
        self._saved: list[Saved] = []
        self._frozen: set[str] = set()
        """Names of the parameters whose ``requires_grad`` was set to False here, and to nothing else by the user."""

    def follow(self, trainer: L.Trainer, module: GrowableModule) -> None:
        """Make ready for the step to come; to be called before its first batch, and at once after a growth."""
        self._saved = []
        rules = update_rules(module.growth, trainer.global_step)
        if rules == self.rules:
            return
        self.rules = rules
        new = new_rows(module.growth, rules)
        naming, shapes = module.shape.naming, _shapes(trainer, module)
        divided = {name: blocks(naming.parse(name), shape, new) for name, shape in shapes.items()} if rules else {}
        trained = {name for name, parts in divided.items() if any(is_trained(rules, part.kind) for part in parts)}
        if rules and not trained:
            raise ValueError("no parameter would be trained: what one growth trains, another one leaves as it is")
        self._freeze(trainer, module, divided.keys() - trained)
        self._rows = _local_rows(trainer, module, {name: divided[name] for name in trained}, rules)

    def watch(self, optimizer: Optimizer) -> None:
        """Write rows back after each step of an optimizer."""
        optimizer.register_step_post_hook(lambda *_: self.write_back())

    def release(self, module: GrowableModule) -> None:
        """Give parameters the ``requires_grad`` that their user has set, and forget all rules."""
        for name, parameter in parameters(module).items():
            if name in self._frozen:
                parameter.requires_grad_(True)
        self.rules, self._rows, self._saved, self._frozen = [], [], [], set()

    @torch.no_grad()
    def save(self, step: int) -> None:
        """Copy the rows that the step after so many must not change as the optimizer would."""
        factors = {rows.kind: factor(self.rules, rows.kind, step) for rows in self._rows}
        self._saved = [
            Saved(rows, _copied(local_part(rows.param), rows.where), factors[rows.kind])
            for rows in self._rows
            if factors[rows.kind] != 1 and rows.param.grad is not None
        ]

    @torch.no_grad()
    def write_back(self) -> None:
        """Let the copied rows have their share of the update."""
        while self._saved:
            rows, old, share = self._saved.pop()
            local = local_part(rows.param)
            local[rows.where] = old if share == 0 else old.lerp_(local[rows.where], share)

    def factor_of_new(self, step: int) -> float | None:
        """What the rate of the rows is multiplied by that the latest growth has added; None where it says nothing."""
        ramps = [rule.ramp.factor(step - rule.start) for rule in self.rules if rule.ramp]
        return ramps[-1] if ramps else None

    def _freeze(self, trainer: L.Trainer, module: GrowableModule, names: set[str]) -> None:
        """Let these parameters have no gradient, besides those for which their user wants none."""
        thawed, changed = self._frozen - names, False
        for name, parameter in parameters(module).items():
            if name in names and parameter.requires_grad:
                parameter.requires_grad_(False)
                parameter.grad, changed = None, True
                self._frozen.add(name)
            elif name in thawed:
                parameter.requires_grad_(True)
                self._frozen.remove(name)
                changed = True
        strategy = trainer.strategy
        if changed and isinstance(strategy, DDPStrategy):  # it reduces what needs a gradient when it wraps
            strategy.model = module
            strategy.configure_ddp()
            gc.collect()  # the old wrapper and its hooks refer to each other


# --- what this process holds -----------------------------------------------------------------------------------------


def _copied(local: Tensor, where: Index) -> Tensor:
    chosen = local[where]
    return chosen if any(isinstance(part, Tensor) for part in where) else chosen.clone()  # slices give a view


def _shapes(trainer: L.Trainer, module: GrowableModule) -> dict[str, Sequence[int]]:
    """Shape of each whole parameter."""
    if isinstance(trainer.model, FSDP):
        return {name: part.shape for name, part in fsdp1.layout(trainer.model).items()}
    return {name: parameter.shape for name, parameter in parameters(module).items()}


def _local_rows(
    trainer: L.Trainer, module: GrowableModule, divided: dict[str, list[Block]], rules: Sequence[UpdateRule]
) -> list[Rows]:
    """The rows whose updates are not left alone, as this process holds them."""
    found: list[Rows] = []
    slices = fsdp1.layout(trainer.model) if isinstance(trainer.model, FSDP) else {}
    for name, param in parameters(module).items():
        for block in divided.get(name, ()):
            if all(rule.trains(new) and not (rule.ramp and new) for rule, new in zip(rules, block.kind, strict=True)):
                continue
            where = _flat(block, slices[name]) if name in slices else in_window(block, param)
            if where is not None:
                found.append(Rows(slices[name].param if name in slices else param, where, block.kind))
    return found


def in_window(block: Block, param: Tensor) -> Index | None:
    """A block within the section of each dimension that this process holds; None if nothing of it is there."""
    sections = window(param)
    if any(section.start == section.stop for section in sections):
        return None
    found: list[slice | list[int]] = []
    for indices, section in zip(block.indices, sections, strict=True):
        held = None if indices is None else [i - section.start for i in indices if section.start <= i < section.stop]
        if held == []:
            return None
        found.append(slice(None) if held is None else as_slice(held) or held)
    scattered = [i for i, part in enumerate(found) if isinstance(part, list)]
    if len(scattered) < 2:
        return tuple(torch.tensor(p, device=param.device) if isinstance(p, list) else p for p in found)
    shape = local_part(param).shape
    every = [p if isinstance(p, list) else list(range(n))[p] for p, n in zip(found, shape, strict=True)]
    return tuple(
        torch.tensor(p, device=param.device).view([-1 if j == i else 1 for j in range(len(every))])
        for i, p in enumerate(every)
    )


def _flat(block: Block, part: fsdp1.Slice) -> Index | None:
    """A block within a flat slice of a parameter; None if nothing of it is there."""
    inside = torch.ones((), dtype=torch.bool, device=part.param.device)
    for i, (indices, length) in enumerate(zip(block.indices, part.shape, strict=True)):
        flags = torch.full((length,), indices is None, device=part.param.device)
        if indices is not None:
            flags[torch.tensor(indices, device=flags.device)] = True
        inside = inside & flags.view([-1 if j == i else 1 for j in range(len(part.shape))])
    held = part.of(inside.expand(part.shape)).nonzero().flatten()
    if not len(held):
        return None
    if len(held) == part.length:
        return (slice(None),)
    return (held,)


def as_slice(indices: Sequence[int]) -> slice | None:
    """Indices as a slice, where they are evenly spaced: what it chooses is a view."""
    step = indices[1] - indices[0] if len(indices) > 1 else 1
    even = all(b - a == step for a, b in pairwise(indices))
    return slice(indices[0], indices[-1] + 1, step) if even else None
