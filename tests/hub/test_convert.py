"""Import and export against transformers: the same function, loss and gradients; and back again bit for bit."""

import json

import pico
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from lit_recycle.checkpoints.grow import grow_checkpoint
from lit_recycle.checkpoints.native import load_checkpoint
from lit_recycle.commands.export import main as export
from lit_recycle.commands.import_ import main as import_
from lit_recycle.data.tokenizer import ByteTokenizer, JsonTokenizer
from lit_recycle.growth.event import Depth, Width
from lit_recycle.hub.convert import import_folder
from lit_recycle.hub.export import export_checkpoint
from lit_recycle.hub.grow import grow_folder
from lit_recycle.hub.native_config import expressible, families_for, to_hf, to_native
from lit_recycle.hub.native_names import hub_parts, native_shapes
from lit_recycle.model.config import MoEConfig
from lit_recycle.model.transformer import MoETransformer

CHANGES = {
    "mistral": {"sliding_window": None},
    "olmoe": {"norm_topk_prob": True},
    "qwen2_moe": {"qkv_bias": False},
    "qwen3_moe": {"tie_word_embeddings": True},
    "dots1": {"num_hidden_layers": 3, "norm_topk_prob": True},
    "glm4_moe": {"attention_bias": True, "use_qk_norm": True, "head_dim": 8},
}
NORMALIZE = {"olmoe", "qwen2_moe", "qwen3_moe"}


def native(checkpoint):
    """The model of a checkpoint, in its own type."""
    loaded = load_checkpoint(checkpoint)
    model = MoETransformer(MoEConfig.from_dict(loaded["hyper_parameters"]["config"]))
    model.load_state_dict({name.removeprefix("model."): t for name, t in loaded["state_dict"].items()})
    return model


def everything(folder):
    return {name: tensor for path in folder.glob("model*.safetensors") for name, tensor in load_file(path).items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize("family", expressible())
def test_import_computes_what_transformers_does(family, changed, tmp_path):
    theirs = pico.build(family, **(CHANGES.get(family, {"tie_word_embeddings": True}) if changed else {}))
    theirs.save_pretrained(tmp_path / "hub")
    import_folder(tmp_path / "hub", tmp_path / "run.ckpt")
    ours = native(tmp_path / "run.ckpt")
    tokens = pico.tokens()
    expected, found = theirs(tokens, use_cache=False).logits, ours(tokens)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    losses = [F.cross_entropy(x[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()) for x in (expected, found)]
    torch.testing.assert_close(*losses, rtol=0, atol=1e-5)
    for loss in losses:
        loss.backward()
    for mine, name in (("embed", "embed_tokens"), ("norm", "norm")):
        gradient = getattr(theirs.model, name).weight.grad
        torch.testing.assert_close(getattr(ours, mine).weight.grad, gradient, rtol=1e-3, atol=1e-5)
    gradient = theirs.model.layers[-1].self_attn.q_proj.weight.grad
    torch.testing.assert_close(ours.layers[-1].attn.q_proj.weight.grad, gradient, rtol=1e-3, atol=1e-5)
    if hasattr(ours.layers[-1], "moe"):
        gradient = theirs.model.layers[-1].mlp.experts.gate_up_proj.grad
        torch.testing.assert_close(ours.layers[-1].moe.experts.gate_up.grad, gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", expressible())
def test_export_gives_the_folder_back_bit_for_bit(family, tmp_path):
    theirs = pico.build(family, **CHANGES.get(family, {}))
    theirs.save_pretrained(tmp_path / "hub")
    import_folder(tmp_path / "hub", tmp_path / "run.ckpt")
    assert export_checkpoint(tmp_path / "run.ckpt", tmp_path / "back", family=family, max_shard_size="20KB") == family
    assert same(everything(tmp_path / "back"), everything(tmp_path / "hub"))
    assert torch.equal(pico.logits(pico.load(tmp_path / "back")), pico.logits(theirs))
    import_folder(tmp_path / "back", tmp_path / "again.ckpt")
    first, again = (load_checkpoint(tmp_path / name) for name in ("run.ckpt", "again.ckpt"))
    assert same(first["state_dict"], again["state_dict"])
    assert first["hyper_parameters"] == again["hyper_parameters"]


def test_fused_layout_imports_to_the_same(tmp_path):
    theirs = pico.build("qwen3_moe")
    theirs.save_pretrained(tmp_path / "hub")
    theirs.save_pretrained(tmp_path / "fused", save_original_format=False)
    for name in ("hub", "fused"):
        import_folder(tmp_path / name, tmp_path / f"{name}.ckpt")
    assert same(*(load_checkpoint(tmp_path / f"{name}.ckpt")["state_dict"] for name in ("hub", "fused")))


@pytest.mark.parametrize("family", ["mixtral", "olmoe", "qwen2_moe", "qwen3_moe", "dots1"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_growing_the_folder_and_growing_the_checkpoint_agree_bit_for_bit(family, dtype, tmp_path):
    depth, width = Depth(2, zero_output=True), Width(2, noise=0.1)
    pico.build(family, **CHANGES.get(family, {})).save_pretrained(tmp_path / "hub")
    import_folder(tmp_path / "hub", tmp_path / "run.ckpt", dtype=dtype)
    export_checkpoint(tmp_path / "run.ckpt", tmp_path / "exported", family=family)
    grow_folder(tmp_path / "exported", tmp_path / "a", depth, width, seed=5)
    grow_checkpoint(tmp_path / "run.ckpt", tmp_path / "grown.ckpt", depth, width, seed=5)
    export_checkpoint(tmp_path / "grown.ckpt", tmp_path / "b", family=family)
    assert same(everything(tmp_path / "a"), everything(tmp_path / "b"))
    a, b = (pico.config_of(tmp_path / name) for name in "ab")
    assert {k: v for k, v in a.items() if k not in ("moe_layer_freq",)} == b


@pytest.mark.parametrize("command", ["import", "export", "grow"])
def test_values_that_a_type_cannot_hold_are_not_made_infinite(command, tmp_path):
    model = pico.build("mixtral")
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight[0, 0] = 1e5
    pico.save(model, "mixtral", tmp_path / "hub")
    import_folder(tmp_path / "hub", tmp_path / "run.ckpt")
    calls = {
        "import": lambda dtype, to: import_folder(tmp_path / "hub", to, dtype=dtype),
        "export": lambda dtype, to: export_checkpoint(tmp_path / "run.ckpt", to, dtype=dtype),
        "grow": lambda dtype, to: grow_folder(tmp_path / "hub", to, Depth(2), dtype=dtype),
    }
    with pytest.raises(ValueError, match=r"q.* holds values above 65504, .*: convert to bfloat16"):
        calls[command]("float16", tmp_path / "half")
    assert not (tmp_path / "half").exists()
    calls[command]("bfloat16", tmp_path / "half")


def test_dtype_leaves_the_balancing_bias(tmp_path):
    pico.build("dots1").save_pretrained(tmp_path / "hub")
    import_folder(tmp_path / "hub", tmp_path / "run.ckpt", dtype="bfloat16")
    types = {name: t.dtype for name, t in load_checkpoint(tmp_path / "run.ckpt")["state_dict"].items()}
    assert types["model.layers.1.moe.router.balance_bias"] == torch.float32
    assert types["model.layers.1.moe.experts.down"] == torch.bfloat16


REFUSED = {
    "rotary positions of type dynamic": {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
    "partial rotary positions": {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    "sliding attention window": {"sliding_window": 8},
    "hidden_act other than silu": {"hidden_act": "gelu"},
    "attention_bias": {"attention_bias": True},
    "clip_qkv": {"clip_qkv": 1.0},
    "quantized weights": {"quantization_config": {}},
    "names no rms_norm_eps": {"rms_norm_eps": None},
    "cannot be expressed exactly here; importable are mixtral": {"model_type": "gpt_oss"},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_our_model_lacks_is_refused(message, tmp_path):
    config = pico.build("mixtral").config.to_dict() | REFUSED[message]
    with pytest.raises(ValueError, match=message):
        to_native(config, "config.json")


def test_a_window_longer_than_any_input_is_none():
    config = pico.build("mistral", sliding_window=64).config.to_dict()
    assert to_native(config, "config.json").qk_norm == "none"


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({}, "mixtral"),
        ({"normalize_top_k": False, "qk_norm": "full"}, "olmoe"),
        ({"qk_norm": "head", "dense_layers": (1,), "dense_size": 8}, "qwen3_moe"),
        ({"shared_expert_size": 8, "shared_expert_gate": True, "qkv_bias": True}, "qwen2_moe"),
        ({"num_experts": 0, "dense_layers": (0, 1), "dense_size": 8}, "llama"),
        (
            {"router_score": "sigmoid", "balance_bias": True, "qk_norm": "head", "shared_expert_size": 512},
            "dots1",
        ),
    ],
)
def test_the_family_follows_from_the_shape(changes, first):
    assert families_for(MoEConfig(num_layers=2, **changes))[0] == first


def test_no_family_for_a_shape_says_why():
    with pytest.raises(ValueError, match=r"mixtral \(shared_expert_size 0 only\)"):
        to_hf(MoEConfig(shared_expert_size=8))
    with pytest.raises(ValueError, match="olmoe does not express this model: it has qk_norm 'full' only"):
        to_hf(MoEConfig(), "olmoe")


@pytest.mark.parametrize("breakage", ["missing", "left over", "shape"])
def test_weights_must_fit_the_config(breakage, tmp_path):
    pico.build("mixtral").save_pretrained(tmp_path / "hub")
    tensors = everything(tmp_path / "hub")
    if breakage == "missing":
        del tensors["model.layers.1.block_sparse_moe.experts.1.w2.weight"]
    elif breakage == "left over":
        tensors["model.layers.1.self_attn.q_proj.bias"] = torch.zeros(16)
    else:
        tensors["model.norm.weight"] = torch.zeros(17)
    save_file(tensors, tmp_path / "hub" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"no tensor .*experts.1.w2|q_proj.bias, which our model has no place|\[17\]"):
        import_folder(tmp_path / "hub", tmp_path / "run.ckpt")
    assert not (tmp_path / "run.ckpt").exists()


def word_tokenizer():
    words = {"<eos>": 0, "a": 1, "b": 2}
    backend = Tokenizer(models.WordLevel(words, unk_token="<eos>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(["<eos>"])
    return backend.to_str()


def test_the_tokenizer_goes_along(tmp_path):
    from transformers import AutoTokenizer

    pico.build("mixtral").save_pretrained(tmp_path / "hub")
    (tmp_path / "hub" / "tokenizer.json").write_text(word_tokenizer())
    assert import_([str(tmp_path / "hub"), str(tmp_path / "run.ckpt")]) == 0
    assert load_checkpoint(tmp_path / "run.ckpt")["tokenizer"] == JsonTokenizer(word_tokenizer()).to_dict()
    assert export([str(tmp_path / "run.ckpt"), str(tmp_path / "back")]) == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "back")
    assert tokenizer("a b a")["input_ids"] == [1, 2, 1] and tokenizer.eos_token_id == 0
    assert pico.config_of(tmp_path / "back")["eos_token_id"] == 2, "what the folder said"


def test_bytes_become_a_tokenizer_of_the_same_ids(tmp_path):
    from transformers import AutoTokenizer

    pico.build("mixtral", vocab_size=257).save_pretrained(tmp_path / "hub")
    import_folder(tmp_path / "hub", tmp_path / "run.ckpt")
    checkpoint = torch.load(tmp_path / "run.ckpt", weights_only=True)
    torch.save(
        checkpoint | {"TextData": {"tokenizer": ByteTokenizer().to_dict(), "seq_len": 77}}, tmp_path / "run.ckpt"
    )
    export_checkpoint(tmp_path / "run.ckpt", tmp_path / "back")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "back")
    for text in ("Hello,  wörld\n\t don't", "\x00\x7f­ 中 🙂", "".join(map(chr, range(256)))):
        assert tokenizer(text)["input_ids"] == list(text.encode())
        assert tokenizer.decode(list(text.encode())) == text
    assert tokenizer.eos_token_id == ByteTokenizer.eos_id
    assert pico.config_of(tmp_path / "back")["max_position_embeddings"] == 77, "longer than the 64 it came with"


def test_optimizer_state_goes_along_bit_for_bit(tmp_path):
    pico.build("qwen3_moe").save_pretrained(tmp_path / "hub")
    import_folder(tmp_path / "hub", tmp_path / "run.ckpt")
    ours = native(tmp_path / "run.ckpt")
    optimizer = torch.optim.AdamW([(f"model.{name}", p) for name, p in ours.named_parameters()], lr=0.1)
    ours(pico.tokens())[0].square().mean().backward()
    optimizer.step()
    checkpoint = torch.load(tmp_path / "run.ckpt", weights_only=True)
    with pytest.raises(ValueError, match="no optimizer state: leave out --optimizer"):
        export_checkpoint(tmp_path / "run.ckpt", tmp_path / "back", optimizer=True)
    torch.save(checkpoint | {"optimizer_states": [optimizer.state_dict()]}, tmp_path / "run.ckpt")
    export_checkpoint(tmp_path / "run.ckpt", tmp_path / "back", optimizer=True)
    pico.load(tmp_path / "back")
    import_folder(tmp_path / "back", tmp_path / "again.ckpt")
    [found] = load_checkpoint(tmp_path / "again.ckpt")["optimizer_states"]
    expected = optimizer.state_dict()
    assert json.loads(json.dumps(found["param_groups"])) == json.loads(json.dumps(expected["param_groups"]))
    assert found["state"].keys() == expected["state"].keys()
    assert all(same(found["state"][i], expected["state"][i]) for i in expected["state"])


def test_every_part_of_a_tensor_has_its_own_name():
    config = MoEConfig(num_layers=12, num_experts=12, qk_norm="head", dense_layers=(1,), dense_size=8)
    names = [n for parts in hub_parts(config, "qwen3_moe").values() for names in parts.names for n in names]
    assert len(names) == len(set(names)) and set(hub_parts(config, "qwen3_moe")) == set(native_shapes(config))
