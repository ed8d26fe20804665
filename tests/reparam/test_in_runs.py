"""Branches in runs: grown, sharded, killed and resumed bit for bit, merged and exported exactly."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import config, start
from runs import CONFIG, EVENTS, SaveAtOnce, assert_equal, assert_same_training_state, by_name, fit, on_processes

from lit_recycle.checkpoints.atomic import save
from lit_recycle.checkpoints.grow import grow_checkpoint
from lit_recycle.checkpoints.native import load_whole_checkpoint, model_of
from lit_recycle.cli import main
from lit_recycle.growth.operators import DuplicateExperts, Interpose
from lit_recycle.hub.convert import import_folder
from lit_recycle.hub.shape import shape_of
from lit_recycle.reparam.merge import merge_branches
from lit_recycle.reparam.names import Part
from lit_recycle.training.module import LitMoE

REPARAM = {"pattern": "[qo]_proj|experts", "branches": 3, "product_rank": 2}
KILLED = {"model__reparam": REPARAM, "data__batch_size": 4}


def branch_run(root: Path, strategy: str = "auto", **options: Any) -> tuple[LitMoE, list[float]]:
    _, module, losses = fit(root / "run", strategy, steps=8, module={"reparam": REPARAM}, **options)
    return module, losses


def logits(checkpoint: dict[str, Any]) -> torch.Tensor:
    text = torch.randint(257, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model_of(checkpoint).double().eval()(text)[0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three branches that grows in depth and in width, of eight steps, each of them saved."""
    root = tmp_path_factory.mktemp("branches")
    branch_run(root, callbacks=[SaveAtOnce(root / "grown-{step}.ckpt", 3, 6)])
    return root


def test_it_trains_and_grows(whole: Path) -> None:
    last = load_whole_checkpoint(whole / "run/checkpoints/step=8.ckpt")
    shape = shape_of(last["hyper_parameters"]["config"])
    assert shape.config.num_layers == 6 and shape.config.num_experts == 6
    first = load_whole_checkpoint(whole / "run/checkpoints/step=1.ckpt")["state_dict"]
    for part in ("original", "0.matrix_2", "0.scale_1", "0.left", "0.right"):
        name = "model." + Part("layers.0.attn.q_proj.weight", part).name
        assert not torch.equal(first[name], last["state_dict"][name]), name


@pytest.mark.parametrize(("step", "operator"), [(3, Interpose(2)), (6, DuplicateExperts(2, noise=0.01))])
def test_growth_in_the_run_is_growth_on_disk(whole: Path, tmp_path: Path, step: int, operator: Any) -> None:
    grow_checkpoint(whole / f"run/checkpoints/anchor-step={step}.ckpt", tmp_path / "disk.ckpt", operator)
    in_run, on_disk = (load_whole_checkpoint(p) for p in (whole / f"grown-{step}.ckpt", tmp_path / "disk.ckpt"))
    assert_equal(in_run["state_dict"], on_disk["state_dict"], "weights")
    assert_equal(by_name(in_run["optimizer_states"][0]), by_name(on_disk["optimizer_states"][0]), "optimizer")


def test_killed_and_resumed_it_ends_bit_for_bit_the_same(tmp_path: Path) -> None:
    for name, points in {"alone": [None], "run": ["grown=2", "saved=3", "step=5", None]}.items():
        root = tmp_path / name
        for at in points:
            kill = ("--trainer.callbacks+", "killing.Kill", "--trainer.callbacks.init_args.at", at) if at else ()
            file = config(root, **KILLED)
            run = start("fit", "--config", file, "--ckpt_path", "last", *kill, log=tmp_path / f"{name}-{at}.log")
            assert run.wait() == [-signal.SIGKILL if at else 0], run.output
    last = "checkpoints/step=6.ckpt"
    assert "reparam" in load_whole_checkpoint(tmp_path / "run" / last)["hyper_parameters"]["config"]
    assert_same_training_state(tmp_path / "alone" / last, tmp_path / "run" / last)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sharded")
    on_processes(2, several, root)
    return root


def several(root: Path) -> None:
    for strategy in ("fsdp", "fsdp2"):
        here = root / strategy
        branch_run(here, strategy, saves=(4, 8), callbacks=[SaveAtOnce(here / "grown.ckpt", 6)])
    branch_run(root / "again", "fsdp2", saves=[8], ckpt_path=root / "fsdp2/run/checkpoints/step=4.ckpt")


@pytest.mark.parametrize("strategy", ["fsdp", "fsdp2"])
def test_on_two_processes_it_is_the_same_run(whole: Path, sharded: Path, tmp_path: Path, strategy: str) -> None:
    """Up to rounding, through both growths; a resumed one bit for bit; and a growth is that on disk."""
    root, last = sharded / strategy, "run/checkpoints/step=8.ckpt"
    ours, theirs = (load_whole_checkpoint(path / last)["state_dict"] for path in (root, whole))
    for name, tensor in theirs.items():
        assert torch.allclose(ours[name], tensor, atol=2e-3), name
    if strategy == "fsdp2":
        assert_same_training_state(root / last, sharded / "again" / last)
    grow_checkpoint(root / "run/checkpoints/anchor-step=6.ckpt", tmp_path / "disk.ckpt", EVENTS[1].width)
    in_run, on_disk = (load_whole_checkpoint(path) for path in (root / "grown.ckpt", tmp_path / "disk.ckpt"))
    assert_equal(in_run["state_dict"], on_disk["state_dict"], "weights")


# --- from and to checkpoints without branches ------------------------------------------------------------------------


def test_switched_on_from_a_checkpoint_nothing_changes(whole: Path, tmp_path: Path) -> None:
    fit(tmp_path / "plain", steps=1, events=[])
    source = str(tmp_path / "plain/checkpoints/step=1.ckpt")
    module = LitMoE(init_from=source, reparam=REPARAM)
    module.configure_model()
    plain = LitMoE(init_from=source)
    plain.configure_model()
    text = torch.randint(257, (2, 9))
    assert torch.equal(module.model(text)[0], plain.model(text)[0])
    with pytest.raises(ValueError, match="start from its weights"):
        fit(tmp_path / "on", ckpt_path=Path(source), module={"reparam": REPARAM})
    branched = str(whole / "run/checkpoints/step=8.ckpt")
    again = LitMoE(init_from=branched)  # a checkpoint of branches brings its own
    again.configure_model()
    assert_equal(dict(again.state_dict()), load_whole_checkpoint(Path(branched))["state_dict"], "weights")
    assert LitMoE(init_from=branched, reparam=REPARAM).shape == again.shape
    with pytest.raises(ValueError, match="has branches already"):
        LitMoE(init_from=branched, reparam={**REPARAM, "branches": 2})


def test_merged_for_good_it_computes_the_same_and_trains_on(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, merged = whole / "run/checkpoints/step=8.ckpt", tmp_path / "merged.ckpt"
    in_float64 = load_whole_checkpoint(source)
    in_float64["state_dict"] = {
        name: tensor.double() if tensor.is_floating_point() and not name.endswith("balance_bias") else tensor
        for name, tensor in in_float64["state_dict"].items()
    }
    save(in_float64, tmp_path / "float64.ckpt")
    assert main(["merge-branches", str(tmp_path / "float64.ckpt"), str(merged)]) == 0
    assert "merged the branches of attn.q_proj.weight" in capsys.readouterr().out
    plain = load_whole_checkpoint(merged)
    assert not [name for name in plain["state_dict"] if "parametrizations" in name]
    assert "reparam" not in str(plain["hyper_parameters"]) and not plain["optimizer_states"]
    expected = logits(in_float64)
    assert (logits(plain) - expected).abs().max() <= 1e-12 * expected.abs().max()
    fit(tmp_path / "on", steps=2, events=[], config=None, module={"init_from": str(merged)})
    assert main(["merge-branches", str(merged), str(tmp_path / "twice.ckpt")]) == 2
    assert "trained without branches" in capsys.readouterr().err


def test_export_merges(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path / "run", steps=2, events=[], config=CONFIG.replace(
        shared_expert_size=0, router_score="softmax", balance_bias=False), module={"reparam": REPARAM})  # fmt: skip
    source = tmp_path / "run/checkpoints/step=2.ckpt"
    assert main(["export", str(source), str(tmp_path / "hf")]) == 0
    import_folder(tmp_path / "hf", tmp_path / "back.ckpt")
    merge_branches(source, tmp_path / "merged.ckpt")
    back, merged = (load_whole_checkpoint(tmp_path / f"{name}.ckpt")["state_dict"] for name in ("back", "merged"))
    assert back.keys() == merged.keys()
    for name, tensor in merged.items():
        assert torch.equal(back[name], tensor), name
    capsys.readouterr()
    assert main(["export", str(source), str(tmp_path / "with"), "--optimizer"]) == 2
    assert "leave out --optimizer" in capsys.readouterr().err
    other = tmp_path / "run/checkpoints/step=1.ckpt"
    assert main(["merge", str(other), str(source), str(tmp_path / "mean.ckpt")]) == 2
    assert "no mean of weights" in capsys.readouterr().err
