"""Every family against transformers: folders load whole, generate, and keep their logits where theory says so."""

import pico
import pytest
import torch
from safetensors.torch import load_file, save_file

from lit_recycle.growth.engine import grow_tensors
from lit_recycle.growth.event import Depth, Width
from lit_recycle.hub.families import FAMILIES
from lit_recycle.hub.grow import grow_folder

MOE = [name for name in pico.FAMILIES if name not in pico.DENSE]
PRESERVING = [name for name in MOE if name != "phimoe"]  # its router takes two experts whatever the config says
EXACT = 1e-5


def is_same(folder, before):
    return (pico.logits(pico.load(folder)) - before).abs().max() <= EXACT


def test_every_family_is_tried():
    assert set(pico.FAMILIES) == set(FAMILIES)


@pytest.mark.parametrize("family", pico.each(PRESERVING))
def test_width_without_noise_keeps_the_logits(family, sources, tmp_path):
    source, before = sources(family)
    growth = grow_folder(source, tmp_path / "grown", Width(2, noise=0))
    assert growth.preserves and is_same(tmp_path / "grown", before)


@pytest.mark.parametrize("family", pico.each(pico.FAMILIES))
@pytest.mark.parametrize("method", ["interposition", "stack"])
def test_zero_output_depth_keeps_the_logits(family, method, sources, tmp_path):
    source, before = sources(family)
    if method == "interposition" and family in pico.BY_PERIODS:
        with pytest.raises(ValueError, match="copy whole periods"):
            grow_folder(source, tmp_path / "grown", Depth(2, zero_output=True))
        return
    first = 1 if family == "ernie4_5_moe" and method == "stack" else None  # its dense layers must come first
    growth = grow_folder(source, tmp_path / "grown", Depth(2, method=method, zero_output=True, keep_first=first))
    before_and_after = pico.logits(pico.load(tmp_path / "grown")), before
    assert growth.preserves == FAMILIES[family].identity
    difference = (before_and_after[0] - before_and_after[1]).abs().max()
    assert difference <= EXACT if growth.preserves else difference > 1e-6


def test_sparsemixer_takes_two_experts_whatever_the_config_says(sources, tmp_path):
    source, _ = sources("phimoe")
    with pytest.raises(ValueError, match="--top-k keep"):
        grow_folder(source, tmp_path / "grown", Width(2))
    growth = grow_folder(source, tmp_path / "grown", Width(2, noise=0, top_k="keep"))
    assert not growth.preserves and pico.config_of(tmp_path / "grown")["num_experts_per_tok"] == 2
    pico.load(tmp_path / "grown")


@pytest.mark.parametrize("family", pico.each(pico.FAMILIES))
def test_grown_models_generate(family, sources, tmp_path):
    source, before = sources(family)
    grow_folder(source, tmp_path / "grown", pico.depth(family), *([pico.width(family, 0.5)] if family in MOE else []))
    model = pico.load(tmp_path / "grown")
    assert model.config.get_text_config().num_hidden_layers == 4
    assert model.generate(pico.tokens()[:, :4], max_new_tokens=3, do_sample=False).shape == (2, 7)
    assert (pico.logits(model) - before).abs().max() > 1e-3


@pytest.mark.parametrize("family", pico.each(MOE))
def test_streamed_tensors_are_the_engines(family, sources, tmp_path):
    source, _ = sources(family)
    one = pico.width(family, 0.1)
    if family == "glm4_moe":
        one = Width(2, noise=0.1, reset_balance=True)
    growth = grow_folder(source, tmp_path / "grown", pico.depth(family, zero_output=True), one, seed=7)
    tensors = load_file(source / "model.safetensors")
    expected = dict(grow_tensors(growth.plan, tensors))
    found = load_file(tmp_path / "grown" / "model.safetensors")
    assert set(found) == set(expected)
    for name, tensor in found.items():
        assert torch.equal(tensor.view(expected[name].shape), expected[name]), name


@pytest.mark.parametrize("family", pico.each(PRESERVING))
def test_fused_experts_grow_to_the_same_weights(family, sources, tmp_path):
    """Saved as transformers holds them (gate_up_proj 3-D), and as the hub does: one model."""
    source, _ = sources(family)
    model = pico.load(source)
    pico.save(model, family, tmp_path / "fused", save_original_format=False)
    if load_file(tmp_path / "fused" / "model.safetensors").keys() == load_file(source / "model.safetensors").keys():
        pytest.skip("both layouts are one")
    grow_folder(source, tmp_path / "a", pico.depth(family), Width(2, noise=0.1))
    grow_folder(tmp_path / "fused", tmp_path / "b", pico.depth(family), Width(2, noise=0.1))
    a, b = (pico.load(tmp_path / name).state_dict() for name in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)


SHARED_INDEXER = dict(num_hidden_layers=4, indexer_types=["full", "shared"] * 2, index_topk=4)
VARIANTS = [
    ("gemma4_text", dict(enable_moe_block=False)),
    ("glm_moe_dsa", SHARED_INDEXER),
    ("granitemoehybrid", dict(num_local_experts=0, num_experts_per_tok=0)),
    ("hy_v3", dict(num_hidden_layers=3)),
    ("lfm2_moe", dict(use_expert_bias=False)),
    ("llama4_text", dict(num_hidden_layers=4, num_experts_per_tok=1)),
    ("nemotron_h", dict(moe_latent_size=8)),
    ("cohere2_moe", dict(expert_selection_fn="softmax")),
    ("mimo_v2_flash", dict(num_hidden_layers=3, layer_types=None)),
]


@pytest.mark.families
@pytest.mark.parametrize(("family", "changes"), VARIANTS)
def test_other_models_of_a_family(family, changes, tmp_path):
    model = pico.build(family, **changes)
    pico.save(model, family, tmp_path / "source")
    has_experts = changes.get("enable_moe_block", True) and changes.get("num_local_experts", 1)
    for i, form in enumerate([Depth(2, zero_output=True), *([Width(2, noise=0)] if has_experts else [])]):
        growth = grow_folder(tmp_path / "source", tmp_path / str(i), form)
        assert growth.preserves == is_same(tmp_path / str(i), pico.logits(model))
        assert growth.preserves or (changes is SHARED_INDEXER and i == 0)


def test_prediction_layers_in_a_stack_of_their_own_stay_single(sources, tmp_path):
    """``mtp.layers.0`` keeps its number when layers are copied, and its experts are duplicated with all others."""
    source, before = sources("qwen3_5_moe")
    tensors = load_file(source / "model.safetensors")
    last = {
        name.replace("model.language_model.layers.1.", "mtp.layers.0."): tensor.clone()
        for name, tensor in tensors.items()
        if ".layers.1." in name
    }
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "config.json").write_bytes((source / "config.json").read_bytes())
    extra = {**last, "mtp.fc.weight": torch.ones(2, 2)}
    save_file(tensors | extra, tmp_path / "source" / "model.safetensors", {"format": "pt"})
    growth = grow_folder(tmp_path / "source", tmp_path / "grown", Depth(2, zero_output=True), Width(2, noise=0))
    assert growth.plan.after.num_tail_layers == 1 and is_same(tmp_path / "grown", before)
    grown = load_file(tmp_path / "grown" / "model.safetensors")
    tail = {name: tensor for name, tensor in grown.items() if name.startswith("mtp.")}
    assert torch.equal(tail["mtp.fc.weight"], torch.ones(2, 2))
    assert {int(name.split(".")[2]) for name in tail if "layers" in name} == {0}
    expert = "mtp.layers.0.mlp.experts.{}.down_proj.weight"
    for e in range(8):
        assert torch.equal(tail[expert.format(e)], last[expert.format(e // 2)])
    assert expert.format(8) not in tail


def test_a_model_around_a_known_language_model_is_grown(tmp_path):
    """Mistral 3 around Mistral 4: no file names the two together."""
    from transformers import AutoConfig

    text = pico.SHAPE | pico.FAMILIES["mistral4"] | {"model_type": "mistral4"}
    vision = pico.FAMILIES["gemma3"]["vision_config"] | {"head_dim": 4}
    config = AutoConfig.for_model("mistral3", text_config=text, vision_config=vision)
    model = pico.wild(pico.auto_class(config).from_config(config))
    model.save_pretrained(tmp_path / "source")
    growth = grow_folder(tmp_path / "source", tmp_path / "grown", Depth(2, zero_output=True), Width(2, noise=0))
    assert growth.preserves and is_same(tmp_path / "grown", pico.logits(model))
    assert pico.config_of(tmp_path / "grown")["text_config"]["n_routed_experts"] == 16
