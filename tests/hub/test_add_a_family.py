"""The page about families does what it says; mistakes in a user's file are told in one sentence."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pico
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from lit_recycle.commands.grow import main as grow
from lit_recycle.hub.dense_layers import Kinds, Prefix
from lit_recycle.hub.families import FAMILIES
from lit_recycle.hub.family_file import family_from, read_family
from lit_recycle.hub.grow import grow_folder
from lit_recycle.hub.verify import compare_logits

PAGE = (Path(__file__).parents[2] / "docs" / "add-a-family.md").read_text()
NAMES = {
    "model.layers.": "blocks.",
    "self_attn.q_proj": "attn.q",
    "self_attn.k_proj": "attn.k",
    "self_attn.v_proj": "attn.v",
    "self_attn.o_proj": "attn.o",
    "input_layernorm": "norm_1",
    "post_attention_layernorm": "norm_2",
    "block_sparse_moe.gate.": "ffn.router.",
    "block_sparse_moe.experts": "ffn.experts",
    ".w1.": ".gate.",
    ".w3.": ".up.",
    ".w2.": ".down.",
}
KEYS = {"num_hidden_layers": "n_layers", "num_local_experts": "n_experts", "num_experts_per_tok": "n_active"}


def block(language, number=0):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[number]


def translated(source, target, names, keys, model_type):
    """A folder with other names and keys."""
    target.mkdir()
    tensors = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        for old, new in names.items():
            name = name.replace(old, new)
        tensors[name] = tensor
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    config = {keys.get(key, key): value for key, value in json.loads((source / "config.json").read_text()).items()}
    (target / "config.json").write_text(json.dumps(config | {"model_type": model_type}))


@pytest.fixture
def acme(sources, tmp_path):
    """The example's model: a Mixtral under other names."""
    source, before = sources("mixtral")
    translated(source, tmp_path / "acme-small", NAMES, KEYS, "acme_moe")
    (tmp_path / "acme.yaml").write_text(block("yaml"))
    return tmp_path, before


def test_the_example_grows_by_its_command(acme, monkeypatch, capsys):
    folder, before = acme
    monkeypatch.chdir(folder)
    command, *arguments = shlex.split(re.search(r"```bash\nlit-recycle (grow .*?)\n```", PAGE)[1])
    assert command == "grow" and grow(arguments) == 0
    assert "preserved up to rounding" in capsys.readouterr().out
    config = json.loads((folder / "acme-large" / "config.json").read_text())
    assert {key: config[key] for key in ("n_layers", "n_experts", "n_active", "first_dense")} == {
        "n_layers": 4,
        "n_experts": 8,
        "n_active": 4,
        "first_dense": 0,
    }
    back = {new: old for old, new in reversed(NAMES.items())}
    translated(folder / "acme-large", folder / "back", back, {new: old for old, new in KEYS.items()}, "mixtral")
    torch.testing.assert_close(pico.logits(pico.load(folder / "back")), before, rtol=0, atol=1e-5)


def test_the_tensors_of_the_page_are_those_of_the_folder(acme):
    folder, _ = acme
    listed = dict(re.findall(r"(\S+\.weight) (\[[\d, ]+\])", block("text")))
    found = {name: str(list(t.shape)) for name, t in load_file(folder / "acme-small" / "model.safetensors").items()}
    assert listed == {name: found[name] for name in listed} and len(listed) == 13
    shown, config = json.loads(block("json")), json.loads((folder / "acme-small" / "config.json").read_text())
    assert {key: config.get(key, 0) for key in shown} == shown


def test_both_ways_to_describe_it_are_one(acme):
    names: dict = {}
    exec(block("python", 1), names)
    assert read_family(acme[0] / "acme.yaml") == names["FAMILY"]


PERSIMMON = {
    "axes": {
        "self_attn.dense.weight": "D+ (H P)*",
        "self_attn.dense.bias": "D+",
        "mlp.dense_4h_to_h.weight": "down: D+ I*",
        "mlp.dense_4h_to_h.bias": "D+",
    }
}


def test_a_bias_of_an_output_that_is_not_named_is_told(tmp_path, monkeypatch, capsys):
    """On the tiny model of the page."""
    monkeypatch.chdir(tmp_path)
    exec(block("python"), {})
    Path("whole.yaml").write_text(yaml.safe_dump(PERSIMMON))
    arguments = ["tiny", "grown", "--depth", "2", "--zero-output", "--verify", "--family"]
    assert grow([*arguments, "whole.yaml"]) == 0 and "logit difference 0 " in capsys.readouterr().out
    axes = {name: text for name, text in PERSIMMON["axes"].items() if name != "mlp.dense_4h_to_h.bias"}
    Path("part.yaml").write_text(yaml.safe_dump({"axes": axes}))
    with pytest.raises(ValueError, match=r"model.layers.0.mlp.dense_4h_to_h.bias is added to the residual stream"):
        grow([*arguments, "part.yaml", "--dry-run"])


def test_a_folder_whose_config_contradicts_it_is_told(sources, tmp_path):
    source, _ = sources("mixtral")
    shutil.copytree(source, tmp_path / "other")
    config = json.loads((tmp_path / "other/config.json").read_text())
    (tmp_path / "other/config.json").write_text(json.dumps(config | {"vocab_size": 48}))
    with pytest.raises(ValueError, match=r"other: transformers finds mismatched keys: .*embed_tokens"):
        compare_logits(tmp_path / "other", source)


def test_every_key_is_on_the_page():
    with pytest.raises(ValueError) as error:
        family_from({"nonsense": 1})
    keys = str(error.value).partition("its keys are ")[2].split(", ")
    assert len(keys) > 15 and all(f"| `{key}` |" in PAGE or f"`{key}`" in PAGE or key in block("yaml") for key in keys)


def test_an_unknown_family_points_to_the_page(acme):
    with pytest.raises(ValueError, match=r"'acme_moe' is not known .*docs/add-a-family.md.*--family"):
        grow([str(acme[0] / "acme-small"), str(acme[0] / "grown"), "--depth", "2"])


def test_a_family_that_is_like_another(sources, tmp_path):
    """Keys of mappings are added, others replaced."""
    values = {"like": "qwen3_moe", "axes": {"x.weight": "D"}, "dense": {"rule": "kinds", "experts": ["moe"]}}
    family, base = family_from(values | {"note": "mine"}), FAMILIES["qwen3_moe"]
    assert family.axes == {**base.axes, "x.weight": "D"} and family.routing == base.routing
    assert family.dense == Kinds(experts=("moe",)) and family.note == "mine" and family.native is None
    assert family_from({"like": "qwen3_moe", "dense": {"rule": "prefix", "default": 2}}).dense == Prefix(default=2)
    source, before = sources("mixtral")
    (tmp_path / "like.yaml").write_text(yaml.safe_dump({"like": "mixtral"}))
    growth = grow_folder(source, tmp_path / "grown", *_exact(), family=read_family(tmp_path / "like.yaml"))
    assert growth.preserves
    torch.testing.assert_close(pico.logits(pico.load(tmp_path / "grown")), before, rtol=0, atol=1e-5)


def _exact():
    from lit_recycle.growth.event import Depth, Width

    return Depth(2, zero_output=True), Width(2, noise=0)


MISTAKES = {
    "a family must be a mapping": [1],
    "a family has no key axis": {"axis": {}},
    "axes: a.weight: 'E D[' is no axis string": {"axes": {"a.weight": "E D["}},
    "axes: 'a.weight' must be a name with an axis string": {"axes": {"a.weight": 3}},
    "axes must be a mapping": {"axes": ["a"]},
    "routing.kind must be one of softmax": {"routing": {"kind": "soft"}},
    "routing has no key top_k": {"routing": {"kind": "softmax", "top_k": 2}},
    "give a rule, one of none, all": {"dense": "first"},
    "dense prefix has no key n; its keys are key, default": {"dense": {"rule": "prefix", "n": 1}},
    "like: 'mixtrall' is no known family": {"like": "mixtrall"},
    "outputs must be int, got 'two'": {"outputs": "two"},
    "names no tensors": {"note": "nothing"},
}


@pytest.mark.parametrize("name", ["ffn.experts.{e}.up.weight", "ffn.router.weight"])
def test_what_belongs_to_experts_and_is_not_named_is_missed(name, acme):
    folder, _ = acme
    values = yaml.safe_load(block("yaml"))
    del values["axes"][name]
    (folder / "less.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match="axes are not known"):
        grow([str(folder / "acme-small"), str(folder / "g"), "--width", "2", "--family", str(folder / "less.yaml")])


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_in_a_file(message, tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(MISTAKES[message]))
    with pytest.raises(ValueError, match=re.escape(f"--family {tmp_path / 'mine.yaml'}: ")) as error:
        read_family(tmp_path / "mine.yaml")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_files_that_cannot_be_read(acme):
    folder, _ = acme
    (folder / "broken.yaml").write_text("a: [")
    for name, message in (("nothing.yaml", "cannot be read"), ("broken.yaml", "is not YAML")):
        with pytest.raises(ValueError, match=message):
            grow([str(folder / "acme-small"), str(folder / "grown"), "--depth", "2", "--family", str(folder / name)])
    assert not (folder / "grown").exists()
