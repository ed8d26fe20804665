"""Optimizers other than AdamW through a growth in depth and one in width, on any strategy, and resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from helpers import built, tiny
from runs import (
    EVENTS,
    SaveAtOnce,
    assert_equal,
    assert_same_training_state,
    by_name,
    fit,
    on_processes,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from lit_recycle.checkpoints.grow import grow_checkpoint
from lit_recycle.checkpoints.native import load_whole_checkpoint
from lit_recycle.growth.cost import fake_processes
from lit_recycle.growth.ledger import Ledger
from lit_recycle.training.muon import Muon


class Lion(torch.optim.Optimizer):
    """Sign of an interpolated momentum (Chen et al. 2023), as packages have it."""

    def __init__(self, params: Any, lr: float = 1e-4) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": 0.1})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                momentum = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                update = (momentum * 0.9 + p.grad * 0.1).sign()
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])
                momentum.mul_(0.99).add_(p.grad, alpha=0.01)
        return loss


OPTIMIZERS: dict[str, Any] = {
    "muon": lambda params: Muon(params, lr=2e-3, adamw_lr=1e-3, adjust_lr_fn="match_rms_adamw"),
    "lion": lambda params: Lion(params, lr=1e-4),
}
STRATEGIES = {"muon": ["ddp", "fsdp2"], "lion": ["ddp", "fsdp", "fsdp2"]}
CASES = [(name, s) for name, strategies in STRATEGIES.items() for s in ("auto", *strategies)]
STEPS, RESUMED = 7, {"muon": (2, 5), "lion": (5,)}


def train(root: Path, name: str, strategy: str) -> None:
    """The whole run, and what is resumed before, between and after its events."""
    folder = root / f"{name}-{strategy}"
    module, grown = {"optimizer": OPTIMIZERS[name]}, SaveAtOnce(folder / "grown-{step}.ckpt", 3, 6)
    trainer, _, losses = fit(
        folder, strategy, steps=STEPS, module=module, callbacks=[grown], saves=(*RESUMED[name], STEPS)
    )
    if trainer.is_global_zero:
        (folder / "losses.json").write_text(json.dumps(losses))
    for step in RESUMED[name]:
        saved = folder / f"checkpoints/step={step}.ckpt"
        fit(folder / f"from-{step}", strategy, steps=STEPS, module=module, ckpt_path=saved, saves=[STEPS])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("optimizers")
    for name in OPTIMIZERS:
        train(root, name, "auto")
    on_processes(2, on_each_strategy, root)
    return root


def on_each_strategy(root: Path) -> None:
    for name, strategies in STRATEGIES.items():
        for strategy in strategies:
            train(root, name, strategy)
    sharded(root)
    try:
        fit(root / "refused", "fsdp", steps=1, module={"optimizer": OPTIMIZERS["muon"]})
    except ValueError as error:
        (root / "refused.txt").write_text(str(error))


@pytest.mark.parametrize(("name", "strategy"), CASES)
def test_growth_in_the_run_is_growth_on_disk(runs: Path, tmp_path: Path, name: str, strategy: str) -> None:
    folder = runs / f"{name}-{strategy}"
    for step, event in zip((3, 6), EVENTS, strict=True):
        anchor = folder / f"checkpoints/anchor-step={step}.ckpt"
        grow_checkpoint(anchor, tmp_path / f"{step}.ckpt", *event.operators)
        on_disk, in_run = (
            load_whole_checkpoint(tmp_path / f"{step}.ckpt"),
            load_whole_checkpoint(folder / f"grown-{step}.ckpt"),
        )
        assert_equal(in_run["state_dict"], on_disk["state_dict"], "weights")
        ours, theirs = (by_name(saved["optimizer_states"][0]) for saved in (in_run, on_disk))
        assert_equal(ours, theirs, "optimizer")
        assert {key for state in ours.values() for key in state} >= {"momentum_buffer" if name == "muon" else "exp_avg"}


@pytest.mark.parametrize(("name", "strategy"), CASES)
def test_a_resumed_run_ends_bit_for_bit_where_it_would_have(runs: Path, name: str, strategy: str) -> None:
    folder = runs / f"{name}-{strategy}"
    last = f"checkpoints/step={STEPS}.ckpt"
    for step in RESUMED[name]:
        assert_same_training_state(folder / last, folder / f"from-{step}" / last)


@pytest.mark.parametrize(("name", "strategy"), [case for case in CASES if case[1] != "auto"])
def test_losses_do_not_depend_on_the_strategy(runs: Path, name: str, strategy: str) -> None:
    """To rounding: Muon's is that of bfloat16, Lion's sign makes something of a difference in the last bit."""
    alone, here = (json.loads((runs / f"{name}-{s}/losses.json").read_text()) for s in ("auto", strategy))
    assert len(here) == STEPS and here == pytest.approx(alone, abs=2e-4)


def test_muon_is_refused_under_fsdp1(runs: Path) -> None:
    said = (runs / "refused.txt").read_text()
    assert "each process holds a flat slice, as FSDP1 makes them: set trainer.strategy to fsdp2" in said


# --- the update of sharded tensors, given the gradients ---

MODEL = tiny(hidden_size=7, head_dim=4, dense_layers=[1], dense_size=5, shared_expert_size=1)
"""Two processes divide neither 7 nor 5 nor three experts, and one of them gets nothing of one column."""


def gradients(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {n: torch.randn(p.shape, generator=generator) for n, p in built(MODEL).named_parameters()}


def weights_after(mesh: DeviceMesh | None, dimension: int = 0, steps: int = 3) -> dict[str, torch.Tensor]:
    """Weights after steps with given gradients, whole, or cut along a dimension over a mesh."""

    def cut(tensor: torch.Tensor) -> torch.Tensor:
        return tensor if mesh is None else distribute_tensor(tensor, mesh, [Shard(dimension % tensor.dim())])

    start = built(MODEL, dtype=torch.float32).named_parameters()
    params = {name: torch.nn.Parameter(cut(p.detach())) for name, p in start}
    optimizer = Muon(params.items(), lr=0.1)
    for step in range(steps):
        for name, gradient in gradients(step).items():
            params[name].grad = cut(gradient)
        optimizer.step()
    return {name: p.detach() if mesh is None else p.detach().full_tensor() for name, p in params.items()}


def sharded(root: Path) -> None:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for dimension in (0, -1):
        after = weights_after(mesh, dimension)
        if dist.get_rank() == 0:
            torch.save(after, root / f"cut-along-{dimension}.pt")


@pytest.mark.parametrize("dimension", [0, -1])
def test_sharded_matrices_are_updated_as_on_one_device(runs: Path, dimension: int) -> None:
    alone = weights_after(None)
    after = torch.load(runs / f"cut-along-{dimension}.pt", weights_only=True)
    assert after.keys() == alone.keys()
    for name, tensor in after.items():
        torch.testing.assert_close(tensor, alone[name], rtol=0, atol=1e-6, msg=name)


def test_experts_stay_on_their_process_and_matrices_travel_twice() -> None:
    named = list(built(MODEL, dtype=torch.float32).named_parameters())
    experts = {name: p for name, p in named if ".experts." in name}
    matrices = {name: p for name, p in named if "attn" in name and p.dim() == 2}
    with fake_processes(64) as mesh:
        for chosen, collectives in ((experts, 0), (matrices, 2)):
            params = {n: torch.nn.Parameter(distribute_tensor(p.detach(), mesh, [Shard(0)])) for n, p in chosen.items()}
            optimizer = Muon(params.items())
            for param in params.values():
                param.grad = torch.ones_like(param)
            with Ledger() as ledger:
                optimizer.step()
            assert ledger.collectives == collectives, list(chosen)
