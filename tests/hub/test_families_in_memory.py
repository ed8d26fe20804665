"""Every family's model in memory, with the names of transformers: grown by the same table, gradients by the rule."""

import shutil

import pico
import pytest
import torch
from safetensors.torch import load_file, save_file

from lit_recycle.growth.engine import grow_tensors
from lit_recycle.growth.event import operators_of
from lit_recycle.growth.optimizer import grow_optimizer_state
from lit_recycle.growth.plan import plan_growth
from lit_recycle.hub.families import FAMILIES
from lit_recycle.hub.in_memory import InMemory
from lit_recycle.hub.joined import whole
from lit_recycle.hub.model import model_of
from lit_recycle.hub.reader import open_folder
from lit_recycle.hub.shape import INSIDE, HubShape

MOE = [name for name, family in FAMILIES.items() if family.routing]


def planned(model, family, *forms):
    """The growth of a model, and its config afterwards as transformers reads it."""
    from transformers import AutoConfig

    config = model.config.to_dict()
    theirs = config["model_type"]
    config["model_type"] = family if family in pico.AS else theirs
    hub = model_of(config, {name: tensor.shape for name, tensor in model.state_dict().items()}, "the model")
    plan = plan_growth(hub, operators_of(forms))
    grown = hub.family.with_text(config, plan.after.config) | {"model_type": theirs}
    return plan, AutoConfig.for_model(**grown)


def grown(model, plan, config):
    after = pico.auto_class(config).from_config(config)
    after.load_state_dict(dict(grow_tensors(plan, model.state_dict())), strict=True)
    return after.eval()


@pytest.mark.parametrize("family", pico.each(pico.FAMILIES))
def test_models_in_memory_grow_by_the_same_table(family, sources):
    """Names as transformers has them in memory, strictly loaded into a model that is built from the grown config."""
    source, before = sources(family)
    model = pico.load(source)
    forms = [pico.depth(family, zero_output=True), *([pico.width(family, 0.0)] if family in MOE else [])]
    plan, config = planned(model, family, *forms)
    after = pico.logits(grown(model, plan, config))
    if plan.preserves:
        torch.testing.assert_close(after, before, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", pico.each([name for name in MOE if name != "phimoe"]))
def test_gradients_in_memory_follow_the_rule(family, sources):
    """What the optimizer's state is carried to is what the grown model's gradients are."""
    source, _ = sources(family)
    model = pico.load(source)
    plan, config = planned(model, family, pico.width(family, 0.0))
    before = gradients(model)
    after = gradients(grown(model, plan, config))
    states = {name: {"exp_avg": gradient.clone()} for name, gradient in before.items()}
    carried = grow_optimizer_state(plan, states, "carry", "AdamW")
    assert carried.keys() == after.keys()
    scale = max(gradient.abs().max() for gradient in before.values())
    for name, gradient in after.items():
        difference = (carried[name]["exp_avg"] - gradient).abs().max()
        assert difference <= 2e-5 * scale, (name, difference / scale)


def gradients(model):
    model.zero_grad()
    model(pico.tokens(), use_cache=False).logits.square().mean().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_prediction_layers_are_not_taken_for_the_first_ones(sources, tmp_path):
    """A folder with ``mtp.layers.0`` gives a run layer 0 of the model."""
    source, _ = sources("qwen3_5_moe")
    shutil.copytree(source, tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    first = "model.language_model.layers.0."
    more = {name.replace(first, "mtp.layers.0."): t * 0 for name, t in tensors.items() if name.startswith(first)}
    save_file(tensors | more, tmp_path / "source" / "model.safetensors", {"format": "pt"})
    folder = open_folder(tmp_path / "source")
    given = InMemory(folder, HubShape.of(folder.config))
    for name, tensor in pico.load(source).state_dict().items():
        assert torch.equal(whole(given[INSIDE + name]), tensor), name
