"""The configuration at the end of docs/training.md: it runs, and resumed after a kill ends bit for bit the same."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
from pathlib import Path

import pytest
import yaml
from lm_tasks import write_task
from processes import TEXT, Command, start
from runs import assert_same_training_state

PAGE = Path(__file__).parents[2] / "docs/training.md"
SMALL = {
    "trainer.max_steps": 8,
    "trainer.val_check_interval": 4,
    "trainer.limit_val_batches": 1,
    "trainer.accelerator": "cpu",
    "trainer.enable_progress_bar": "false",
    "growth.events.0.at.steps": 2,
    "growth.events.0.train_steps": 3,
    "growth.events.0.rewarm.steps": 2,
    "growth.events.1.at.steps": 4,
    "growth.events.1.rewarm.steps": 2,
    "model.config.hidden_size": 16,
    "model.config.num_layers": 2,
    "model.config.num_heads": 2,
    "model.config.num_experts": 4,
    "model.config.expert_size": 8,
    "model.spike_skip.window": 4,
    "data.path": TEXT,
    "data.seq_len": 32,
    "data.batch_size": 4,
}


class Environment:
    """Of wandb and lm-eval, in the process of the command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self) -> None:
        places = {f"WANDB_{name}_DIR": str(self.folder / name) for name in ("CACHE", "CONFIG", "DATA")}
        os.environ |= places | {"WANDB_SILENT": "true", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


def written(folder: Path) -> Path:
    """The page's configuration, saved at every step; without tasks where lm-eval is not installed."""
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.S)
    (page,) = [yaml.safe_load(block) for block in blocks if "seed_everything" in block]
    callbacks = page["trainer"]["callbacks"]
    assert len(callbacks) == 6
    (folder / "tasks").mkdir()
    if importlib.util.find_spec("lm_eval") is None:
        callbacks = [callback for callback in callbacks if not callback["class_path"].endswith("DownstreamEval")]
    else:
        callbacks[1]["init_args"] |= {"include_path": str(folder / "tasks"), "every_n_steps": 3}
        write_task(folder / "tasks", "mine", [{"question": "a", "choices": ["b", "c"], "answer": 1}])
    callbacks[-1]["init_args"] |= {"every_n_train_steps": 1, "save_top_k": -1}
    page["trainer"]["callbacks"] = callbacks
    (folder / "page.yaml").write_text(yaml.safe_dump(page))
    return folder / "page.yaml"


def fit(page: Path, name: str, *options: object) -> Command:
    folder = page.parent
    values = SMALL | {"trainer.default_root_dir": folder / name, "data.cache_dir": folder / "cache"}
    argv = ["fit", "--config", page, *(word for key, value in values.items() for word in (f"--{key}", value)), *options]
    (folder / name).mkdir(exist_ok=True)
    return start(*argv, log=folder / f"{name}.log", before=Environment(folder))


def test_it_runs_and_a_kill_changes_nothing(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    page = written(tmp_path)
    whole = fit(page, "whole")
    kill = ("--trainer.callbacks+", "killing.Kill", "--trainer.callbacks.init_args.at", "step=3")
    killed = fit(page, "parts", *kill)
    assert killed.wait() == [-signal.SIGKILL], killed.output
    again = fit(page, "parts", "--ckpt_path", "last")
    assert again.wait() == [0], again.output
    assert whole.wait() == [0], whole.output
    last = "checkpoints/step=8.ckpt"
    assert_same_training_state(tmp_path / "whole" / last, tmp_path / "parts" / last)
    assert list((tmp_path / "whole").glob("wandb/offline-run-*"))
