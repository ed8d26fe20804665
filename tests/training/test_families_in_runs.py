"""Every family with experts in a run: trained, grown along both axes, killed once, exported, read by transformers."""

from __future__ import annotations

from pathlib import Path

import pico
import pytest
import torch
from runs import assert_same_training_state, fit

from lit_recycle.growth.event import GrowthEvent, Trigger
from lit_recycle.hub.convert import export_checkpoint
from lit_recycle.hub.families import FAMILIES
from lit_recycle.hub.shape import HubShape
from lit_recycle.hub.transformers_model import TransformersModel
from lit_recycle.training.module import LitMoE

SHAPE = {"vocab_size": 260}
OF_TEXT = [name for name, family in FAMILIES.items() if not family.text_config]
MOE = [name for name, family in FAMILIES.items() if family.routing]


def train(root: Path, family: str, name: str, **options: object) -> LitMoE:
    events = [
        GrowthEvent(Trigger(steps=2), depth=pico.depth(family)),
        GrowthEvent(Trigger(steps=4), width=pico.width(family, 0.01)),
    ]
    start = {"init_from": str(root / "hub"), "backend": "transformers"}
    _, module, _ = fit(root / name, "auto", config=None, module=start, events=events, steps=6, **options)
    return module


QUICK = ("phimoe",)
"""Tried by every run of the tests: its router draws random numbers, which a resume must draw again."""


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=() if name in QUICK else pytest.mark.families) for name in MOE]
)
def test_it_trains_and_grows_and_comes_back_out(family: str, tmp_path: Path) -> None:
    pico.save(pico.build(family, **SHAPE), family, tmp_path / "hub")
    module = train(tmp_path, family, "whole")
    assert [growth["label"].split()[0] for growth in module.growth] == ["depth", "experts"]
    assert module.shape.num_layers == 4
    checkpoints = tmp_path / "whole" / "checkpoints"
    train(tmp_path, family, "again", ckpt_path=checkpoints / "step=3.ckpt")
    assert_same_training_state(checkpoints / "step=6.ckpt", tmp_path / "again/checkpoints/step=6.ckpt")
    export_checkpoint(checkpoints / "step=6.ckpt", tmp_path / "out")
    with torch.no_grad():
        found = module.model.eval()(pico.tokens())[0]
    torch.testing.assert_close(pico.logits(pico.load(tmp_path / "out")), found, rtol=0, atol=1e-4)


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
