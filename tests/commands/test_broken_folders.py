"""Hugging Face folders that are unknown, broken, half there or quantised: a sentence each, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pico
import pytest
import torch
from processes import TEXT
from safetensors.torch import load_file, save_file

from lit_recycle.cli import main
from lit_recycle.hub.reader import INDEX


def _config(folder: Path, **changes: Any) -> None:
    (folder / "config.json").write_text(json.dumps(pico.config_of(folder) | changes))


def _last(folder: Path) -> Path:
    return sorted(folder.glob("*.safetensors"))[-1]


def _tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors of the last file; the index goes on naming all that were there."""
    tensors = load_file(_last(folder))
    change(tensors)
    save_file(tensors, _last(folder), {"format": "pt"})


def _reshaped(tensors: dict[str, torch.Tensor]) -> None:
    tensors |= {
        n: torch.zeros(t.shape[0] - 1, t.shape[1]) for n, t in tensors.items() if n.endswith("down_proj.weight")
    }


def _unscaled(folder: Path) -> None:
    _config(folder, quantization_config={"quant_method": "fp8", "weight_block_size": [4, 4]})
    _tensors(folder, lambda ts: ts.update({n: t.to(torch.float8_e4m3fn) for n, t in ts.items() if t.dim() == 2}))


BROKEN: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "unknown": (lambda f: _config(f, model_type="gpt2"), ("gpt2",)),
    "no config": (lambda f: (f / "config.json").write_text("{"), ("config.json is not valid JSON", "fetch it again")),
    "half downloaded": (lambda f: _last(f).unlink(), ("which is not there; fetch the missing shards",)),
    "cut off": (lambda f: os.truncate(_last(f), _last(f).stat().st_size - 1), ("is truncated", "fetch it again")),
    "a tensor lost": (
        lambda f: _tensors(f, lambda tensors: tensors.pop("model.layers.1.self_attn.o_proj.weight")),
        ("model.layers.1.self_attn.o_proj.weight", "fetch both again"),
    ),
    "a tensor of another shape": (lambda f: _tensors(f, _reshaped), ("shape",)),
    "quantised by others": (
        lambda f: _config(f, quantization_config={"quant_method": "gptq", "bits": 4}),
        ("quantis", "gptq"),
    ),
    "without its scales": (_unscaled, ("_scale_inv",)),
    "an index of another kind": (lambda f: (f / INDEX).write_text("[]"), ("has no weight_map; fetch it again",)),
    "integers": (
        lambda f: _tensors(f, lambda ts: ts.update({n: (t * 20).to(torch.int8) for n, t in ts.items()})),
        ("int",),
    ),
    "a config with words for numbers": (lambda f: _config(f, num_experts="four"), ("num_experts|wrong type",)),
    "pickled": (
        lambda f: [path.rename(path.with_suffix(".bin")) for path in f.glob("*.safetensors*")],
        ("pickled weights only", "convert them once"),
    ),
}
COMMANDS = {
    "native": ("fit", "--model.backend", "native"),
    "transformers": ("fit", "--model.backend", "transformers"),
    "import": ("import",),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hub") / "olmoe"
    pico.build("olmoe", vocab_size=260).save_pretrained(path, max_shard_size="20KB")
    assert len(list(path.glob("*.safetensors"))) > 1
    return path


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("what", BROKEN)
def test_it_is_refused(
    what: str, command: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = shutil.copytree(folder, tmp_path / "source")
    breaks, says = BROKEN[what]
    breaks(source)
    name, *options = COMMANDS[command]
    argv = [name, str(source), str(tmp_path / "model.ckpt")]
    if name == "fit":
        values = {
            "model.init_from": source,
            "data.path": TEXT,
            "data.cache_dir": folder.parent / "cache",
            "data.seq_len": 32,
            "trainer.max_steps": 1,
            "trainer.accelerator": "cpu",
            "trainer.default_root_dir": tmp_path / "run",
        }
        argv = [name, *options, *(word for key, value in values.items() for word in (f"--{key}", str(value)))]
    assert main(argv) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and len(error.replace(str(tmp_path), "")) < 400, error
    for text in says:
        assert any(words in error for words in text.split("|")), error
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and source not in path.parents]
