"""The README's commands and its Python, run as they stand, on a smaller copy of the quickstart."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from data.tiny_bpe import bpe_text
from processes import start
from runs import TEXT

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")

SMALLER = {
    "max_steps: 480": "max_steps: 8",
    "steps: 160}": "steps: 2}",
    "steps: 320}": "steps: 4}",
    "val_check_interval: 80": "val_check_interval: 4",
    "limit_val_batches: 16": "limit_val_batches: 1",
    "every_n_train_steps: 80": "every_n_train_steps: 4",
    "warmup_steps: 30": "warmup_steps: 1",
    "decay_steps: 96": "decay_steps: 2",
    "hidden_size: 256": "hidden_size: 32",
    "expert_size: 256": "expert_size: 32",
    "seq_len: 256": "seq_len: 32",
    "path: python-stdlib": f"path: {TEXT}",
}
"""What is changed in the quickstart, to train for seconds; each must be found."""

SMALLER_RECYCLE = {
    "max_steps: 2000": "max_steps: 6",
    "val_check_interval: 200": "val_check_interval: 6",
    "limit_val_batches: 16": "limit_val_batches: 1",
    "every_n_train_steps: 200": "every_n_train_steps: 6",
    "steps: 200}": "steps: 2}",
    "steps: 800}": "steps: 4}",
    "devices: auto": "devices: 1",
    "warmup_steps: 100, decay_steps: 400": "warmup_steps: 1, decay_steps: 1",
    "seq_len: 1024": "seq_len: 32",
}
"""The same in the configuration for Hugging Face folders."""

NOT_OURS = ("make", "tensorboard")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    lines = (line for block in blocks("bash") for line in block.splitlines() if line.strip())
    return [line for line in lines if shlex.split(line, comments=True)[0] not in NOT_OURS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the README takes for granted: the configs, a model, a config of one's own."""
    import torch
    import transformers

    root = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "configs", root / "configs")
    for name, changes in (("quickstart", SMALLER), ("recycle", SMALLER_RECYCLE)):
        path = root / f"configs/{name}.yaml"
        text = path.read_text()
        for old, new in changes.items():
            assert old in text, f"{path.name} has no {old!r} any more"
            text = text.replace(old, new)
        path.write_text(text)
    (root / "my_corpus").symlink_to(TEXT)
    torch.manual_seed(0)
    shape = dict(vocab_size=320, hidden_size=32, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)
    config = transformers.OlmoeConfig(**shape, num_experts=4, num_experts_per_tok=2, eos_token_id=0, pad_token_id=None)
    for name in ("SRC", "HF_DIR"):
        transformers.OlmoeForCausalLM(config).save_pretrained(root / name)
        (root / name / "tokenizer.json").write_text(bpe_text("<|endoftext|>"))
    return root


def test_commands_run_in_their_order(folder: Path) -> None:
    found = commands()
    assert len(found) >= 10
    for line in found:
        words = ["10" if word == "960" else word for word in shlex.split(line, comments=True)]
        assert words.pop(0) == "lit-recycle", line
        run = start(*words, log=folder / "log", before=partial(os.chdir, folder))
        assert run.wait(300) == [0], f"{line}\n{run.output[-4000:]}"


def test_python_runs(folder: Path) -> None:
    (source,) = blocks("python")
    for old, new in {
        "400": "2",
        "800": "3",
        "1200": "4",
        "my_corpus/": TEXT,
        "num_layers=2": "num_layers=1, hidden_size=64, expert_size=32",
    }.items():
        assert old in source
        source = source.replace(old, new)
    run = subprocess.run([sys.executable, "-c", source], cwd=folder, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-4000:]
    assert run.stdout.count("growth: ") == 2


def test_the_growth_in_the_readme_is_that_of_the_shipped_config() -> None:
    import yaml

    (shown,) = blocks("yaml")
    events = yaml.safe_load(shown)["trainer"]["callbacks"][0]["init_args"]["events"]
    config = yaml.safe_load((ROOT / "configs/paper_70b.yaml").read_text())
    shipped = next(
        c for c in config["trainer"]["callbacks"] if c["class_path"] == "lit_recycle.callbacks.GrowthCallback"
    )
    for event, expected in zip(events, shipped["init_args"]["events"], strict=True):
        assert {k: event[k] for k in expected} == expected
