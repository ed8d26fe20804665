"""Folders with scaled and partial rotary positions in our own model: computed, grown and written as by transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pico
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_recycle.checkpoints.grow import grow_checkpoint
from lit_recycle.checkpoints.native import load_whole_checkpoint, model_of, read_hyperparameters
from lit_recycle.growth.event import Depth, Width
from lit_recycle.growth.operators import RotaryBase
from lit_recycle.hub.convert import import_folder
from lit_recycle.hub.export import export_checkpoint
from lit_recycle.hub.grow import grow_folder
from lit_recycle.hub.in_memory import InMemory
from lit_recycle.hub.native_config import to_hf, to_native
from lit_recycle.hub.native_names import hub_parts
from lit_recycle.model.transformer import MoETransformer
from lit_recycle.training.start import start_of

LLAMA_3_1 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "original_max_position_embeddings": 8,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
PLAIN = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0}
HALF = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
FOLDERS = {
    "llama": LLAMA_3_1,
    "qwen3_moe": YARN,
    "mixtral": LINEAR,
    "qwen3": YARN | {"mscale": 1.0, "mscale_all_dim": 0.5},
    "dots1": YARN | {"attention_factor": 1.25, "truncate": False, "beta_fast": 8.0, "beta_slow": 0.5},
    "glm4_moe": HALF,
}
"""Llama 3.1's, Qwen3's long contexts, and the half of a head that GLM-4.5 rotates."""


def build(family: str, rope: dict[str, Any]) -> Any:
    return pico.build(family, rope_parameters=dict(rope), num_hidden_layers=2, head_dim=8)


def folder(family: str, rope: dict[str, Any], path: Path) -> tuple[Path, torch.Tensor]:
    model = build(family, rope)
    pico.save(model, family, path)
    return path, pico.logits(model)


def own_logits(checkpoint: Path) -> torch.Tensor:
    model = model_of(load_whole_checkpoint(checkpoint))
    assert isinstance(model, MoETransformer)
    with torch.inference_mode():
        return model.eval()(pico.tokens())[0]


@pytest.mark.parametrize("family", FOLDERS)
def test_it_is_our_own_model_and_comes_back_as_transformers_writes_it(family: str, tmp_path: Path) -> None:
    source, expected = folder(family, FOLDERS[family], tmp_path / "hub")
    assert not isinstance(start_of(None, str(source), "auto").weights, InMemory), "the fast path"
    import_folder(source, tmp_path / "model.ckpt")
    torch.testing.assert_close(own_logits(tmp_path / "model.ckpt"), expected, rtol=0, atol=1e-5 * expected.abs().max())
    assert (expected - folder(family, PLAIN, tmp_path / "plain")[1]).abs().max() > 1e-2
    export_checkpoint(tmp_path / "model.ckpt", tmp_path / "back", family=family)
    assert torch.equal(pico.logits(pico.load(tmp_path / "back")), expected)
    before, after = (pico.load(tmp_path / name).config.rope_parameters for name in ("hub", "back"))
    derived = {"attention_factor", "mscale", "mscale_all_dim", "beta_fast", "beta_slow", "truncate"}
    assert {k: v for k, v in after.items() if k in before} | {k: before[k] for k in before.keys() & derived} == before
    assert after.keys() - before.keys() <= derived


def test_llama_3_1_is_written_to_the_letter(tmp_path: Path) -> None:
    source, _ = folder("llama", LLAMA_3_1, tmp_path / "hub")
    import_folder(source, tmp_path / "model.ckpt")
    export_checkpoint(tmp_path / "model.ckpt", tmp_path / "back")
    assert pico.config_of(tmp_path / "back")["rope_parameters"] == pico.config_of(source)["rope_parameters"]


def test_spelled_as_before_transformers_5_it_is_the_same(tmp_path: Path) -> None:
    source, expected = folder("llama", LLAMA_3_1, tmp_path / "hub")
    values = pico.config_of(source)
    scaling = {k: v for k, v in values.pop("rope_parameters").items() if k != "rope_theta"}
    values |= {"rope_theta": LLAMA_3_1["rope_theta"], "rope_scaling": scaling}
    (source / "config.json").write_text(json.dumps(values))
    assert torch.equal(pico.logits(pico.load(source)), expected)
    assert to_native(values, "config.json").rope_scaling == to_native(to_hf(to_native(values, "")), "").rope_scaling
    import_folder(source, tmp_path / "model.ckpt")
    torch.testing.assert_close(own_logits(tmp_path / "model.ckpt"), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "glm4_moe"])
def test_a_growth_keeps_it_and_a_new_base_is_scaled_likewise(family: str, tmp_path: Path) -> None:
    """Growing our checkpoint and growing the folder give the same model, whose scaling starts from the new base."""
    source, before = folder(family, FOLDERS[family], tmp_path / "hub")
    forms = [Depth(2, zero_output=True), *([] if family == "llama" else [Width(2, noise=0)])]
    import_folder(source, tmp_path / "model.ckpt")
    grow_checkpoint(tmp_path / "model.ckpt", tmp_path / "grown.ckpt", *forms)
    torch.testing.assert_close(own_logits(tmp_path / "grown.ckpt"), before, rtol=0, atol=1e-4)
    export_checkpoint(tmp_path / "grown.ckpt", tmp_path / "exported", family=family)
    for start in (source, tmp_path / "exported"):
        grow_folder(start, tmp_path / f"{start.name} turned", *(forms if start is source else []), RotaryBase(77.0))
    grow_checkpoint(tmp_path / "grown.ckpt", tmp_path / "turned.ckpt", RotaryBase(77.0))
    config = read_hyperparameters(tmp_path / "turned.ckpt")["config"]
    old = read_hyperparameters(tmp_path / "model.ckpt")["config"]
    assert config["rope_theta"] == 77.0 and config["rope_scaling"] == old["rope_scaling"]
    assert config["rope_fraction"] == old["rope_fraction"]
    found = own_logits(tmp_path / "turned.ckpt")
    assert (found - before).abs().max() > 1e-3
    for name in ("hub turned", "exported turned"):
        expected = pico.logits(pico.load(tmp_path / name))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_scaling_gives_the_logits_of_transformers(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["linear", "llama3", "yarn", "default"]))
    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": data.draw(st.floats(100.0, 1e6))}
    if kind != "default":
        rope["factor"] = data.draw(st.floats(1.0, 16.0))
    if kind in ("llama3", "yarn"):
        rope["original_max_position_embeddings"] = data.draw(st.integers(4, 64))
    if kind == "llama3":
        rope |= {"low_freq_factor": data.draw(st.floats(0.5, 2.0)), "high_freq_factor": data.draw(st.floats(2.5, 8.0))}
    family = data.draw(st.sampled_from(["llama", "glm4_moe"]))
    if family == "glm4_moe":
        rope["partial_rotary_factor"] = data.draw(st.sampled_from([0.25, 0.5, 1.0]))
    model = build(family, rope)
    ours = MoETransformer(to_native(json.loads(model.config.to_json_string(use_diff=False)), "the config"))
    theirs = model.state_dict()
    ours.load_state_dict({name: part.join(theirs) for name, part in hub_parts(ours.config, family).items()})
    expected = pico.logits(model)
    with torch.inference_mode():
        found = ours(pico.tokens())[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * max(1.0, expected.abs().max().item()))
