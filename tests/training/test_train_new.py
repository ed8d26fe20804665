"""Training what is new: frozen rows stay bit for bit, new rows have a rate of their own, and nothing is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from runs import SaveAtOnce, assert_same_training_state, fit, on_processes
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from lit_recycle.callbacks.growth import GrowthCallback
from lit_recycle.checkpoints.native import load_whole_checkpoint
from lit_recycle.growth.event import Depth, GrowthEvent, Rewarm, Trigger, Width
from lit_recycle.growth.new_rows import Block, NewRows, blocks
from lit_recycle.growth.operators import Layers, WidenHidden
from lit_recycle.training.module import LitMoE
from lit_recycle.training.muon import Muon
from lit_recycle.training.row_updates import RowUpdates, in_window

OPTIMIZERS: dict[str, Any] = {
    "adamw": lambda params: AdamW(params, lr=1e-2, weight_decay=0.1),
    "muon": lambda params: Muon(params, lr=1e-2, weight_decay=0.1),
    "sgd": lambda params: SGD(params, lr=0.1, momentum=0.9, weight_decay=0.1),
}


def constant(optimizer: Optimizer) -> LRScheduler:
    return LambdaLR(optimizer, lambda step: 1.0)


BOTH = dict(depth=Depth(2), width=Width(2))


def weights(path: Path) -> dict[str, Tensor]:
    return load_whole_checkpoint(path)["state_dict"]


def new_elements(module: LitMoE) -> dict[str, Tensor]:
    """For each parameter which elements the last growth has added."""
    new = NewRows.of(module.growth[-1:])
    found = {}
    for name, parameter in module.named_parameters():
        found[name] = torch.zeros(parameter.shape, dtype=torch.bool)
        for block in blocks(module.shape.naming.parse(name), parameter.shape, [new]):
            each = (range(n) if i is None else i for i, n in zip(block.indices, parameter.shape, strict=True))
            found[name][torch.meshgrid(*map(torch.tensor, each), indexing="ij")] = block.kind[0]
    return found


def assert_frozen(before: Path, after: Path, frozen: dict[str, Tensor]) -> None:
    """These elements are bit for bit what they were, and in each tensor others are not, if there are any."""
    first, last = weights(before), weights(after)
    for name, mask in frozen.items():
        assert torch.equal(first[name][mask], last[name][mask]), name
        assert mask.all() or not torch.equal(first[name][~mask], last[name][~mask]), name


@pytest.mark.parametrize("who", ["new", "old"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_frozen_rows_are_what_they_were_after_twenty_steps(optimizer: str, who: Any, tmp_path: Path) -> None:
    event = GrowthEvent(Trigger(steps=2), **BOTH, train=who)
    module = {"optimizer": OPTIMIZERS[optimizer], "lr_scheduler": constant, "balance_loss": 0.1}
    start, end = tmp_path / "start.ckpt", tmp_path / "run/checkpoints/step=22.ckpt"
    options = dict(module=module, saves=[22], batch_size=2, callbacks=[SaveAtOnce(start, 2)])
    _, grown, _ = fit(tmp_path / "run", steps=22, events=[event], **options)
    new = new_elements(grown)
    assert_frozen(start, end, {n: m if who == "old" else ~m for n, m in new.items()})
    assert all(p.requires_grad for p in grown.parameters()), "given back at the end of the run"


class Watch(L.Callback):
    """What has a gradient, and what is held beside the model, step by step."""

    def __init__(self) -> None:
        self.gradients: list[set[str]] = []
        self.saved: list[int] = []
        self.after: list[int] = []

    def rows(self, trainer: L.Trainer) -> RowUpdates:
        return next(c.rows for c in trainer.callbacks if isinstance(c, GrowthCallback))

    def on_before_zero_grad(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        self.after.append(len(self.rows(trainer)._saved))

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        self.gradients.append({name for name, p in pl_module.named_parameters() if p.grad is not None})
        self.saved.append(sum(saved.values.numel() for saved in self.rows(trainer)._saved))


class Freeze(L.Callback):
    """A user's own: embeddings are frozen, and so is a norm of each layer."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for name, parameter in pl_module.named_parameters():
            parameter.requires_grad_("embed" not in name and "ffn_norm" not in name)


def test_what_is_frozen_as_a_whole_has_no_gradient_until_it_thaws(tmp_path: Path) -> None:
    watch = Watch()
    events = [
        GrowthEvent(Trigger(steps=1), depth=Depth(2), train="new", train_steps=2),
        GrowthEvent(Trigger(steps=4), width=Width(2), train="new"),
    ]
    _, module, _ = fit(tmp_path / "run", steps=6, events=events, callbacks=[Freeze(), watch])
    names = {name for name, _ in module.named_parameters() if "embed" not in name and "ffn_norm" not in name}
    new = {name for name in names if any(f"layers.{i}." in name for i in (1, 3, 5))}
    experts = {name for name in names if ".experts." in name or "router" in name}
    assert [len(gradients) for gradients in watch.gradients[:1]] == [len(names) - len(new)]
    assert watch.gradients[1:] == [new, new, names, experts, experts]
    assert watch.saved[:4] == [0, 0, 0, 0] and watch.saved[4] > 0 and not any(watch.after)
    experts_before = sum(p.numel() for name, p in module.named_parameters() if name in experts) // 2
    assert watch.saved[4] == experts_before, "the rows that are old, once"
    assert {name for name, p in module.named_parameters() if p.requires_grad} == names, "as the user has it"


EVENTS = [
    GrowthEvent(Trigger(steps=1), depth=Depth(2), train="new", train_steps=4),
    GrowthEvent(Trigger(steps=3), grow=[Layers([0, 1, 1, 2, 3, 4, 5]), WidenHidden()]),
    GrowthEvent(
        Trigger(steps=4),
        width=Width(2),
        train="old",
        train_steps=3,
        rewarm=Rewarm(3, 1.0, peak=1.3, back_steps=1, who="new"),
    ),
]
"""The second, which says nothing of rows, and the third come while what the first says still holds."""


@pytest.mark.parametrize("name", ["step=2", "anchor-step=3", "step=5", "step=6", "step=7"])
def test_resumed_within_a_frozen_stretch_it_ends_where_it_would_have(whole: Path, tmp_path: Path, name: str) -> None:
    fit(tmp_path / "run", events=EVENTS, steps=8, ckpt_path=whole / f"checkpoints/{name}.ckpt")
    assert_same_training_state(whole / "checkpoints/step=8.ckpt", tmp_path / "run/checkpoints/step=8.ckpt")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose growths follow each other while rows are frozen; saved after each step, and after each growth."""
    root = tmp_path_factory.mktemp("rows") / "whole"
    fit(root, events=EVENTS, steps=8, callbacks=[SaveAtOnce(root / "grown-{step}.ckpt", 1, 3, 4)])
    return root


def test_a_later_growth_carries_frozen_rows_along(whole: Path) -> None:
    """After the third growth old experts of new layers are trained alone, until the first growth says no more.

    New are layers 1, 2, 4 and 6.
    """
    saved = whole / "checkpoints"
    first, last = weights(whole / "grown-4.ckpt"), weights(saved / "step=5.ckpt")
    for name, tensor in first.items():
        if not any(f"layers.{i}." in name for i in (1, 2, 4, 6)):
            assert torch.equal(last[name], tensor) or "balance" in name, name
    name = "model.layers.2.moe.experts.down"
    assert torch.equal(last[name][1::2], first[name][1::2]), "new experts"
    assert all(not torch.equal(last[name][e], first[name][e]) for e in range(0, 6, 2)), "old ones, in a new layer"
    thawed, end = weights(saved / "step=5.ckpt"), weights(saved / "step=6.ckpt")
    assert not torch.equal(end["model.embed.weight"], thawed["model.embed.weight"])
    assert torch.equal(end[name][1::2], thawed[name][1::2])
    at_last, after = weights(saved / "step=7.ckpt"), weights(saved / "step=8.ckpt")
    assert not torch.equal(after[name][1::2], at_last[name][1::2])


def test_new_rows_are_updated_at_their_own_rate_which_is_logged(tmp_path: Path) -> None:
    ramp, applied, logged = Rewarm(2, 0.5, peak=1.5, back_steps=2, who="new"), [], []

    class Updates(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
            self.before = {name: p.detach().clone() for name, p in pl_module.named_parameters()}

        def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
            self.gradients = {name: p.grad.clone() for name, p in pl_module.named_parameters()}

        def on_train_batch_end(self, trainer: L.Trainer, pl_module: LitMoE, *_: Any) -> None:
            if not pl_module.growth:
                return
            masks, rates = new_elements(pl_module), ([], [])
            for name, parameter in pl_module.named_parameters():
                moved = self.before[name] - parameter.detach()
                for new, into in zip((True, False), rates, strict=True):
                    chosen = masks[name] == new
                    into.append((moved[chosen] @ self.gradients[name][chosen]).item())
                    into.append(self.gradients[name][chosen].square().sum().item())
            applied.append([sum(r[::2]) / sum(r[1::2]) for r in rates])
            logged.append(trainer.logged_metrics.get("lr-SGD/matrices/new"))

    events = [GrowthEvent(Trigger(steps=2), **BOTH, rewarm=ramp)]
    module = {"optimizer": lambda params: SGD(params, lr=0.1), "lr_scheduler": constant}
    options = dict(logger=CSVLogger(tmp_path, "", ""), log_every_n_steps=1, gradient_clip_val=None, saves=[8])
    fit(tmp_path / "run", steps=8, events=events, module=module, callbacks=[Updates()], **options)
    new, old = zip(*applied, strict=True)
    assert new == pytest.approx([0.05, 0.1, 0.15, 0.125, 0.1, 0.1], rel=1e-3)
    assert old == pytest.approx([0.1] * 6, rel=1e-3)
    assert [float(rate) for rate in logged[:4]] == pytest.approx([0.05, 0.1, 0.15, 0.125])


@pytest.mark.parametrize("indices", [((0, 1, 4), None, (0, 2, 3)), ((0, 2, 4), (1,), (0, 2, 3)), (None, (0, 1), (1,))])
def test_rows_scattered_over_several_dimensions(indices: Any) -> None:
    """None of the first is evenly spaced, and one of the second."""
    tensor, block = torch.arange(5 * 2 * 4).view(5, 2, 4), Block(indices, (True,), 0)
    where = in_window(block, tensor)
    assert where is not None
    every = (torch.tensor(range(n) if i is None else i) for i, n in zip(indices, tensor.shape, strict=True))
    assert torch.equal(tensor[where], tensor[torch.meshgrid(*every, indexing="ij")])


# --- several processes -----------------------------------------------------------------------------------------------


STRATEGIES = ["ddp", "fsdp2", "fsdp"]
OPTIONS: dict[str, Any] = dict(events=EVENTS, steps=8, accumulate_grad_batches=2, saves=[2, 8])


def several(root: Path) -> None:
    for strategy in STRATEGIES:
        fit(root / strategy, strategy, **OPTIONS, callbacks=[SaveAtOnce(root / strategy / "at-{step}.ckpt", 4, 5)])
        path = root / strategy / "checkpoints/step=2.ckpt"
        fit(root / f"{strategy}-resumed", strategy, **OPTIONS, ckpt_path=path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("strategies")
    fit(root / "auto", **OPTIONS)
    on_processes(2, several, root)
    return root


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_under_each_strategy_as_on_one_device(runs: Path, strategy: str) -> None:
    alone, here = weights(runs / "auto/checkpoints/step=8.ckpt"), weights(runs / strategy / "checkpoints/step=8.ckpt")
    for name, tensor in alone.items():
        torch.testing.assert_close(here[name], tensor, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_frozen_rows_are_exact_under_each_strategy(runs: Path, strategy: str) -> None:
    first, last = (weights(runs / strategy / f"at-{step}.ckpt") for step in (4, 5))
    name = "model.layers.2.moe.experts.gate_up"
    assert torch.equal(first["model.layers.3.attn.q_proj.weight"], last["model.layers.3.attn.q_proj.weight"])
    assert torch.equal(first[name][1::2], last[name][1::2])
    assert all(not torch.equal(first[name][e], last[name][e]) for e in range(0, 6, 2))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_resumed_under_each_strategy_it_ends_where_it_would_have(runs: Path, strategy: str) -> None:
    end = "checkpoints/step=8.ckpt"
    assert_same_training_state(runs / strategy / end, runs / f"{strategy}-resumed" / end)
