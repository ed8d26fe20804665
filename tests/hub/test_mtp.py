"""Layers for multi-token prediction beside a run: taken from the folder when it is exported, or left out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pico
import pytest
import torch
from runs import fit
from safetensors.torch import load_file, save_file

from lit_recycle.growth.event import Depth, GrowthEvent, Trigger, Width
from lit_recycle.growth.operators import WidenHidden
from lit_recycle.hub.export import export_checkpoint
from lit_recycle.hub.grow import grow_folder
from lit_recycle.hub.shape import HubShape

FORMS = Depth(2, zero_output=True), Width(2, noise=0)


def with_mtp(family: str, path: Path) -> Path:
    """A folder whose last layer has a further one behind it."""
    pico.build(family, vocab_size=260).save_pretrained(path)
    tensors = load_file(path / "model.safetensors")
    behind = {n.replace("layers.1", "layers.2"): t + 1 for n, t in tensors.items() if n.startswith("model.layers.1.")}
    behind["model.layers.2.eh_proj.weight"] = torch.randn(16, 32)
    save_file(tensors | behind, path / "model.safetensors", {"format": "pt"})
    return path


def tail(folder: Path, layer: int = 4) -> dict[str, torch.Tensor]:
    tensors = {name: t for file in folder.glob("*.safetensors") for name, t in load_file(file).items()}
    return {name: t for name, t in tensors.items() if name.startswith(f"model.layers.{layer}.")}


def run(source: Path, root: Path, **model: Any) -> Path:
    events = [GrowthEvent(Trigger(steps=1), depth=FORMS[0]), GrowthEvent(Trigger(steps=2), width=FORMS[1])]
    start = {"init_from": str(source), **model}
    _, module, _ = fit(root, config=None, module=start, events=events, steps=3, saves=[3])
    assert isinstance(module.shape, HubShape) == (source.name == "deepseek_v3")
    return root / "checkpoints/step=3.ckpt"


@pytest.fixture(scope="module", params=["deepseek_v3", "glm4_moe"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Through transformers, and as our own model."""
    root = tmp_path_factory.mktemp("mtp")
    source = with_mtp(request.param, root / request.param)
    return source, run(source, root / "run")


def test_they_come_back_grown_as_on_disk(trained: tuple[Path, Path], tmp_path: Path) -> None:
    source, checkpoint = trained
    export_checkpoint(checkpoint, tmp_path / "out")
    grow_folder(source, tmp_path / "grown", *FORMS)
    found, expected = tail(tmp_path / "out"), tail(tmp_path / "grown")
    assert found.keys() == expected.keys() and "model.layers.4.mlp.experts.15.down_proj.weight" in found
    assert all(torch.equal(found[name], expected[name]) for name in found)
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert model.config.num_mtp_layers == 1 and not info["missing_keys"]
    assert all(name.startswith("model.layers.4.") for name in info["unexpected_keys"]), (
        "transformers has no use for them"
    )
    grow_folder(tmp_path / "out", tmp_path / "on", Depth(2))
    assert tail(tmp_path / "on", 8)


def test_they_are_left_out_by_a_key(
    trained: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, checkpoint = trained
    export_checkpoint(checkpoint, tmp_path / "out", drop_mtp=True)
    assert not tail(tmp_path / "out") and pico.load(tmp_path / "out").config.num_mtp_layers == 0
    caplog.set_level("INFO")
    dropped = run(source, tmp_path / "run", drop_mtp=True)
    assert "which no run trains: model.drop_mtp leaves them out of the export" in caplog.text
    export_checkpoint(dropped, tmp_path / "again")
    assert not tail(tmp_path / "again")


def test_a_folder_that_is_gone_is_told(trained: tuple[Path, Path], tmp_path: Path) -> None:
    source, checkpoint = trained
    shutil.move(source, tmp_path / "moved")
    try:
        with pytest.raises(ValueError, match=r"lie in .*, which is gone: export with --drop-mtp"):
            export_checkpoint(checkpoint, tmp_path / "out")
        assert not list(tmp_path.glob("*out*"))
    finally:
        shutil.move(tmp_path / "moved", source)


def test_a_growth_that_they_cannot_follow_is_told(tmp_path: Path) -> None:
    source = with_mtp("glm4_moe", tmp_path / "glm4_moe")
    start, event = {"init_from": str(source)}, GrowthEvent(Trigger(steps=1), grow=[WidenHidden(2)])
    fit(tmp_path / "run", config=None, module=start, events=[event], steps=2, saves=[2])
    with pytest.raises(
        ValueError, match=r"cannot follow hidden size ×2 \(it maps the axes D\): export with --drop-mtp"
    ):
        export_checkpoint(tmp_path / "run/checkpoints/step=2.ckpt", tmp_path / "out")
    export_checkpoint(tmp_path / "run/checkpoints/step=2.ckpt", tmp_path / "out", drop_mtp=True)
    pico.load(tmp_path / "out")
