"""What users set on a module is carried through a growth, and what cannot be carried is refused at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from runs import CONFIG, TEXT, assert_equal, assert_same_training_state, fit
from torch import nn
from torch.optim import ASGD, Adafactor

from lit_recycle.callbacks.growth import GrowthCallback
from lit_recycle.checkpoints.grow import grow_checkpoint
from lit_recycle.checkpoints.native import load_checkpoint
from lit_recycle.data.module import TextData
from lit_recycle.growth.event import Depth, GrowthEvent, Trigger, Width
from lit_recycle.growth.operators import DuplicateExperts, Interpose, PruneExperts, PruneInner, Upcycle, WidenHidden
from lit_recycle.training.module import LitMoE


class Freeze(L.Callback):
    """Freezes the first layer's attention and all routers before training, as a user would."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for name, parameter in pl_module.named_parameters():
            if "layers.0.attn." in name or "router" in name:
                parameter.requires_grad_(False)


def test_frozen_parameters_stay_frozen_in_copies(tmp_path: Path) -> None:
    events = [GrowthEvent(Trigger(steps=2), Depth(2), Width(2, noise=0.0))]
    _, module, _ = fit(tmp_path / "run", steps=4, events=events, callbacks=[Freeze()])
    frozen = {name for name, p in module.named_parameters() if not p.requires_grad}
    assert frozen == {
        name
        for name, _ in module.named_parameters()
        if "router" in name or name.startswith(("model.layers.0.attn.", "model.layers.1.attn."))
    }
    start = load_checkpoint(tmp_path / "run/checkpoints/anchor-step=2.ckpt")["state_dict"]
    end = load_checkpoint(tmp_path / "run/checkpoints/step=4.ckpt")["state_dict"]
    for layer in (0, 1):
        assert torch.equal(end[f"model.layers.{layer}.attn.q_proj.weight"], start["model.layers.0.attn.q_proj.weight"])
    assert not torch.equal(end["model.layers.2.attn.q_proj.weight"], start["model.layers.1.attn.q_proj.weight"])


class WithProbe(LitMoE):
    """A subclass with a submodule of its own, which is trained along."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.probe = nn.Linear(3, 1)
        nn.init.constant_(self.probe.weight, 0.25)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss + self.probe(torch.ones(3)).square().sum()


@pytest.mark.parametrize("events", [[], [GrowthEvent(Trigger(steps=2), Depth(2), Width(2))]], ids=["plain", "grown"])
def test_a_subclass_may_have_modules_of_its_own(events: list[GrowthEvent], tmp_path: Path) -> None:
    module = WithProbe(CONFIG)
    trainer = L.Trainer(
        accelerator="cpu", max_steps=4, max_epochs=-1, logger=False, enable_progress_bar=False, limit_val_batches=0,
        enable_model_summary=False, enable_checkpointing=False, default_root_dir=tmp_path,
        callbacks=[GrowthCallback(events, save_anchor=False)] if events else [],
    )  # fmt: skip
    trainer.fit(module, datamodule=TextData(TEXT, seq_len=32, batch_size=4, cache_dir=str(tmp_path / "cache")))
    assert len(module.growth) == len(events)
    assert (module.probe.weight < 0.25).all() and (module.probe.weight > 0.2).all(), "trained on, not drawn again"
    assert module.probe.weight in trainer.optimizers[0].state


class Sketchy(torch.optim.SGD):
    """Keeps a state that no growth could follow."""

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["sketch"] = torch.zeros(2, 5)
        return loss


@pytest.mark.parametrize(
    ("optimizer", "width", "message"),
    [
        (lambda params: Sketchy(params, lr=1e-3), None, "Sketchy keeps 'sketch' of shape"),
        (lambda params: ASGD(params, lr=1e-3), Width(2), "'ax' of ASGD"),
    ],
)
def test_an_optimizer_that_cannot_be_grown_is_refused_after_the_first_step(
    optimizer: Any, width: Width | None, message: str, tmp_path: Path
) -> None:
    events = [GrowthEvent(Trigger(steps=100), Depth(2), width)]
    with pytest.raises(ValueError, match=message):
        fit(tmp_path / "run", steps=200, events=events, module={"optimizer": optimizer}, saves=())
    assert not list((tmp_path / "run").rglob("anchor*"))
    # Nothing is said where nothing has to be carried.
    events = [GrowthEvent(Trigger(steps=1), Depth(2), width, optimizer_state="reset")]
    fit(tmp_path / "reset", steps=2, events=events, module={"optimizer": optimizer}, saves=())


def test_adafactor_grows(tmp_path: Path) -> None:
    events = [GrowthEvent(Trigger(steps=2), Depth(2), Width(2, noise=0.0))]
    module = {"optimizer": lambda params: Adafactor(params, lr=1e-3)}
    trainer, _, losses = fit(tmp_path / "run", steps=4, events=events, module=module)
    assert len(losses) == 4
    for parameter, state in trainer.optimizers[0].state.items():
        if "row_var" in state:
            assert state["row_var"].shape == (*parameter.shape[:-1], 1)


# --- experts chosen by what the run knows ---


@pytest.mark.parametrize("by", ["gradient", "norm_gradient", "load"])
def test_experts_are_chosen_by_the_run_and_the_map_is_recorded(by: str, tmp_path: Path) -> None:
    grow = PruneExperts(2, by="load") if by == "load" else DuplicateExperts(num_experts=5, by=by, top_k=2)
    run = dict(steps=4, events=[GrowthEvent(Trigger(steps=3), grow=[grow])], callbacks=[])
    _, module, _ = fit(tmp_path / "run", **run)
    (record,) = module.growth
    maps = [m["sources"] for m in layers_of(record["maps"][0]["axes"]["E"])]
    assert len({tuple(m) for m in maps}) > 1 or by == "load", "layers choose for themselves"
    grow_checkpoint(tmp_path / "run/checkpoints/anchor-step=3.ckpt", tmp_path / "disk.ckpt", grow, maps=record["maps"])
    with pytest.raises(ValueError, match=f"'{by}' cannot be measured of a checkpoint, only norm"):
        grow_checkpoint(tmp_path / "run/checkpoints/anchor-step=3.ckpt", tmp_path / "no.ckpt", grow)
    saved = tmp_path / "run/checkpoints"
    fit(tmp_path / "again", ckpt_path=saved / "step=2.ckpt", **run)
    assert_same_training_state(saved / "step=4.ckpt", tmp_path / "again/checkpoints/step=4.ckpt")
    assert load_checkpoint(tmp_path / "disk.ckpt")["hyper_parameters"]["growth"][0]["maps"] == record["maps"]


def layers_of(maps: Any) -> list[dict[str, Any]]:
    return [m for m in maps if m] if isinstance(maps, list) else [maps]


@pytest.mark.parametrize("step", [0, 2])
def test_there_must_be_steps_to_measure_in(step: int, tmp_path: Path) -> None:
    """At the beginning, and between two events, which is said before either."""
    before = [GrowthEvent(Trigger(steps=step), depth=Depth(2))] if step else []
    events = [*before, GrowthEvent(Trigger(steps=step), grow=[PruneExperts(2, by="load")])]
    with pytest.raises(ValueError, match="PruneExperts chooses by load, which is measured in the steps since"):
        fit(tmp_path / "run", steps=4, events=events)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_two_events_at_a_step_are_one_with_two_operators(tmp_path: Path) -> None:
    operators = [PruneExperts(2), Interpose(2), WidenHidden(2), PruneInner(6, "experts")]
    at_once = [GrowthEvent(Trigger(steps=2), grow=operators)]
    one_by_one = [GrowthEvent(Trigger(steps=2), grow=[operator]) for operator in operators]
    for name, events in {"at_once": at_once, "one_by_one": one_by_one}.items():
        fit(tmp_path / name, steps=4, events=events, saves=[4])
    a, b = (load_checkpoint(tmp_path / name / "checkpoints/step=4.ckpt") for name in ("at_once", "one_by_one"))
    assert_equal(a["state_dict"], b["state_dict"], "weights")
    assert_equal(a["optimizer_states"], b["optimizer_states"], "optimizer")


def test_a_dense_model_becomes_experts_in_a_run(tmp_path: Path) -> None:
    """The loss is what it was, and the new router is trained."""
    dense = CONFIG.replace(num_experts=0, dense_layers=(0, 1, 2), dense_size=8, shared_expert_size=0)
    events = [GrowthEvent(Trigger(steps=2), grow=[Upcycle(4, 2)])]
    _, module, _ = fit(tmp_path / "run", steps=4, events=events, config=dense)
    (record,) = module.growth
    assert record["loss_after"] == pytest.approx(record["loss_before"], abs=1e-5) and record["preserves_function"]
    first, last = (load_checkpoint(tmp_path / f"run/checkpoints/step={i}.ckpt")["state_dict"] for i in (3, 4))
    name = "model.layers.1.moe.router.weight"
    assert not torch.equal(first[name], last[name])
    assert_equal(sorted(first), sorted(last), "names")


@pytest.mark.parametrize(
    "checkpoint",
    [{}, {"hyper_parameters": {"config": {}, "growth": []}}, {"hyper_parameters": {}, "progress": {}}],
    ids=["empty", "no progress", "no config"],
)
def test_a_checkpoint_of_another_program_is_refused(checkpoint: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="was not written by lit-recycle"):
        LitMoE(CONFIG).on_load_checkpoint(checkpoint)
