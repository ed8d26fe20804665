"""The shipped configuration for Hugging Face folders: trained, grown, evaluated, sampled, and written back."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pico
import pytest
import torch
from data.tiny_bpe import bpe_text
from processes import TEXT

from lit_recycle.checkpoints.native import load_whole_checkpoint
from lit_recycle.cli import main
from lit_recycle.data.module import TextData

CONFIG = Path(__file__).parents[2] / "configs/recycle.yaml"


def options(folder: Path, root: Path) -> list[str]:
    values = {
        "config": CONFIG,
        "model.init_from": folder,
        "data.path": TEXT,
        "data.cache_dir": root / "cache",
        "data.seq_len": 32,
        "data.batch_size": 2,
        "trainer.accelerator": "cpu",
        "trainer.devices": 1,
        "trainer.default_root_dir": root / "run",
        "trainer.max_steps": 6,
        "trainer.val_check_interval": 6,
        "trainer.limit_val_batches": 4,
        "model.lr_scheduler.init_args.warmup_steps": 1,
        "model.lr_scheduler.init_args.decay_steps": 1,
        "growth.events.0.at.steps": 2,
        "growth.events.1.at.steps": 4,
    }
    return [word for key, value in values.items() for word in (f"--{key}", str(value))]


@pytest.mark.parametrize(("family", "told"), [("granitemoe", "through transformers"), ("olmoe", "own model")])
def test_one_command_recycles_a_folder(
    tmp_path: Path, family: str, told: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "hf"
    pico.build(family, vocab_size=320, eos_token_id=0).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(bpe_text("<|endoftext|>"))
    argv = options(folder, tmp_path)
    assert main(["plan", *argv]) == 0, capsys.readouterr().err
    assert "depth ×2" in capsys.readouterr().out
    caplog.set_level("INFO")
    assert main(["fit", *argv]) == 0, capsys.readouterr().err
    said = capsys.readouterr()
    assert told in caplog.text
    before, after = map(float, re.findall(r"loss, same batch\s+([\d.]+) → ([\d.]+)", said.out)[0])
    assert after == pytest.approx(before, abs=2e-4), "copies begin as identities"

    checkpoint = tmp_path / "run/checkpoints/last.ckpt"
    saved = load_whole_checkpoint(checkpoint)
    assert [growth["label"] for growth in saved["hyper_parameters"]["growth"]] == ["depth ×2", "experts ×2"]
    assert main(["generate", "--ckpt_path", str(checkpoint), "--prompt", "import", "--max_new_tokens", "8"]) == 0
    assert main(["export", str(checkpoint), str(tmp_path / "back")]) == 0, capsys.readouterr().err
    config = json.loads((tmp_path / "back/config.json").read_text())
    assert config["num_hidden_layers"] == 4 and config["eos_token_id"] == 0

    from transformers import AutoModelForCausalLM

    loaded, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "back", output_loading_info=True, dtype=torch.float32
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    data = TextData(path=TEXT, tokenizer=str(folder), seq_len=32, batch_size=2, cache_dir=str(tmp_path / "cache"))
    data.prepare_data()
    data.setup("validate")
    losses = []
    with torch.no_grad():
        for batch, _ in zip(data.val_dataloader(), range(4), strict=False):
            logits = loaded(batch["input_ids"]).logits
            losses.append(torch.nn.functional.cross_entropy(logits.mT, batch["labels"]).item())
    assert main(["validate", *argv, "--ckpt_path", str(checkpoint)]) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    found = float(re.search(r"loss/val\s*│?\s*([\d.]+)", printed)[1])
    assert found == pytest.approx(sum(losses) / len(losses), abs=1e-4)
