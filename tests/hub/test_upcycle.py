"""Dense to Mixture-of-Experts: loads, keeps the function, and differs where Drop-Upcycling says so."""

import json

import pico
import pytest
import torch
from safetensors.torch import load_file

from lit_recycle.commands.grow import main as grow
from lit_recycle.growth.operators import DuplicateExperts, Upcycle
from lit_recycle.hub.convert import import_folder
from lit_recycle.hub.families import FAMILIES
from lit_recycle.hub.grow import grow_folder


@pytest.fixture(params=list(pico.UPCYCLED))
def dense(request, tmp_path):
    pico.build(request.param, **pico.WITHOUT_WINDOWS.get(request.param, {})).save_pretrained(tmp_path / "dense")
    return request.param, tmp_path / "dense"


def test_upcycling_keeps_the_logits(dense, tmp_path):
    family, source = dense
    plan = grow_folder(source, tmp_path / "moe", Upcycle(8, 3))
    model = pico.load(tmp_path / "moe")
    assert model.config.model_type == pico.UPCYCLED[family] and plan.preserves
    torch.testing.assert_close(pico.logits(model), pico.logits(pico.load(source)), rtol=0, atol=1e-5)
    assert not [key for key in ("num_experts", "num_local_experts") if getattr(model.config, key, 8) != 8]
    routers = [t for name, t in model.state_dict().items() if name.endswith(("mlp.gate.weight", "router.weight"))]
    assert len(routers) == 2 and all(t.shape == (8, 16) and 0.015 < t.std() < 0.025 for t in routers)
    assert not torch.equal(*routers)


def test_slices_of_a_network_compute_what_it_did(dense, tmp_path):
    _, source = dense
    before = pico.logits(pico.load(source))
    grow_folder(source, tmp_path / "moe", Upcycle(6, 3, 3))
    grow_folder(tmp_path / "moe", tmp_path / "wide", DuplicateExperts(2, noise=0.0))
    for name in ("moe", "wide"):
        torch.testing.assert_close(pico.logits(pico.load(tmp_path / name)), before, rtol=0, atol=1e-5)


def test_a_window_is_refused_where_the_family_has_none(tmp_path):
    pico.build("olmo3").save_pretrained(tmp_path / "dense")
    with pytest.raises(ValueError, match=r"layers \[0, 1\] see a sliding window of 4 tokens, which flex_olmo"):
        grow_folder(tmp_path / "dense", tmp_path / "moe", Upcycle(4))


def test_what_a_config_leaves_out_is_written_in_the_words_of_its_family(tmp_path):
    """Tied embeddings and the rotary base of ERNIE, which its family with experts reads in another way."""
    pico.build("ernie4_5", tie_word_embeddings=True).save_pretrained(tmp_path / "dense")
    config = pico.config_of(tmp_path / "dense")
    silent = {k: v for k, v in config.items() if k not in ("tie_word_embeddings", "rms_norm_eps", "rope_parameters")}
    (tmp_path / "dense/config.json").write_text(json.dumps(silent))
    grow_folder(tmp_path / "dense", tmp_path / "moe", Upcycle(4))
    found = pico.config_of(tmp_path / "moe")
    assert (found["tie_word_embeddings"], found["rms_norm_eps"], found["rope_theta"]) == (True, 1e-5, 500_000.0)
    after, before = (pico.logits(pico.load(tmp_path / name)) for name in ("moe", "dense"))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)


def test_the_result_grows_and_imports(dense, tmp_path):
    family, source = dense
    assert grow([str(source), str(tmp_path / "moe"), "--upcycle", "4", "--verify"]) == 0
    assert grow([str(tmp_path / "moe"), str(tmp_path / "wide"), "--width", "2", "--noise", "0", "--verify"]) == 0
    if FAMILIES[pico.UPCYCLED[family]].native and family != "mistral":  # whose sliding window our model lacks
        assert import_folder(tmp_path / "wide", tmp_path / "run.ckpt").num_experts == 8


def test_dropped_channels_are_drawn_from_what_they_replace(tmp_path):
    pico.build("qwen3", intermediate_size=400, hidden_size=64).save_pretrained(tmp_path / "dense")
    grow_folder(tmp_path / "dense", tmp_path / "moe", Upcycle(2, redraw=0.25), seed=3)
    source, found = (load_file(tmp_path / name / "model.safetensors") for name in ("dense", "moe"))
    changed = {}
    for expert in (0, 1):
        for matrix in ("gate_proj", "up_proj", "down_proj"):
            old = source[f"model.layers.1.mlp.{matrix}.weight"]
            new = found[f"model.layers.1.mlp.experts.{expert}.{matrix}.weight"]
            axis = 0 if matrix == "down_proj" else 1
            rows = (old != new).all(axis).nonzero().flatten().tolist()
            assert torch.equal((old != new).any(axis), (old != new).all(axis)) and len(rows) == 100
            changed.setdefault(expert, rows)
            assert changed[expert] == rows  # the same channels in all three
            drawn = new.movedim(1 - axis, 0)[rows]
            assert abs(drawn.std() / old.std() - 1) < 0.05 and abs(drawn.mean()) < 0.02
    assert changed[0] != changed[1]
    assert torch.equal(
        found["model.layers.1.self_attn.q_proj.weight"], source["model.layers.1.self_attn.q_proj.weight"]
    )
    record = json.loads((tmp_path / "moe" / "growth.json").read_text())["growths"][0]
    assert record["grow"][0]["init_args"]["redraw"] == 0.25


MISTAKES = {
    ("--upcycle", "1"): "top_k must lie in 1..num_experts",
    ("--upcycle", "4", "--drop", "2"): "share of channels",
    ("--upcycle", "4", "--granularity", "3"): "granularity 3 must divide",
}


@pytest.mark.parametrize("options", MISTAKES)
def test_mistakes(options, tmp_path):
    pico.build("llama").save_pretrained(tmp_path / "dense")
    with pytest.raises(ValueError, match=MISTAKES[options]):
        grow([str(tmp_path / "dense"), str(tmp_path / "moe"), *options])


def test_only_dense_models_without_biases(tmp_path):
    pico.build("mixtral").save_pretrained(tmp_path / "moe")
    with pytest.raises(ValueError, match="no dense layers to make experts of"):
        grow_folder(tmp_path / "moe", tmp_path / "result", Upcycle(4))
    pico.build("llama", attention_bias=True).save_pretrained(tmp_path / "biased")
    with pytest.raises(ValueError, match="sets attention_bias, which mixtral models cannot have"):
        grow_folder(tmp_path / "biased", tmp_path / "result", Upcycle(4))


def test_dtype(tmp_path):
    pico.build("qwen2").save_pretrained(tmp_path / "dense")
    grow_folder(tmp_path / "dense", tmp_path / "moe", Upcycle(4, redraw=0.5), dtype="bfloat16", max_shard_size="10KB")
    found = {n: t for p in (tmp_path / "moe").glob("*.safetensors") for n, t in load_file(p).items()}
    assert {t.dtype for t in found.values()} == {torch.bfloat16}
    pico.load(tmp_path / "moe")
