"""Growing a folder: what is rewritten, copied, recorded; what is refused; what a killed attempt leaves."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pico
import pytest
import torch
from safetensors.torch import load_file, save_file

from lit_recycle import hub
from lit_recycle.checkpoints.native import load_checkpoint, read_hyperparameters
from lit_recycle.commands.families import main as families
from lit_recycle.commands.grow import main as grow
from lit_recycle.growth.event import Depth, Width
from lit_recycle.growth.operators import DuplicateExperts
from lit_recycle.hub import stream
from lit_recycle.hub.convert import import_folder
from lit_recycle.hub.grow import grow_folder
from lit_recycle.hub.plan import plan_folder_growth
from lit_recycle.hub.shape import shape_of


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixtral") / "source"
    pico.build("mixtral").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded") / "source"
    pico.build("mixtral", num_hidden_layers=4).save_pretrained(folder, max_shard_size="10KB")
    assert len(list(folder.glob("*.safetensors"))) > 3
    return folder


def copied(source, target):
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def edit_config(folder, **changes):
    config = pico.config_of(folder) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "absent"}))
    return folder


def everything(folder):
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def test_layer_three_and_expert_three_never_mix(sharded, tmp_path):
    source = everything(sharded)
    grow_folder(sharded, tmp_path / "grown", Depth(layers=(0, 3, 1, 2)), Width(2, noise=0))
    grown = everything(tmp_path / "grown")
    for layer, origin in enumerate((0, 3, 1, 2)):
        for expert in range(8):
            for matrix in ("w1", "w2", "w3"):
                suffix = f"block_sparse_moe.experts.{{}}.{matrix}.weight"
                expected = source[f"model.layers.{origin}.{suffix.format(expert // 2)}"]
                assert torch.equal(grown[f"model.layers.{layer}.{suffix.format(expert)}"], expected)


def test_shards_of_source_and_result_do_not_matter(sharded, tmp_path):
    grow_folder(sharded, tmp_path / "one", Depth(2), Width(2, noise=0.1))
    grow_folder(sharded, tmp_path / "many", Depth(2), Width(2, noise=0.1), max_shard_size="20KB")
    one, many = everything(tmp_path / "one"), everything(tmp_path / "many")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 5
    assert all(p.stat().st_size < 20_000 + 10_000 for p in (tmp_path / "many").glob("*.safetensors"))
    assert one.keys() == many.keys() and all(torch.equal(one[name], many[name]) for name in one)
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in many.values())
    pico.load(tmp_path / "many")


def test_twice_two_is_four_without_noise(mixtral, tmp_path):
    grow_folder(mixtral, tmp_path / "a", Depth(2), Width(2, noise=0))
    grow_folder(tmp_path / "a", tmp_path / "b", Depth(2), Width(2, noise=0))
    grow_folder(mixtral, tmp_path / "c", Depth(4), Width(4, noise=0))
    b, c = everything(tmp_path / "b"), everything(tmp_path / "c")
    assert b.keys() == c.keys() and all(torch.equal(b[name], c[name]) for name in b)
    assert pico.config_of(tmp_path / "b") == pico.config_of(tmp_path / "c")


def test_a_second_growth_draws_other_noise_and_remembers_the_first(mixtral, tmp_path):
    grow_folder(mixtral, tmp_path / "a", Width(2, noise=0.1))
    grow_folder(tmp_path / "a", tmp_path / "b", Depth(2))
    growths = json.loads((tmp_path / "b" / "growth.json").read_text())["growths"]
    assert [g["event"] for g in growths] == [0, 1]
    assert growths[0]["grow"][0]["init_args"]["noise"] == 0.1
    assert growths[0]["maps"][0]["axes"]["E"]["sources"] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert growths[1]["maps"][0]["layers"] == [0, 0, 1, 1] and growths[1]["source"] == str(tmp_path / "a")
    assert plan_folder_growth(tmp_path / "b", Depth(2)).plan.steps[0].key == (0, 2, 0)


def test_the_seed_decides_the_noise(mixtral, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        grow_folder(mixtral, tmp_path / name, Width(2, noise=0.1), seed=seed)
    a, b, c = (everything(tmp_path / name) for name in "abc")
    copy = "model.layers.1.block_sparse_moe.experts.1.w2.weight"
    assert torch.equal(a[copy], b[copy]) and not torch.equal(a[copy], c[copy])
    source = everything(mixtral)["model.layers.1.block_sparse_moe.experts.0.w2.weight"]
    assert torch.equal(a[copy.replace("experts.1", "experts.0")], source)
    assert 0.07 < (a[copy] - source).std() / source.std() < 0.13


def test_dtype_is_converted_before_growing(mixtral, tmp_path):
    grow_folder(mixtral, tmp_path / "grown", Width(2, noise=0.1), dtype="bfloat16")
    pico.load(mixtral).to(torch.bfloat16).save_pretrained(tmp_path / "half")
    grow_folder(tmp_path / "half", tmp_path / "expected", Width(2, noise=0.1))
    found, expected = everything(tmp_path / "grown"), everything(tmp_path / "expected")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert pico.config_of(tmp_path / "grown")["dtype"] == "bfloat16"


def test_side_files_and_card(mixtral, tmp_path):
    source = copied(mixtral, tmp_path / "source")
    (source / "tokenizer.json").write_text("{}")
    (source / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    (source / "pytorch_model.bin").write_text("never")
    grow_folder(source, tmp_path / "grown", Depth(2))
    assert (tmp_path / "grown" / "tokenizer.json").read_text() == "{}"
    assert (tmp_path / "grown" / "generation_config.json").exists()
    assert not (tmp_path / "grown" / "pytorch_model.bin").exists()
    card = (tmp_path / "grown" / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\n---\n# Mine\n\n## Grown with lit-recycle") and "0 0 1 1" in card


def test_tied_embeddings_stay_tied(tmp_path):
    pico.build("llama", tie_word_embeddings=True).save_pretrained(tmp_path / "source")
    grow_folder(tmp_path / "source", tmp_path / "grown", Depth(2))
    assert "lm_head.weight" not in everything(tmp_path / "grown")
    pico.load(tmp_path / "grown")


def test_mtp_layers_stay_single_and_move_behind(tmp_path):
    source = tmp_path / "source"
    pico.build("deepseek_v3").save_pretrained(source)
    tensors = load_file(source / "model.safetensors")
    behind = {n.replace("layers.1", "layers.2"): t + 1 for n, t in tensors.items() if n.startswith("model.layers.1")}
    behind["model.layers.2.eh_proj.weight"] = torch.randn(16, 32)
    save_file(tensors | behind, source / "model.safetensors", {"format": "pt"})
    growth = grow_folder(source, tmp_path / "grown", Depth(2, zero_output=True), Width(2, noise=0))
    grown = everything(tmp_path / "grown")
    assert growth.plan.after.num_tail_layers == 1 and pico.config_of(tmp_path / "grown")["num_hidden_layers"] == 4
    assert torch.equal(grown["model.layers.4.eh_proj.weight"], behind["model.layers.2.eh_proj.weight"])
    assert not any(name.startswith("model.layers.5.") for name in grown)
    expert = "mlp.experts.{}.down_proj.weight"  # its experts are duplicated, since it shares the config
    assert torch.equal(grown["model.layers.4." + expert.format(11)], behind["model.layers.2." + expert.format(3)])
    assert "kept single" in (tmp_path / "grown" / "README.md").read_text()
    assert grow([str(source), str(tmp_path / "again"), "--depth", "2", "--zero-output", "--verify"]) == 0


def test_quantized_weights_are_copied_and_refuse_noise(tmp_path):
    source = tmp_path / "source"
    pico.build("deepseek_v3").save_pretrained(source)
    tensors = load_file(source / "model.safetensors")
    for name in [name for name in tensors if ".experts." in name]:
        tensors[name + "_scale_inv"] = torch.rand(1, 1)
        tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="no noise can be added and no symmetry broken: give --noise 0"):
        plan_folder_growth(source, Width(2))
    with pytest.raises(ValueError, match=r"is packed as float8_e4m3fn, and norms .*lit-recycle dequantize"):
        grow_folder(source, tmp_path / "grown", DuplicateExperts(num_experts=12, by="norm", noise=0))
    grow_folder(source, tmp_path / "grown", Depth(2), Width(2, noise=0))
    grown = everything(tmp_path / "grown")
    for suffix in ("weight", "weight_scale_inv"):
        found = grown[f"model.layers.3.mlp.experts.9.up_proj.{suffix}"]
        expected = tensors[f"model.layers.1.mlp.experts.1.up_proj.{suffix}"]
        assert found.dtype == expected.dtype and torch.equal(found.float(), expected.float())


def test_mxfp4_blocks_follow_their_experts(tmp_path):
    source = tmp_path / "source"
    pico.build("gpt_oss").save_pretrained(source)
    tensors = load_file(source / "model.safetensors")
    for name in [name for name in tensors if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        del tensors[name]
        tensors[name + "_blocks"] = torch.randint(0, 255, (4, 3, 5), dtype=torch.uint8)
        tensors[name + "_scales"] = torch.randint(0, 255, (4, 3), dtype=torch.uint8)
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="no noise"):
        plan_folder_growth(source, Width(2))
    grow_folder(source, tmp_path / "grown", Width(2, noise=0))
    for kind in ("blocks", "scales"):
        name = f"model.layers.1.mlp.experts.down_proj_{kind}"
        assert torch.equal(everything(tmp_path / "grown")[name], tensors[name].repeat_interleave(2, 0))


def _cut(path, nbytes):
    os.truncate(path, path.stat().st_size - nbytes)


def _lie(folder):
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.norm.weight"] = "model-00099-of-00099.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _last(folder):
    return sorted(folder.glob("*.safetensors"))[-1]


BROKEN = {
    "which is not there; fetch the missing shards": lambda folder: _last(folder).unlink(),
    "names model-00099-of-00099.safetensors": _lie,
    r"is truncated: it has .* bytes": lambda folder: _cut(_last(folder), 1),
    "is truncated or no safetensors file": lambda folder: os.truncate(_last(folder), 100),
    "truncated or no safetensors": lambda folder: os.truncate(_last(folder), 4),
    "not valid JSON": lambda folder: (folder / "config.json").write_text("{"),
    "config.json is missing": lambda folder: (folder / "config.json").unlink(),
    "has no weight_map": lambda folder: (folder / "model.safetensors.index.json").write_text("{}"),
    "model_type 'gpt2' is not known .* give that with --family": lambda folder: edit_config(folder, model_type="gpt2"),
    "weights of layer 3, but config.json says": lambda folder: edit_config(folder, num_hidden_layers=3),
    "no weights of layer 4": lambda folder: edit_config(folder, num_hidden_layers=5),
    "gives layer 0 5 experts, the weights have 4": lambda folder: edit_config(folder, num_local_experts=5),
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_source_is_refused(message, sharded, tmp_path):
    source = copied(sharded, tmp_path / "source")
    BROKEN[message](source)
    with pytest.raises(ValueError, match=message):
        grow_folder(source, tmp_path / "grown", Depth(2))
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


class _Trap:
    def __reduce__(self):
        return os.mkdir, ("sprung",)


def test_pickles_are_refused_with_the_way_to_convert_them(mixtral, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = copied(mixtral, tmp_path / "source")
    (source / "model.safetensors").unlink()
    torch.save({"trap": _Trap()}, source / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pickled weights only.*save_pretrained"):
        grow([str(source), str(tmp_path / "grown"), "--depth", "2"])
    assert not (tmp_path / "sprung").exists()


def test_an_unknown_layout_of_experts_is_refused(mixtral, tmp_path):
    source = copied(mixtral, tmp_path / "source")
    tensors = {name.replace(".w2.", ".wzwo."): t for name, t in load_file(source / "model.safetensors").items()}
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="no tensors known as down"):
        grow_folder(source, tmp_path / "grown", Width(2))


def test_a_destination_that_exists_is_refused(mixtral, tmp_path):
    (tmp_path / "grown").mkdir()
    with pytest.raises(ValueError, match="exists already: remove it or choose another"):
        grow_folder(mixtral, tmp_path / "grown", Depth(2))


@pytest.mark.parametrize("place", ["grown", "deep/below/grown"])
def test_a_destination_within_a_model_is_refused(mixtral, tmp_path, place):
    source = copied(mixtral, tmp_path / "source")
    before = sorted(source.rglob("*"))
    with pytest.raises(ValueError, match=rf"{place} lies in .*/source, which is a model of its own"):
        grow_folder(source, source / place, Depth(2))
    assert sorted(source.rglob("*")) == before


def test_too_little_space_is_said_before_the_first_byte(mixtral, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ValueError, match=r"needs .* GB and .* has 0.00 GB free"):
        grow_folder(mixtral, tmp_path / "grown", Depth(2))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [("--width", "1" + "0" * 12), ("--depth", "1" + "0" * 12)], ids=lambda o: o[0])
def test_an_absurd_growth_is_refused_before_it_is_planned(mixtral, tmp_path, options):
    with pytest.raises(ValueError, match=r"grown needs at least [\d,]{6,}\.00 GB and .* has .* GB free"):
        grow([str(mixtral), str(tmp_path / "grown"), *options])
    with pytest.raises(ValueError, match=r"grown needs at least [\d,]{6,}\.00 GB and .* has .* GB free"):
        grow_folder(mixtral, tmp_path / "grown", Width(10**12))
    assert not list(tmp_path.iterdir())


def test_a_large_growth_is_announced_before_it_is_planned(mixtral, tmp_path, capsys):
    grow([str(mixtral), str(tmp_path / "grown"), "--width", "40", "--dry-run"])
    assert "planning a model of at least 0.00" in capsys.readouterr().err
    grow([str(mixtral), str(tmp_path / "grown"), "--width", "2", "--dry-run"])
    assert not capsys.readouterr().err


def test_an_error_half_way_leaves_nothing(mixtral, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError("the disk is on fire")

    monkeypatch.setattr(stream, "write_at", fail)
    with pytest.raises(OSError, match="on fire"):
        grow_folder(mixtral, tmp_path / "grown", Width(2))
    assert not list(tmp_path.iterdir())


def test_a_kill_half_way_leaves_no_destination_and_running_again_works(mixtral, tmp_path):
    before = {path.name: path.read_bytes() for path in mixtral.iterdir()}
    script = (
        "import sys, time\nfrom lit_recycle.hub import grow\nfrom lit_recycle.growth.event import Depth\n"
        "slow = lambda nbytes: time.sleep(0.05)\n"
        f"grow.grow_folder({str(mixtral)!r}, {str(tmp_path / 'grown')!r}, Depth(9), progress=slow)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob(".grown.partial/*.safetensors")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "grown").exists() and (tmp_path / ".grown.partial").exists()
    assert before == {path.name: path.read_bytes() for path in mixtral.iterdir()}
    grow_folder(mixtral, tmp_path / "grown", Depth(2))
    assert [path.name for path in tmp_path.iterdir()] == ["grown"]
    pico.load(tmp_path / "grown")


def test_dry_run_writes_nothing(mixtral, tmp_path, capsys):
    assert grow([str(mixtral), str(tmp_path / "grown"), "--depth", "2", "--width", "2", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "layers 2 → 4" in said and "experts 4 → 8" in said and "GB" in said and not list(tmp_path.iterdir())


def test_a_dry_run_of_an_own_checkpoint_tells_the_same(mixtral, tmp_path, capsys):
    import_folder(mixtral, tmp_path / "own.ckpt")
    said = []
    for source in (mixtral, tmp_path / "own.ckpt"):
        assert grow([str(source), str(tmp_path / "grown"), "--depth", "2", "--width", "2", "--dry-run"]) == 0
        said.append(capsys.readouterr().out.splitlines())
    assert said[0][1:-1] == said[1][1:-1] and "layers 2 → 4" in said[1][1]
    assert "parameters" in said[1][-1] and [path.name for path in tmp_path.iterdir()] == ["own.ckpt"]
    assert grow([str(tmp_path / "own.ckpt"), str(tmp_path / "grown.ckpt"), "--depth", "2", "--width", "2"]) == 0
    before, after = (shape_of(read_hyperparameters(tmp_path / f"{name}.ckpt")["config"]) for name in ("own", "grown"))
    assert f"{before.num_params():,} → {after.num_params():,} parameters" in said[1][-1]


def test_verify_reports_the_difference(mixtral, tmp_path, capsys):
    assert grow([str(mixtral), str(tmp_path / "a"), "--width", "2", "--noise", "0", "--verify"]) == 0
    exact = float(capsys.readouterr().out.split("largest logit difference ")[1].split()[0])
    assert grow([str(mixtral), str(tmp_path / "b"), "--width", "2", "--noise", "0.1", "--verify"]) == 0
    noisy = float(capsys.readouterr().out.split("largest logit difference ")[1].split()[0])
    assert exact < 1e-5 < 1e-3 < noisy


MISTAKES = {
    ("--width", "1"): "width.factor must be at least 2",
    ("--depth", "2", "--layers", "0,0"): "--layers says it all",
    ("--keep-first", "1"): "give --depth",
    ("--noise", "0"): "give --width",
    (): "grows nothing",
    ("--layers", "0,7"): "must be some of 0..1",
    ("--depth", "2", "--max-shard-size", "much"): "5GB",
    ("--depth", "2", "--optimizer-state", "carry"): "whose optimizer state is not grown: leave out --optimizer-state",
}


@pytest.mark.parametrize("options", MISTAKES)
def test_mistakes_on_the_command_line(options, mixtral, tmp_path):
    with pytest.raises(ValueError, match=MISTAKES[options]):
        grow([str(mixtral), str(tmp_path / "grown"), *options])


def test_light_commands_do_without_torch(mixtral, tmp_path):
    script = (
        "import sys\nfrom lit_recycle.commands import families, grow\nfamilies.main([])\n"
        f"grow.main([{str(mixtral)!r}, {str(tmp_path / 'a')!r}, '--depth', '2', '--width', '2', '--dry-run'])\n"
        f"grow.main([{str(mixtral)!r}, {str(tmp_path / 'b')!r}, '--depth', '2'])\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2], capture_output=True)


def test_families_are_listed(capsys):
    assert families([]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in pico.FAMILIES)


def test_module_names_of_a_quantization_follow_their_layers(tmp_path):
    source = tmp_path / "source"
    pico.build("qwen3_moe").save_pretrained(source)
    listed = ["lm_head", "model.layers.*.mlp.gate", "model.layers.1.mlp.experts.3.up_proj", "model.layers.0.mlp"]
    edit_config(source, quantization_config={"quant_method": "fp8", "modules_to_not_convert": listed})
    growth = plan_folder_growth(source, Depth(2), Width(2, noise=0))
    assert growth.config["quantization_config"]["modules_to_not_convert"] == [
        "lm_head",
        "model.layers.*.mlp.gate",
        "model.layers.0.mlp",
        "model.layers.1.mlp",
        *(f"model.layers.{j}.mlp.experts.{e}.up_proj" for j in (2, 3) for e in (6, 7)),
    ]


def test_experts_outside_of_the_layers_are_refused(mixtral, tmp_path):
    source = copied(mixtral, tmp_path / "source")
    extra = {"model.mtp_block.0.mlp.experts.0.up_proj.weight": torch.zeros(2)}
    save_file(load_file(source / "model.safetensors") | extra, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="expert outside of the layers"):
        grow_folder(source, tmp_path / "grown", Width(2))


def test_optimizer_state_of_an_export_is_left_behind_and_said_so(mixtral, tmp_path):
    source = copied(mixtral, tmp_path / "source")
    save_file({"model.norm.weight/step": torch.zeros(())}, source / "optimizer.safetensors")
    (source / "optimizer.json").write_text("[]")
    grow_folder(source, tmp_path / "grown", Depth(2))
    assert not list((tmp_path / "grown").glob("optimizer*"))
    assert "Optimizer state is left behind" in (tmp_path / "grown" / "README.md").read_text()


def test_a_checkpoint_of_this_project_grows_by_the_same_command(mixtral, tmp_path):
    import_folder(mixtral, tmp_path / "run.ckpt")
    assert grow([str(tmp_path / "run.ckpt"), str(tmp_path / "grown.ckpt"), "--depth", "2", "--width", "2"]) == 0
    config = load_checkpoint(tmp_path / "grown.ckpt")["hyper_parameters"]["config"]
    assert (config["num_layers"], config["num_experts"], config["top_k"]) == (4, 8, 4)
    for option in (("--verify",), ("--max-shard-size", "1GB")):
        with pytest.raises(ValueError, match=f"{option[0]}.* need one"):
            grow([str(tmp_path / "run.ckpt"), str(tmp_path / "b.ckpt"), "--depth", "2", *option])


def test_one_call_each_from_python():
    for name in hub.__all__:
        assert callable(getattr(hub, name)) and getattr(hub, name).__doc__
    with pytest.raises(AttributeError):
        hub.nothing  # noqa: B018


CLAIMS = [
    ("mixtral", "hidden_size"),
    ("mixtral", "intermediate_size"),
    ("mixtral", "num_key_value_heads"),
    ("qwen3_moe", "moe_intermediate_size"),
    ("deepseek_v3", "hidden_size"),
    ("olmoe", "intermediate_size"),
    ("gemma3_text", "hidden_size"),
    ("llama", "num_key_value_heads"),
]


@pytest.mark.parametrize(("family", "key"), CLAIMS)
def test_a_config_that_contradicts_its_tensors_is_refused(tmp_path, family, key):
    source = tmp_path / "source"
    pico.build(family).save_pretrained(source)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {key: config[key] + 1}))
    with pytest.raises(ValueError, match=rf"config\.json says .*{key} {config[key] + 1}.*, and .* is \[") as caught:
        grow_folder(source, tmp_path / "grown", Depth(2))
    assert "take the config.json that belongs to these weights" in str(caught.value)
    assert not (tmp_path / "grown").exists()
