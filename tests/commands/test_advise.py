"""Advice is a configuration that runs as it stands."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pico
import pytest
import yaml
from data.tiny_bpe import bpe_text
from processes import TEXT, config

from lit_recycle.advice.rules import advise
from lit_recycle.advice.situation import Situation
from lit_recycle.checkpoints.native import load_checkpoint
from lit_recycle.cli import main
from lit_recycle.commands.advised_run import length, to_yaml
from lit_recycle.commands.merged_config import load_config, resolved
from lit_recycle.growth.native import NativeModel
from lit_recycle.growth.operators import DuplicateExperts, Interpose
from lit_recycle.growth.plan import plan_growth
from lit_recycle.growth.schedule import Progress
from lit_recycle.growth.shape import chinchilla_flops
from lit_recycle.hub.native_config import read_native
from lit_recycle.hub.reader import read_json
from lit_recycle.model.config import MoEConfig

ONE = ("--trainer.devices", "1")


@pytest.fixture
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a short run that has not grown yet."""
    monkeypatch.setattr(sys, "argv", ["lit-recycle"])
    saved = tmp_path / "run" / "checkpoints" / "end.ckpt"
    record = {"class_path": "lit_recycle.callbacks.RunRecord", "init_args": {"end": str(saved)}}
    path = config(tmp_path / "run", trainer__max_steps=4, trainer__callbacks=[record])
    assert main(["fit", "--config", str(path)]) == 0
    return saved


def test_advice_for_a_checkpoint_is_a_configuration_that_trains(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sunk = load_checkpoint(checkpoint)["progress"]["flops_spent"]
    shape = load_checkpoint(checkpoint)["hyper_parameters"]["config"]
    out = tmp_path / "advice.yaml"
    # A budget for which the model is much too small, so that growth is advised; below it comes at once, to be seen.
    assert main(["advise", "--ckpt_path", str(checkpoint), "--flops", "1e12", "--out", str(out), *ONE]) == 0
    said = capsys.readouterr().out
    assert f"lit-recycle fit --config {out}" in said and "F_c are sunk" in said
    text = out.read_text()
    advised = yaml.safe_load(text)
    (growth,) = [c for c in advised["trainer"]["callbacks"] if c["class_path"].endswith("GrowthCallback")]
    first, *_ = growth["init_args"]["events"]
    assert first["at"]["flops"] > sunk and first["depth"] == {"factor": 2, "method": "interposition"}
    assert all(
        "#" in line for line in text.splitlines() if line.strip().startswith(("- at:", "factor:", "method:", "noise:"))
    )

    first["at"]["flops"] = sunk
    growth["init_args"]["events"] = [first]
    advised["trainer"]["max_steps"] = 6
    out.write_text(yaml.safe_dump(advised))
    assert main(["fit", "--config", str(out)]) == 0
    grown = load_checkpoint(checkpoint)
    assert grown["global_step"] == 6
    assert grown["hyper_parameters"]["config"]["num_layers"] == 2 * shape["num_layers"]


def test_a_budget_in_tokens_and_in_hours(capsys: pytest.CaptureFixture[str]) -> None:
    quickstart = str(Path(__file__).parents[2] / "configs" / "quickstart.yaml")
    said = []
    for budget in (["--tokens", "3e6"], ["--hours", "0.01", "--flops_per_second", "1e12"]):
        assert main(["advise", "--config", quickstart, *budget]) == 0
        said.append(yaml.safe_load(capsys.readouterr().out))
    assert said[0]["trainer"]["max_steps"] == round(3e6 / (8 * 256))
    assert all(one["model"] == said[0]["model"] | {"lr_scheduler": one["model"]["lr_scheduler"]} for one in said)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--flops", "1e12"], "give --ckpt_path, --config"),
        (["--ckpt_path", "memory://b/x.ckpt", "--flops", "1e12"], "no config.yaml is looked for at an address"),
        (["--ckpt_path", "nosuch.ckpt", "--flops", "1e12"], "there is no checkpoint nosuch.ckpt"),
        (["--config", "configs/quickstart.yaml", "--flops", "1e12", "--sunk_tokens", "1e9"], "there is none: leave it"),
        (
            ["--config", "configs/quickstart.yaml", "--flops", "1e12", "--model.confg.hidden", "3"],
            "no key 'model.confg",
        ),
        (["--config", "configs/quickstart.yaml", "--hours", "1"], "--hours and --flops_per_second"),
        (["--config", "configs/quickstart.yaml", "--flops", "-1"], "must be positive"),
        (["--config", "configs/quickstart.yaml", "--flops", "nan"], "must be positive and at most"),
        (["--config", "configs/quickstart.yaml", "--flops", "inf"], "must be positive and at most"),
        (["--config", "configs/quickstart.yaml", "--flops", "1e40"], "1e+15 tokens, got 1e+40 FLOPs"),
        (["--config", "configs/quickstart.yaml", "--flops", "1e9", "--data.seq_len", "0"], "data.seq_len must be"),
        (["--config", "configs/quickstart.yaml", "--flops", "1e9", "--data.batch_size", "x"], "data.batch_size must"),
        (
            ["--config", "configs/quickstart.yaml", "--flops", "1e9", "--out", "configs/../configs/quickstart.yaml"],
            "is the configuration that is read",
        ),
    ],
)
@pytest.mark.usefixtures("at_the_root")
def test_mistakes_are_told(argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", *argv]) == 2
    assert says in capsys.readouterr().err


def test_several_configurations_lie_one_over_the_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And one without a trainer is a configuration, too."""
    (tmp_path / "model.yaml").write_text(yaml.safe_dump({"model": {"config": {"num_layers": 3}}}))
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"data": {"seq_len": 64}}))
    files = [word for name in ("model", "data") for word in ("--config", str(tmp_path / f"{name}.yaml"))]
    assert main(["advise", *files, "--flops", "1e12"]) == 0
    said = yaml.safe_load(capsys.readouterr().out)
    assert said["model"]["config"]["num_layers"] == 3 and said["data"]["seq_len"] == 64


def test_steps_are_counted_from_what_the_checkpoint_has_behind_it() -> None:
    """Also where its steps had other batches, so that they do not tell its FLOPs."""
    quickstart = resolved(load_config(["--config", str(Path(__file__).parents[2] / "configs" / "quickstart.yaml")]))
    shape = MoEConfig.from_dict(quickstart["model"]["config"])
    unit, tokens = chinchilla_flops(shape), 8 * 256
    now = Situation(shape, Progress(10, 10**6, 20 * unit), 60.0 * unit)
    advice = advise(now)
    assert [growth.at_flops for growth in advice.growths] == [20 * unit, 40 * unit]
    deep, wide = (s.after.config for s in plan_growth(NativeModel(shape), [Interpose(2), DuplicateExperts(2)]).steps)
    deep_steps = -(-20 * unit // (tokens * deep.num_flops_per_token(256)))
    left = 60 * unit - deep_steps * tokens * deep.num_flops_per_token(256)
    wide_steps = round(left / (tokens * wide.num_flops_per_token(256)))
    run = length(quickstart, now, advice, 0)
    assert run.steps == 10 + deep_steps + wide_steps
    made = yaml.safe_load(to_yaml(quickstart, run, advice, []))
    assert made["trainer"]["max_steps"] == run.steps


def test_a_folder_of_the_hub_is_grown_at_once_where_it_is_trained_enough(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "hf", tmp_path / "advice.yaml"
    pico.build("olmoe", vocab_size=320, eos_token_id=0).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(bpe_text("<|endoftext|>"))
    recycle = Path(__file__).parents[2] / "configs/recycle.yaml"
    argv = ["advise", "--config", str(recycle), "--model.init_from", str(folder), "--data.path", TEXT]
    argv += ["--data.seq_len", "32", "--data.cache_dir", str(tmp_path / "cache"), "--out", str(out), *ONE]
    argv += ["--trainer.default_root_dir", str(tmp_path / "run"), "--trainer.accelerator", "cpu", "--flops"]
    assert main([*argv, "1e12"]) == 2
    assert "give --sunk_tokens, the tokens that its model card speaks of" in capsys.readouterr().err
    assert main([*argv, "1e12", "--sunk_tokens", "1e12"]) == 0
    assert "at least the sunk FLOPs belong after a growth" in capsys.readouterr().out
    shape = read_native(folder, read_json(folder / "config.json"))
    sunk = chinchilla_flops(shape) * 20
    tokens = sunk / shape.num_flops_per_token(32)
    assert main([*argv, str(2.5 * sunk), "--sunk_tokens", str(tokens)]) == 0
    said = capsys.readouterr().out
    assert "20.00 F_c are sunk" in said and "beginning now" in said and "2 growths" in said
    advised = yaml.safe_load(out.read_text())
    (growth,) = [c for c in advised["trainer"]["callbacks"] if c["class_path"].endswith("GrowthCallback")]
    first, second = growth["init_args"]["events"]
    assert first["at"] == {"flops": 0} and first["depth"]["method"] == "interposition"
    assert second["at"]["flops"] == pytest.approx(0.75 * sunk, rel=1e-6)
    growth["init_args"]["events"] = [first]
    advised["trainer"]["max_steps"] = 2
    advised["model"]["lr_scheduler"]["init_args"] |= {"warmup_steps": 1, "decay_steps": 1}
    out.write_text(yaml.safe_dump(advised))
    assert main(["fit", "--config", str(out)]) == 0, capsys.readouterr().err
    assert main(["advise", "--ckpt_path", str(folder), "--flops", "1"]) == 2
    assert "is a Hugging Face folder" in capsys.readouterr().err


def test_what_stands_for_another_value_goes_on_standing_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    """Another folder or length on the command line of ``fit`` is then one for everything that follows from it."""
    quickstart = str(Path(__file__).parents[2] / "configs" / "quickstart.yaml")
    assert main(["advise", "--config", quickstart, "--flops", "1e14"]) == 0
    said = capsys.readouterr().out
    assert "dirpath: ${trainer.default_root_dir}/checkpoints" in said and "total_steps: ${trainer.max_steps}" in said


def test_a_checkpoint_that_the_configuration_names_is_gone_on_from(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = checkpoint.parents[2] / "again.yaml"
    written = yaml.safe_load((checkpoint.parents[1] / "config.yaml").read_text()) | {"ckpt_path": str(checkpoint)}
    path.write_text(yaml.safe_dump(written))
    capsys.readouterr()
    assert main(["advise", "--config", str(path), "--flops", "1e9", *ONE]) == 0
    said = capsys.readouterr().out
    assert "there is none" not in said and yaml.safe_load(said)["trainer"]["max_steps"] > 4
    path.write_text(yaml.safe_dump(written | {"ckpt_path": "last"}))
    assert main(["advise", "--config", str(path), "--flops", "1e9", *ONE]) == 2
    assert "advise takes the checkpoint itself" in capsys.readouterr().err


def test_what_the_configuration_grows_by_itself_is_left_out_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lengths of samples that its events would have changed among it: nothing else would bring them to the end."""
    settings = {"start_seq_len": 16, "seed": 5, "events": [{"at": {"steps": 3}, "seq_len": 32}]}
    callback = {"class_path": "GrowthCallback", "init_args": settings}
    path = config(tmp_path / "run", trainer__callbacks=[callback])
    for flops, grows in (("1e12", True), ("1e9", False)):
        assert main(["advise", "--config", str(path), "--flops", flops, *ONE]) == 0
        said = capsys.readouterr().out
        assert "# left out: the configuration's own growth\n# left out: start_seq_len, for samples" in said
        callbacks = yaml.safe_load(said)["trainer"]["callbacks"]
        assert [sorted(c["init_args"]) for c in callbacks] == ([["events", "seed"]] if grows else [])


def test_a_growth_callback_without_events_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config(tmp_path / "run", trainer__callbacks=[{"class_path": "GrowthCallback"}])
    assert main(["advise", "--config", str(path), "--flops", "1e9", *ONE]) == 0, capsys.readouterr().err
    assert not yaml.safe_load(capsys.readouterr().out)["trainer"]["callbacks"]


RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture
def like_the_results(tmp_path: Path) -> Path:
    """A configuration of the model that the repository's experiments begin with."""
    values = yaml.safe_load((RESULTS.parent / "configs/experiments/base.yaml").read_text())
    values["trainer"]["max_steps"] = 100
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_the_growth_of_the_lowest_predicted_loss_is_advised(
    like_the_results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["advise", "--config", str(like_the_results), "--flops", "2.8e12", "--runs", str(RESULTS)]) == 0
    said = capsys.readouterr().out
    lines = re.findall(r"^#   (.+?) +(\d\.\d{3}) ± (\d\.\d{3})$", said, re.M)
    losses = {label: float(loss) for label, loss, _ in lines}
    assert {"no growth", "layers × 2 at 1.4e+12 FLOPs", "experts and top-k × 2 at 1.4e+12 FLOPs"} <= losses.keys()
    assert any(label.startswith("from scratch") for label in losses)
    advised = yaml.safe_load(said)
    growth = next(c for c in advised["trainer"]["callbacks"] if c["class_path"].endswith("GrowthCallback"))
    going_on = {label: loss for label, loss in losses.items() if not label.startswith("from scratch")}
    assert min(going_on, key=lambda label: going_on[label]) == "experts × 2, with top-k kept, at 1.4e+12 FLOPs"
    (event,) = growth["init_args"]["events"]
    (operator,) = event["grow"]
    assert operator == {"class_path": "DuplicateExperts", "init_args": {"factor": 2, "noise": 0.01, "top_k": "keep"}}
    unit = chinchilla_flops(MoEConfig.from_dict(advised["model"]["config"]))
    assert event["at"]["flops"] == pytest.approx(2 * unit, rel=0.01) and event["optimizer_state"] == "carry"
    assert re.search(r"^#   within the interval of what is advised: \d of the others", said, re.M)
    path = tmp_path / "advised.yaml"
    path.write_text(said)
    assert main(["plan", "--config", str(path)]) == 0, "what is advised can be run"


def test_far_from_the_runs_nothing_is_predicted(like_the_results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", "--config", str(like_the_results), "--flops", "1e16", "--runs", str(RESULTS)]) == 0
    said = capsys.readouterr().out
    assert "not within 2 times the sizes and tokens asked for: rules decide" in said and "±" not in said


def test_what_is_no_run_is_named(like_the_results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "wrong/one").mkdir(parents=True)
    (tmp_path / "wrong/one/a.json").write_text("{}")
    for folder, says in (("empty", "empty"), ("wrong", "a.json is no result of an experiment")):
        argv = ["advise", "--config", str(like_the_results), "--flops", "1e12", "--runs", str(tmp_path / folder)]
        assert main(argv) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error") and says in line
