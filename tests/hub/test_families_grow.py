"""Every family against transformers: folders load whole, generate, and keep their logits where theory says so."""

import pico
import pytest
import torch
from safetensors.torch import load_file

from lit_recycle.growth.engine import grow_tensors
from lit_recycle.growth.event import Depth, Width
from lit_recycle.hub.families import FAMILIES
from lit_recycle.hub.grow import grow_folder

MOE = [name for name in pico.FAMILIES if name not in pico.DENSE]
PRESERVING = [name for name in MOE if name != "phimoe"]  # its router takes two experts whatever the config says
FUSED_ON_THE_HUB = ("gpt_oss", "granitemoe", "granitemoeshared")


def test_every_family_is_tried():
    assert set(pico.FAMILIES) == set(FAMILIES)


@pytest.mark.parametrize("family", PRESERVING)
def test_width_without_noise_keeps_the_logits(family, sources, tmp_path):
    source, before = sources(family)
    growth = grow_folder(source, tmp_path / "grown", Width(2, noise=0))
    assert growth.preserves
    torch.testing.assert_close(pico.logits(pico.load(tmp_path / "grown")), before, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", [name for name in pico.FAMILIES if name != "minimax"])
@pytest.mark.parametrize("method", ["interposition", "stack"])
def test_zero_output_depth_keeps_the_logits(family, method, sources, tmp_path):
    source, before = sources(family)
    depth = Depth(2, method=method, zero_output=True)
    if method == "stack" and family in ("deepseek_v2", "deepseek_v3", "glm4_moe", "dots1", "ernie4_5_moe"):
        depth = Depth(2, method=method, zero_output=True, keep_first=1)  # their dense layers must come first
    growth = grow_folder(source, tmp_path / "grown", depth)
    assert growth.preserves
    torch.testing.assert_close(pico.logits(pico.load(tmp_path / "grown")), before, rtol=0, atol=1e-5)


def test_zero_output_copies_are_no_identities_where_the_table_says_so(sources, tmp_path):
    source, before = sources("minimax")
    growth = grow_folder(source, tmp_path / "grown", Depth(2, zero_output=True))
    assert not growth.preserves
    assert (pico.logits(pico.load(tmp_path / "grown")) - before).abs().max() > 1e-3


def test_sparsemixer_takes_two_experts_whatever_the_config_says(sources, tmp_path):
    source, _ = sources("phimoe")
    with pytest.raises(ValueError, match="--top-k keep"):
        grow_folder(source, tmp_path / "grown", Width(2))
    growth = grow_folder(source, tmp_path / "grown", Width(2, noise=0, top_k="keep"))
    assert not growth.preserves and pico.config_of(tmp_path / "grown")["num_experts_per_tok"] == 2
    pico.load(tmp_path / "grown")


@pytest.mark.parametrize("family", list(pico.FAMILIES))
def test_grown_models_generate(family, sources, tmp_path):
    source, before = sources(family)
    width = Width(2, noise=0.5, top_k="keep" if family == "phimoe" else "scale") if family in MOE else None
    grow_folder(source, tmp_path / "grown", Depth(2), *([width] if width else []))
    model = pico.load(tmp_path / "grown")
    assert model.config.num_hidden_layers == 4
    assert model.generate(pico.tokens()[:, :4], max_new_tokens=3, do_sample=False).shape == (2, 7)
    assert (pico.logits(model) - before).abs().max() > 1e-3


@pytest.mark.parametrize("family", MOE)
def test_streamed_tensors_are_the_engines(family, sources, tmp_path):
    source, _ = sources(family)
    width = Width(2, noise=0.1, top_k="keep" if family == "phimoe" else "scale", reset_balance=family == "glm4_moe")
    growth = grow_folder(source, tmp_path / "grown", Depth(2, zero_output=True), width, seed=7)
    tensors = load_file(source / "model.safetensors")
    expected = dict(grow_tensors(growth.plan, tensors))
    found = load_file(tmp_path / "grown" / "model.safetensors")
    assert set(found) == set(expected)
    for name, tensor in found.items():
        assert torch.equal(tensor.view(expected[name].shape), expected[name]), name


@pytest.mark.parametrize("family", [name for name in PRESERVING if name not in FUSED_ON_THE_HUB])
def test_fused_experts_grow_to_the_same_weights(family, sources, tmp_path):
    """Saved as transformers holds them (gate_up_proj 3-D), and as the hub does: one model."""
    source, _ = sources(family)
    pico.load(source).save_pretrained(tmp_path / "fused", save_original_format=False)
    assert any(name.endswith("experts.gate_up_proj") for name in load_file(tmp_path / "fused" / "model.safetensors"))
    grow_folder(source, tmp_path / "a", Depth(2), Width(2, noise=0.1))
    grow_folder(tmp_path / "fused", tmp_path / "b", Depth(2), Width(2, noise=0.1))
    a, b = (pico.load(tmp_path / name).state_dict() for name in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)
