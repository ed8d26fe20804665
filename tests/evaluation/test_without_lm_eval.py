"""What needs no lm-eval: that it is to be installed, what is read of a prompt, and what is refused before."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from processes import config
from torch import nn

from lit_recycle.cli import main
from lit_recycle.commands.eval_ import short_names
from lit_recycle.data.tokenizer import ByteTokenizer
from lit_recycle.evaluation import models
from lit_recycle.sampling.sampled import Sampled


@pytest.mark.parametrize("command", ["fit", "eval"])
def test_what_to_install_is_said(command: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "lit_recycle.evaluation.harness", raising=False)
    callbacks = [{"class_path": "lit_recycle.callbacks.DownstreamEval", "init_args": {"tasks": ["arc_easy"]}}]
    argv = ["--config", str(config(tmp_path / "run", trainer__callbacks=callbacks))]
    argv = argv if command == "fit" else [str(tmp_path), "--tasks", "arc_easy"]
    assert main([command, *argv]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert "needs lm-eval" in line and "pip install 'lit-recycle[eval]'" in line


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (("--batch_size", "0"), "--batch_size must be at least 1, got 0"),
        (("--device", "gpu"), "--device gpu cannot be used on this machine"),
    ],
)
def test_what_cannot_be_is_told(option: tuple[str, str], told: str, tmp_path: Path, capsys) -> None:
    assert main(["eval", str(tmp_path), "--tasks", "arc_easy", *option]) == 2
    assert told in capsys.readouterr().err


def test_models_are_told_apart_in_the_table() -> None:
    assert short_names(["runs/a/last.ckpt", "runs/b/anchor.ckpt"]) == ["last.ckpt", "anchor.ckpt"]
    assert short_names(["runs/a/last.ckpt", "runs/b/last.ckpt", "hf"]) == ["a/last.ckpt", "b/last.ckpt", "hf"]


@pytest.mark.parametrize(("most", "read", "made"), [(4, 12, 4), (15, 1, 15), (16, 8, 8), (40, 8, 8)])
def test_a_prompt_is_never_lost_to_a_long_answer(most: int, read: int, made: int, monkeypatch) -> None:
    """Of a model that reads 16 tokens, asked for so many."""
    asked: list[tuple[str, int]] = []

    def one_letter(model: nn.Module, prompts: list[list[int]], seeds: list[int], most: int, *_: Any, **__: Any) -> Any:
        asked.append((bytes(prompts[0]).decode(), most))
        return [[ord("A")]]

    monkeypatch.setattr(models, "generate_batch", one_letter)
    text, own = "abcdefghijklmnopqrstuvwxyz", ByteTokenizer()
    sampled = Sampled(nn.Identity(), lambda t: own.encode(t).tolist(), list, own.decode, frozenset((256,)), 257, 16)
    assert models._continued(sampled, text, [], most) == "A"
    assert asked == [(text[-read:], made)]
