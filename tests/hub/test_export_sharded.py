"""Export of a sharded checkpoint: what its whole file gives, a layer at a time, with a card that tells the run."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pico
import pytest
import torch
from runs import fit
from safetensors.torch import load_file

from lit_recycle.checkpoints import sharded
from lit_recycle.checkpoints.native import load_whole_checkpoint
from lit_recycle.growth.event import Depth, GrowthEvent, Trigger, Width
from lit_recycle.growth.optimizer import name_state
from lit_recycle.hub.export import export_checkpoint
from lit_recycle.text import human

EVENTS = [
    GrowthEvent(Trigger(steps=1), depth=Depth(2)),
    GrowthEvent(Trigger(steps=2), width=Width(2, noise=0.01)),
]


@pytest.fixture(
    scope="module", params=[("olmoe", "native"), ("olmoe", "transformers"), ("deepseek_v3", "transformers")]
)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that grows twice, its checkpoint as one file and as shards."""
    family, backend = request.param
    root = tmp_path_factory.mktemp(family)
    tied = {} if family == "deepseek_v3" else {"tie_word_embeddings": True}
    pico.save(pico.build(family, vocab_size=260, **tied), family, root / "hub")
    start = {"init_from": str(root / "hub"), "backend": backend}
    checks: dict[str, Any] = {"limit_val_batches": 1, "val_check_interval": 1}
    fit(root / "run", config=None, module=start, events=EVENTS, steps=3, saves=[3], **checks)
    file = root / "run/checkpoints/step=3.ckpt"
    file.rename(root / "whole.ckpt")
    whole = load_whole_checkpoint(root / "whole.ckpt")
    whole["optimizer_states"] = [name_state(state) for state in whole["optimizer_states"]]
    sharded.save_sharded(*sharded.split(whole), root / "shards.ckpt")
    return root


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: t for file in folder.glob("*.safetensors") for name, t in load_file(file).items()}


def test_it_is_what_the_whole_checkpoint_gives(run: Path, tmp_path: Path) -> None:
    for name in ("whole", "shards"):
        export_checkpoint(run / f"{name}.ckpt", tmp_path / name, max_shard_size="40KB")
    expected, found = tensors(tmp_path / "whole"), tensors(tmp_path / "shards")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    assert found.keys() == expected.keys() and all(torch.equal(found[n], expected[n]) for n in found)
    assert pico.config_of(tmp_path / "whole") == pico.config_of(tmp_path / "shards")
    model = pico.load(tmp_path / "shards")
    model.save_pretrained(tmp_path / "again")
    again = tensors(tmp_path / "again")
    assert again.keys() == found.keys() and all(torch.equal(found[n], again[n]) for n in found), "as transformers saves"


def test_no_more_than_a_layer_is_held(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: Callable[..., torch.Tensor] = sharded.Stored.__getitem__
    held: list[tuple[str, weakref.ref[torch.Tensor]]] = []

    def watched(self: sharded.Stored, name: str) -> torch.Tensor:
        tensor = read(self, name)
        held.append((name, weakref.ref(tensor)))
        alive = [n for n, ref in held if ref() is not None]
        layers = {part for n in alive for part in n.split(".") if part.isdigit()}
        assert len(layers) <= 1, alive
        return tensor

    monkeypatch.setattr(sharded.Stored, "__getitem__", watched)
    export_checkpoint(run / "shards.ckpt", tmp_path / "out")
    assert len(held) > 20


def test_the_card_tells_shape_growth_tokens_and_losses(run: Path, tmp_path: Path) -> None:
    export_checkpoint(run / "shards.ckpt", tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    saved = load_whole_checkpoint(run / "whole.ckpt")
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "4 layers; " in card and " experts, " in card and "Training: 3 optimizer steps, 384 tokens" in card
    assert f"{saved['losses']['validation']:.4f} in validation" in card
    first, second = saved["hyper_parameters"]["growth"]
    assert f"| 1 | 128 | depth ×2 | {human(first['sizes_before']['params'])} → " in card
    assert f"| {second['loss_before']:.4f} → {second['loss_after']:.4f} |" in card


@pytest.mark.parametrize("dtype", ["bfloat16"])
def test_another_type_leaves_the_balancing_bias(run: Path, tmp_path: Path, dtype: str) -> None:
    export_checkpoint(run / "shards.ckpt", tmp_path / "out", dtype=dtype)
    types = {name: tensor.dtype for name, tensor in tensors(tmp_path / "out").items()}
    biases = {name for name in types if name.endswith("e_score_correction_bias")}
    assert {types[name] for name in biases} <= {torch.float32}
    assert {types[name] for name in types.keys() - biases} == {torch.bfloat16}
    assert pico.config_of(tmp_path / "out")["dtype"] == dtype
    pico.load(tmp_path / "out")
