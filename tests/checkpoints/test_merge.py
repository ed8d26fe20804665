"""Merges of checkpoints: weights by hand, exact means, and what cannot be merged."""

from __future__ import annotations

import json
import math
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pico
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from runs import CONFIG, EVENTS, fit
from safetensors.torch import load_file

from lit_recycle.checkpoints.merge import decay_factors, merge_weights, weighted_mean
from lit_recycle.checkpoints.native import load_whole_checkpoint
from lit_recycle.cli import main
from lit_recycle.training.module import LitMoE


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("linear", [1 / 6, 1 / 3, 1 / 3, 1 / 6]),
        ("mean", [1 / 4] * 4),
        ("cosine", [0.5 - math.cos(math.pi / 6) / 2, 0.433012701892, 0.433012701892, 0.5 - math.cos(math.pi / 6) / 2]),
    ],
)
def test_weights_by_hand(decay: Any, expected: list[float]) -> None:
    assert merge_weights(decay, 4) == pytest.approx(expected)


@given(st.sampled_from(["linear", "cosine", "mean"]), st.integers(2, 12), st.integers(0, 2**32))
def test_a_merge_is_the_oldest_and_each_update_by_its_factor(decay: Any, count: int, seed: int) -> None:
    factors = decay_factors(decay, count - 1)
    assert all(1 >= a >= b >= 0 for a, b in pairwise(factors))
    weights = merge_weights(decay, count)
    assert sum(weights) == pytest.approx(1.0) and min(weights) > -1e-12
    points = torch.randn(count, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    steps = torch.tensor(factors, dtype=torch.float64).unsqueeze(1) * points.diff(dim=0)
    assert torch.allclose(weighted_mean(list(points), weights), points[0] + steps.sum(0), atol=1e-12)


def test_halves_are_added_up_in_float32() -> None:
    tensors = [torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor([1.0078125], dtype=torch.bfloat16)] * 4
    mean = weighted_mean(tensors, [1 / 8] * 8)
    assert mean.dtype == torch.bfloat16 and mean.item() in (1.0, 1.0078125)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("merge") / "run"
    fit(root, steps=5, events=EVENTS[:1])
    return root / "checkpoints"


def test_checkpoints_of_a_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In any order; the merged one is evaluated and starts a run as any other."""
    sources = [str(run / f"step={step}.ckpt") for step in (2, 1)]
    merged = tmp_path / "merged.ckpt"
    assert main(["merge", *sources, str(merged), "--decay", "mean"]) == 0, capsys.readouterr().err
    assert "0.5000 × " + sources[1] in capsys.readouterr().out
    a, b, mean = (load_whole_checkpoint(path)["state_dict"] for path in (*map(Path, sources), merged))
    for name in mean:
        assert torch.allclose(mean[name], (a[name] + b[name]) / 2, atol=1e-7), name
    started = LitMoE(init_from=str(merged))
    started.configure_model()
    assert torch.equal(started.state_dict()["model.embed.weight"], mean["model.embed.weight"])
    assert started.config == CONFIG


def test_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = [pico.build("olmoe", seed=seed) for seed in range(3)]
    for i, model in enumerate(models):
        model.save_pretrained(tmp_path / str(i))
    sources = [str(tmp_path / str(i)) for i in range(3)]
    assert main(["merge", *sources, str(tmp_path / "merged")]) == 0, capsys.readouterr().err
    merged, *each = (load_file(tmp_path / name / "model.safetensors") for name in ("merged", "0", "1", "2"))
    for name in merged:
        expected = 0.25 * each[0][name] + 0.5 * each[1][name] + 0.25 * each[2][name]
        assert torch.allclose(merged[name], expected, atol=1e-6), name
    assert json.loads((tmp_path / "merged/merge.json").read_text())["weights"] == pytest.approx([0.25, 0.5, 0.25])
    loaded = pico.load(tmp_path / "merged")
    assert loaded.config.num_hidden_layers == 2


@pytest.mark.parametrize(
    ("sources", "says"),
    [
        (["step=1.ckpt"], "two checkpoints at least, got 1"),
        (["step=1.ckpt", "step=1.ckpt"], "two of the checkpoints are of the same step"),
        (["step=2.ckpt", "step=4.ckpt"], "have been through different growths"),
        (["step=2.ckpt", "nothing.ckpt"], "there is no checkpoint at"),
        (["--max-shard-size=1GB", "step=1.ckpt", "step=2.ckpt"], "--max-shard-size is of Hugging Face folders"),
    ],
)
def test_what_cannot_be_merged(
    run: Path, tmp_path: Path, sources: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [name if name.startswith("--") else str(run / name) for name in sources]
    assert main(["merge", *given, str(tmp_path / "merged.ckpt")]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_other_folders_and_places(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pico.build("olmoe").save_pretrained(tmp_path / "a")
    pico.build("olmoe", hidden_size=24).save_pretrained(tmp_path / "b")
    a, b, there = (str(tmp_path / name) for name in ("a", "b", "there"))
    assert main(["merge", a, b, there]) == 2 and "not of one model" in capsys.readouterr().err
    assert main(["merge", a, f"{a}/", there]) == 2 and "named twice" in capsys.readouterr().err
    shutil.copytree(a, tmp_path / "later")
    Path(there).mkdir()
    assert main(["merge", a, str(tmp_path / "later"), there]) == 2 and "exists" in capsys.readouterr().err
    assert main(["merge", a, str(tmp_path / "c"), str(tmp_path / "d")]) == 2
    assert "is not a folder" in capsys.readouterr().err
