"""Every operator on Hugging Face folders: transformers loads the result, and logits stay where the operator says so."""

import json
import shutil

import pico
import pytest
import torch
from safetensors.torch import load_file

from lit_recycle.commands.grow import main as grow
from lit_recycle.growth.operators import (
    DropLayers,
    DuplicateExperts,
    InsertEvery,
    Interpolate,
    Interpose,
    Middle,
    PruneExperts,
    PruneInner,
    RandomLayers,
    RotaryBase,
    Solar,
    Stack,
    Upcycle,
    WidenHeads,
    WidenHidden,
    WidenInner,
)
from lit_recycle.hub.families import FAMILIES
from lit_recycle.hub.grow import grow_folder

RECORDED = '[{"layers": %s, "num_layers": 2, "axes": {}, "blends": {}, "models": [1.0]}]'
WIDENED = [name for name, family in FAMILIES.items() if family.sizes]
EXPERTS = [name for name in WIDENED if FAMILIES[name].routing]


def widenings(family):
    networks = {"F": "experts", "I": "dense", "S": "shared"}
    inner = [WidenInner(networks[a], factor=2, symmetry_break=0.2) for a in "FIS" if a in FAMILIES[family].sizes]
    heads = [WidenHeads(2, symmetry_break=0.2)]
    hidden = [WidenHidden(2), WidenHeads(2)] if not FAMILIES[family].free_head_dim else [WidenHidden(2)]
    return [hidden, inner, *([heads] if FAMILIES[family].free_head_dim else [])]


@pytest.mark.parametrize("family", WIDENED)
def test_widths_grow_and_leave_the_logits(family, sources, tmp_path):
    source, before = sources(family)
    for i, operators in enumerate(widenings(family)):
        growth = grow_folder(source, tmp_path / str(i), *operators)
        assert growth.preserves
        torch.testing.assert_close(pico.logits(pico.load(tmp_path / str(i))), before, rtol=0, atol=2e-5)


@pytest.mark.parametrize("family", [*EXPERTS, "gpt_oss", "llama4_text", "jetmoe"])
def test_experts_that_are_told_apart_leave_the_logits(family, sources, tmp_path):
    """One tensor per expert or for all, transposed or not, with biases or without."""
    source, before = sources(family)
    growth = grow_folder(source, tmp_path / "grown", DuplicateExperts(2, noise=0.0, symmetry_break=0.5))
    after = pico.logits(pico.load(tmp_path / "grown"))
    assert growth.preserves and not torch.equal(after, before), "another order of the same sum"
    torch.testing.assert_close(after, before, rtol=0, atol=2e-5)


def test_a_config_without_head_dim_wants_both_widths(sources, tmp_path):
    with pytest.raises(ValueError, match="hidden size and heads grow together"):
        grow_folder(sources("olmoe")[0], tmp_path / "grown", WidenHidden(2))


def test_a_family_whose_tensors_are_not_all_known_is_not_widened(sources, tmp_path):
    with pytest.raises(ValueError, match=r"not all tensors that have them are known by name|no inner channels"):
        grow_folder(sources("gpt_oss")[0], tmp_path / "grown", WidenInner("experts"))


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "llama", "gpt_oss"])
@pytest.mark.parametrize(
    "operator",
    [Interpose(num_layers=3), Stack(3), InsertEvery(2), Middle(1), Interpolate(), DropLayers([1]), Solar(0)],
    ids=str,
)
def test_layers_are_found_where_they_belong(family, operator, sources, tmp_path):
    source, before = sources(family)
    growth = grow_folder(source, tmp_path / "grown", operator)
    after = pico.logits(pico.load(tmp_path / "grown"))
    assert growth.preserves == ((after - before).abs().max() < 1e-5).item()


def test_the_layer_between_two_is_their_mean(sources, tmp_path):
    source, _ = sources("llama")
    grow_folder(source, tmp_path / "grown", Interpolate(0.25))
    old, new = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "grown"))
    name = "model.layers.{}.self_attn.q_proj.weight"
    expected = 0.75 * old[name.format(0)] + 0.25 * old[name.format(1)]
    torch.testing.assert_close(new[name.format(1)], expected)
    assert torch.equal(new[name.format(2)], old[name.format(1)])


@pytest.mark.parametrize("family", EXPERTS)
def test_experts_are_copied_and_pruned_by_norm(family, sources, tmp_path):
    source, _ = sources(family)
    grow_folder(source, tmp_path / "uneven", DuplicateExperts(num_experts=6, by="norm", top_k=3))
    grow_folder(tmp_path / "uneven", tmp_path / "pruned", PruneExperts(2, top_k=2))
    assert pico.load(tmp_path / "uneven") and pico.load(tmp_path / "pruned")
    record = json.loads((tmp_path / "pruned" / "growth.json").read_text())["growths"][1]
    maps = record["maps"][0]["axes"]["E"]  # one for all layers, or one for each
    assert all(len(m["sources"]) == 2 for m in (maps if isinstance(maps, list) else [maps]) if m)


CHOSEN = [DuplicateExperts(num_experts=6, by="norm", top_k=3, noise=0), PruneInner(5, "experts"), PruneExperts(3)]


@pytest.mark.parametrize("chosen", CHOSEN, ids=lambda operator: type(operator).__name__)
@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "granitemoe"])
def test_chosen_by_norm_behind_others_as_by_a_growth_of_its_own(family, chosen, sources, tmp_path):
    """The norms are those of the model that the others have made, of the type that its weights are converted to."""
    source, _ = sources(family)
    others = [WidenHidden(2), DropLayers([0]), Interpose(2)]
    together = grow_folder(source, tmp_path / "together", *others, chosen, dtype="bfloat16")
    grow_folder(source, tmp_path / "others", *others, dtype="bfloat16")
    apart = grow_folder(tmp_path / "others", tmp_path / "apart", chosen)
    assert together.record()["maps"][-1] == apart.record()["maps"][0]
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("together", "apart"))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_inner_channels_are_pruned(sources, tmp_path):
    source, _ = sources("llama")
    grow_folder(source, tmp_path / "pruned", PruneInner(10))
    old, new = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "pruned"))
    norms = sum(
        old[f"model.layers.0.mlp.{m}_proj.weight"].square().sum(dim=0 if m == "down" else 1)
        for m in ("gate", "up", "down")
    )
    kept = norms.argsort(descending=True)[:10].sort().values
    assert torch.equal(new["model.layers.0.mlp.up_proj.weight"], old["model.layers.0.mlp.up_proj.weight"][kept])
    assert torch.equal(new["model.layers.0.mlp.down_proj.weight"], old["model.layers.0.mlp.down_proj.weight"][:, kept])
    assert pico.load(tmp_path / "pruned").config.intermediate_size == 10


def test_some_layers_may_stay_dense_where_the_config_can_say_so(sources, tmp_path):
    source, before = sources("qwen3")
    grow_folder(source, tmp_path / "moe", Upcycle(4, in_layers=[1]))
    torch.testing.assert_close(pico.logits(pico.load(tmp_path / "moe")), before, rtol=0, atol=1e-5)
    assert pico.config_of(tmp_path / "moe")["mlp_only_layers"] == [0]
    with pytest.raises(ValueError, match="all layers of a mixtral model have experts"):
        grow_folder(sources("llama")[0], tmp_path / "no", Upcycle(4, in_layers=[1]))


def test_several_operators_in_a_row(sources, tmp_path):
    """Each on the result of the one before, as in steps on disk."""
    source, before = sources("qwen3")
    operators = [Upcycle(4), WidenHidden(2), DuplicateExperts(2, noise=0.0), Interpose(2, zero_output=True)]
    growth = grow_folder(source, tmp_path / "grown", *operators)
    assert growth.preserves and len(growth.record()["maps"]) == 4
    torch.testing.assert_close(pico.logits(pico.load(tmp_path / "grown")), before, rtol=0, atol=2e-5)


def test_new_layers_begin_as_a_model_does(sources, tmp_path):
    source, _ = sources("llama")
    grow_folder(source, tmp_path / "grown", RandomLayers(2), seed=3)
    new = load_file(tmp_path / "grown" / "model.safetensors")
    assert (new["model.layers.1.input_layernorm.weight"] == 1).all()
    assert 0.015 < new["model.layers.1.mlp.gate_proj.weight"].std() < 0.025
    assert pico.load(tmp_path / "grown")


@pytest.mark.parametrize("family", ["llama", "mixtral", "gpt_oss"])
def test_another_rotary_base_is_that_of_transformers(family, sources, tmp_path):
    source, before = sources(family)
    growth = grow_folder(source, tmp_path / "grown", RotaryBase(77.0))
    config = json.loads((source / "config.json").read_text())
    (config.get("rope_parameters") or config)["rope_theta"] = 77.0
    shutil.copytree(source, tmp_path / "by hand")
    (tmp_path / "by hand/config.json").write_text(json.dumps(config))
    after = pico.logits(pico.load(tmp_path / "grown"))
    assert torch.equal(after, pico.logits(pico.load(tmp_path / "by hand")))
    assert not growth.preserves and (after - before).abs().max() > 1e-4


def test_a_model_with_several_rotary_bases_is_refused(sources, tmp_path):
    with pytest.raises(ValueError, match=r"RotaryBase: the config of a gemma3_text model has no single rope_theta"):
        grow_folder(sources("gemma3_text")[0], tmp_path / "grown", RotaryBase(77.0))


def test_any_operator_from_the_command_line(sources, tmp_path, capsys):
    source, _ = sources("llama")
    options = ["--grow", "{class_path: WidenInner, init_args: {networks: dense, size: 30}}", "--grow", "WidenHidden"]
    assert grow([str(source), str(tmp_path / "grown"), *options, "--verify"]) == 0
    said = capsys.readouterr().out
    assert "inner channels (dense) 24 → 30" in said and "hidden channels 16 → 32" in said and "preserved" in said
    maps = tmp_path / "grown" / "growth.json"
    record = json.loads(maps.read_text())["growths"][0]
    (tmp_path / "maps.json").write_text(json.dumps(record))
    assert grow([str(source), str(tmp_path / "again"), *options, "--maps", str(tmp_path / "maps.json")]) == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "WidenHiden",
            r"^--grow: no class is known as WidenHiden; one of your own needs its module, my_module.WidenHiden",
        ),
        ("no_operators.Mine", r"^--grow: there is no module 'no_operators', neither in the folder of the call nor on"),
        (
            "{class_path: Solar, init_args: {dop: 1}}",
            r"^--grow: there is no key 'dop' in grow; did you mean 'drop'\? \(`",
        ),
        ("Solar", r"^--grow: the following arguments are required: drop \("),
    ],
)
def test_operators_that_are_not_there_are_told(text, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        grow([str(tmp_path), str(tmp_path / "no"), "--grow", text])


MISTAKES = {
    ("--grow", "5"): "--grow: takes a class's name, or class_path and init_args, and got 5",
    ("--grow", "[Solar"): "--grow is not YAML",
    ("--grow", "{class_path: Upcycle, init_args: {num_experts: four}}"): "num_experts must be of type int, got 'four'",
    ("--depth", "2", "--granularity", "2"): "--granularity and --drop belong to experts of dense models",
    ("--depth", "2", "--maps", "{}"): "neither a list of maps nor a record",
    ("--depth", "2", "--maps", "{"): "is not valid JSON",
    ("--depth", "2", "--maps", "[1]"): "Interpose: what is recorded is no map",
    ("--depth", "2", "--maps", "[]"): "0 recorded maps do not belong to 1 operators",
    ("--depth", "2", "--maps", RECORDED % "[0, 9, 1, 1]"): r"of another growth: it names layers \[9\]",
    ("--depth", "2", "--maps", RECORDED % "[0, 1]"): r"of another growth: layers \(2, 2\) for \(2, 4\)",
}


@pytest.mark.parametrize("options", MISTAKES)
def test_a_mistake_on_the_command_line(options, sources, tmp_path):
    source, _ = sources("llama")
    if "--maps" in options:
        (tmp_path / "maps.json").write_text(options[-1])
        options, said = (*options[:-1], str(tmp_path / "maps.json")), MISTAKES[options]
    else:
        said = MISTAKES[options]
    with pytest.raises(ValueError, match=said) as error:
        grow([str(source), str(tmp_path / "no"), "--dry-run", *options])
    assert "\n" not in str(error.value)


def test_more_experts_per_token_than_there_are(sources, tmp_path):
    with pytest.raises(ValueError, match=r"top_k must lie in 1\.\.6, the number of experts, got 9"):
        grow_folder(sources("mixtral")[0], tmp_path / "no", DuplicateExperts(num_experts=6, top_k=9))
