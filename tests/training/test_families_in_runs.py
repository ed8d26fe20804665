"""Every family in a run: trained, grown along both axes, killed once, exported, read by transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pico
import pytest
import torch
from runs import assert_same_training_state, fit

from lit_recycle.growth.event import GrowthEvent, Trigger
from lit_recycle.growth.operators import WidenInner
from lit_recycle.hub.export import export_checkpoint
from lit_recycle.hub.families import FAMILIES
from lit_recycle.hub.shape import HubShape
from lit_recycle.hub.transformers_model import TransformersModel
from lit_recycle.training.module import LitMoE

SHAPE = {"vocab_size": 260}
OF_TEXT = [name for name, family in FAMILIES.items() if not family.text_config]
QUICK = ("phimoe",)
"""Tried by every run of the tests: its router draws random numbers, which a resume must draw again."""
GROWN, STEPS = 4, 8


def growth_of(family: str) -> list[GrowthEvent]:
    """In depth, and in width along whatever a family can be widened: experts, or the networks of dense layers."""
    depth = GrowthEvent(Trigger(steps=GROWN), depth=pico.depth(family))
    if FAMILIES[family].routing:
        return [depth, GrowthEvent(Trigger(steps=GROWN), width=pico.width(family, 0.01))]
    widened = "I" in FAMILIES[family].sizes
    return [depth, *([GrowthEvent(Trigger(steps=GROWN), grow=[WidenInner("dense")])] if widened else [])]


def train(root: Path, family: str, name: str, **options: Any) -> tuple[L.Trainer, LitMoE]:
    start = {"init_from": str(root / "hub"), "backend": "transformers"}
    checks = {"limit_val_batches": 2, "val_check_interval": STEPS, "saves": [GROWN + 1]}
    events = growth_of(family)
    trainer, module, _ = fit(root / name, config=None, module=start, events=events, steps=STEPS, **checks, **options)
    trainer.save_checkpoint(root / f"{name}.ckpt", weights_only=False)
    return trainer, module


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=() if name in QUICK else pytest.mark.families) for name in FAMILIES]
)
def test_it_trains_and_grows_and_comes_back_out(family: str, tmp_path: Path) -> None:
    """Killed once; written as transformers reads it, with the loss that the run's validation has found."""
    pico.save(pico.build(family, **SHAPE), family, tmp_path / "hub")
    trainer, module = train(tmp_path, family, "whole")
    assert len(module.growth) == len(growth_of(family)) and module.shape.num_layers == 4
    train(tmp_path, family, "again", ckpt_path=tmp_path / f"whole/checkpoints/step={GROWN + 1}.ckpt")
    assert_same_training_state(tmp_path / "whole.ckpt", tmp_path / "again.ckpt")
    export_checkpoint(tmp_path / "whole.ckpt", tmp_path / "out")
    model, losses = pico.load(tmp_path / "out"), []
    with torch.no_grad():
        found = module.model.eval()(pico.tokens())[0]
        for batch, _ in zip(trainer.datamodule.val_dataloader(), range(2), strict=False):
            logits = model(batch["input_ids"], use_cache=False).logits
            losses.append(torch.nn.functional.cross_entropy(logits.mT, batch["labels"]).item())
    torch.testing.assert_close(pico.logits(model), found, rtol=0, atol=1e-4)
    assert sum(losses) / 2 == pytest.approx(trainer.callback_metrics["loss/val"].item(), abs=1e-4)


@pytest.mark.parametrize("family", [pytest.param(name, marks=pytest.mark.families) for name in OF_TEXT])
def test_documents_are_kept_apart_or_the_model_is_refused(family: str) -> None:
    model = pico.build(family).eval()
    shape = HubShape.of(model.config.to_dict())
    if shape.mixes_positions:
        return
    ours = TransformersModel(shape).eval()
    ours.load_state_dict({f"hf.{name}": tensor for name, tensor in model.state_dict().items()})
    ids, documents = torch.arange(3, 15).unsqueeze(0), torch.tensor([[0] * 5 + [1] * 7])
    with torch.no_grad():
        try:
            packed = ours(ids, documents_BS=documents)[0]
        except ValueError as error:
            assert "cannot keep documents apart" in str(error)
            return
        for begin, end in ((0, 5), (5, 12)):
            torch.testing.assert_close(packed[0, begin:end], model(ids[:, begin:end]).logits[0], rtol=0, atol=1e-4)
