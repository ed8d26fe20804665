"""Several dense models into one Mixture-of-Experts model: an expert from each, the other tensors averaged."""

import json

import pico
import pytest
import torch
from safetensors.torch import load_file

from lit_recycle.commands.grow import main as grow
from lit_recycle.growth.event import GrowthEvent, Trigger
from lit_recycle.growth.operators import BranchTrainMix, Interpose
from lit_recycle.growth.plan import plan_growth
from lit_recycle.hub import transform
from lit_recycle.hub.grow import grow_folder

QUICK = ("llama", "granite")
"""Experts of their own names, and all in one tensor; ``make families`` tries all."""


def build(root, family="llama", number=3, **changes):
    """Folders of so many models that are alike in all but their weights."""
    folders = [root / f"model-{i}" for i in range(number)]
    for seed, folder in enumerate(folders):
        pico.build(family, seed, **changes).save_pretrained(folder)
    return folders


def tensors(folder):
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def thirds(number=3):
    return (1 / number,) * number


def test_experts_are_the_networks_and_the_rest_is_their_mean(tmp_path):
    first, *others = build(tmp_path)
    growth = grow_folder(
        first, tmp_path / "moe", BranchTrainMix(6, shares=thirds()), others=others, max_shard_size="9KB"
    )
    sources, found = [tensors(folder) for folder in (first, *others)], tensors(tmp_path / "moe")
    for expert in range(6):
        for ours, theirs in (("w1", "gate"), ("w3", "up"), ("w2", "down")):
            name = f"model.layers.1.block_sparse_moe.experts.{expert}.{ours}.weight"
            assert torch.equal(found[name], sources[expert % 3][f"model.layers.1.mlp.{theirs}_proj.weight"])
    shared = [name for name in sources[0] if ".mlp." not in name]
    assert len(shared) == 2 * 6 + 3 and len(list((tmp_path / "moe").glob("*.safetensors"))) > 1
    for name in shared:
        mean = torch.stack([source[name].double() for source in sources]).mean(0).float()
        torch.testing.assert_close(found[name], mean, rtol=0, atol=1e-7)
    assert pico.load(tmp_path / "moe").config.num_local_experts == 6 and not growth.preserves
    (record,) = json.loads((tmp_path / "moe/growth.json").read_text())["growths"]
    assert record["others"] == [str(other) for other in others]
    assert record["maps"][0]["axes"]["E"]["models"] == [0, 1, 2, 0, 1, 2]
    grow_folder(first, tmp_path / "again", BranchTrainMix(6, shares=thirds()), others=others)
    again = tensors(tmp_path / "again")
    assert again.keys() == found.keys() and all(torch.equal(again[name], found[name]) for name in found)


@pytest.mark.parametrize(
    "family", [*QUICK, *(pytest.param(f, marks=pytest.mark.families) for f in pico.UPCYCLED if f not in QUICK)]
)
def test_models_that_are_the_same_one_give_its_logits(family, tmp_path):
    """Whole networks, and in slices; each element of a mean of equals is that element, bit for bit."""
    (source,) = build(tmp_path, family, 1, **pico.WITHOUT_WINDOWS.get(family, {}))
    for name, operator in (
        ("whole", BranchTrainMix(3, shares=thirds())),
        ("sliced", BranchTrainMix(6, 4, 2, shares=thirds())),
    ):
        grow_folder(source, tmp_path / name, operator, others=[source, source])
        after, before = (pico.logits(pico.load(folder)) for folder in (tmp_path / name, source))
        torch.testing.assert_close(after, before, rtol=0, atol=1e-5)
    old, new = tensors(source), tensors(tmp_path / "whole")
    assert all(torch.equal(old[name], new[name]) for name in old.keys() & new.keys())


def test_each_slice_comes_from_the_model_of_its_expert(tmp_path):
    """With gate and up in one tensor, as granitemoe holds them."""
    first, second = build(tmp_path, "granite", 2)
    grow_folder(first, tmp_path / "moe", BranchTrainMix(4, 2, 2), others=[second])
    found = tensors(tmp_path / "moe")["model.layers.0.block_sparse_moe.input_linear.weight"]
    for expert in range(4):
        source, part = tensors((first, second)[expert // 2]), slice(12 * (expert % 2), 12 * (expert % 2) + 12)
        matrices = [source[f"model.layers.0.mlp.{matrix}_proj.weight"][part] for matrix in ("gate", "up")]
        assert torch.equal(found[expert], torch.cat(matrices))


def test_one_model_may_give_all_that_is_not_averaged(tmp_path):
    first, second = build(tmp_path, number=2)
    grow_folder(first, tmp_path / "moe", BranchTrainMix(2, shares=(0, 1)), Interpose(2), others=[second])
    found, source = tensors(tmp_path / "moe"), tensors(second)
    assert torch.equal(found["model.embed_tokens.weight"], source["model.embed_tokens.weight"])
    name = "model.layers.{}.self_attn.q_proj.weight"
    assert torch.equal(found[name.format(3)], source[name.format(1)])


def test_means_are_made_piece_by_piece(tmp_path, monkeypatch):
    first, *others = build(tmp_path)
    operator, asked = BranchTrainMix(3, shares=thirds()), []
    grow_folder(first, tmp_path / "at once", operator, others=others, dtype="bfloat16")

    def scratch(use, nbytes):
        asked.append(nbytes)
        return memoryview(bytearray(nbytes))

    monkeypatch.setattr(transform, "CHUNK", 96)
    monkeypatch.setattr(transform, "scratch", scratch)
    grow_folder(first, tmp_path / "piecemeal", operator, others=others, dtype="bfloat16")
    whole, pieces = tensors(tmp_path / "at once"), tensors(tmp_path / "piecemeal")
    assert all(torch.equal(whole[name], pieces[name]) for name in whole)
    assert max(asked) == 96


def test_the_command(tmp_path, capsys):
    first, second = map(str, build(tmp_path, number=2))
    assert grow([first, str(tmp_path / "moe"), "--experts-from", second, "--shares", "1,0", "--upcycle", "4"]) == 0
    assert "2 models, dense → 4 experts, 2 per token" in capsys.readouterr().out
    assert grow([first, str(tmp_path / "more"), "--depth", "2", "--width", "2", "--experts-from", second]) == 0
    said = capsys.readouterr().out
    assert said.index("2 models, dense → 2 experts") < said.index("depth ×2") < said.index("experts ×2")
    assert pico.load(tmp_path / "more").config.num_local_experts == 4
    with pytest.raises(ValueError, match="Interpose: it takes from one model, and there are 2"):
        grow_folder(first, tmp_path / "no", Interpose(2), BranchTrainMix(2), others=[second])
    mistakes = {
        ("--upcycle", "4", "--shares", "1,0"): "give --experts-from",
        ("--experts-from", second, "--shares", "1"): "1 weights for 2 models",
        ("--experts-from", second, "--upcycle", "3"): "multiple of 2 models",
        ("--experts-from", second, "--shares", "1,1"): "sum to one",
        (
            "--grow",
            "{class_path: BranchTrainMix, init_args: {num_experts: 2}}",
        ): "takes from 2 models, and there is one",
        (
            "--experts-from",
            second,
            "--grow",
            "{class_path: BranchTrainMix, init_args: {shares: [0.3, 0.3, 0.4], num_experts: 3}}",
        ): "takes from 3 models, and there are 2",
    }
    for options, said in mistakes.items():
        with pytest.raises(ValueError, match=said):
            grow([first, str(tmp_path / "no"), *options])


UNLIKE = {
    "hidden_size": (dict(hidden_size=32), "hidden_size is 16 in the one and 32 in the other"),
    "vocab_size": (dict(vocab_size=80), "vocab_size is 64 in the one and 80 in the other"),
    "layers": (dict(num_hidden_layers=3), "num_hidden_layers is 2 in the one and 3 in the other"),
    "positions": (dict(rope_parameters={"rope_type": "default", "rope_theta": 5e5}), "rope_parameters is"),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_models_that_do_not_fit_together(name, tmp_path):
    changes, said = UNLIKE[name]
    (first,) = build(tmp_path, number=1)
    pico.build("llama", **changes).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=said) as caught:
        grow_folder(first, tmp_path / "moe", BranchTrainMix(2), others=[tmp_path / "other"])
    assert str(first) in str(caught.value) and str(tmp_path / "other") in str(caught.value)
    assert not (tmp_path / "moe").exists()


def test_other_families_and_vocabularies_do_not_fit(tmp_path):
    first, second = build(tmp_path, number=2)
    pico.build("qwen3").save_pretrained(tmp_path / "qwen")
    with pytest.raises(ValueError, match="model_type is llama in the one and qwen3 in the other"):
        grow_folder(first, tmp_path / "moe", BranchTrainMix(2), others=[tmp_path / "qwen"])
    for folder, pieces in ((first, ["a", "b"]), (second, ["b", "a"])):
        vocab = {piece: i for i, piece in enumerate(pieces)}
        (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab}}))
    with pytest.raises(ValueError, match=r"vocabularies of their tokenizer\.json differ"):
        grow_folder(first, tmp_path / "moe", BranchTrainMix(2), others=[second])


def test_a_run_has_one_model():
    from lit_recycle.growth.native import NativeModel
    from lit_recycle.model.config import MoEConfig

    dense = MoEConfig(num_layers=1, num_experts=0, dense_layers=(0,), dense_size=8, shared_expert_size=0)
    event = GrowthEvent(Trigger(steps=1), grow=[BranchTrainMix(2)])
    with pytest.raises(ValueError, match="takes from 2 models, and there is one: mix folders of dense models first"):
        plan_growth(NativeModel(dense), event.operators)
