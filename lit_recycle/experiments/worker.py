"""One task in a process of its own: train from a folder's description, measure, write the result.

    python -m lit_recycle.experiments.worker FOLDER

It goes on from the folder's newest checkpoint, from its parent's, or begins, whatever is there.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch import nn

from lit_recycle import cli
from lit_recycle.checkpoints.native import load_model, load_whole_checkpoint
from lit_recycle.commands.parent import end_with
from lit_recycle.data.batches import Samples, batch_of
from lit_recycle.data.order import shuffled
from lit_recycle.experiments.choice import choice_accuracy, choice_items
from lit_recycle.experiments.corpus import documents_of, open_corpus
from lit_recycle.experiments.launch import FIT, MERGED, RESULT, TASK
from lit_recycle.experiments.tasks import END
from lit_recycle.model.config import MoEConfig
from lit_recycle.training.weight_stats import norm_profile

HELD_OUT_TOKENS = 400_000
"""Over which the loss at the end of a run is taken; the curve on the way uses trainer.limit_val_batches."""
VERSIONS = ("lit-recycle", "torch", "lightning", "numpy")


def main(folder: Path) -> int:
    """Train and measure what ``folder/task.json`` describes; 0 when ``folder`` holds what it should."""
    end_with(os.getppid())
    task = json.loads((folder / TASK).read_text(encoding="utf-8"))
    if not (folder / END).exists():
        if task["merge"] and not (folder / MERGED).exists():
            cli.main(["merge", *task["merge"], str(folder / MERGED), "--decay", "linear"])
        code = cli.main(["fit", "--config", str(folder / FIT), *_ckpt_path(folder, task["parent"])])
        if code:
            return code
    if task["measure"]:
        fit = yaml.safe_load((folder / FIT).read_text(encoding="utf-8"))
        result = measure(folder / END, fit, Path(task["corpus"]), task["items"], task["before"])
        result["beside"] = task["beside"]
        part = folder / f".{RESULT}"
        part.write_text(json.dumps(result), encoding="utf-8")
        part.replace(folder / RESULT)
    return 0


def _ckpt_path(folder: Path, parent: str | None) -> list[str]:
    if any((folder / "checkpoints").glob("*.ckpt")):
        return ["--ckpt_path", "last"]
    return ["--ckpt_path", parent] if parent else []


def measure(
    checkpoint: Path, fit: dict[str, Any], corpus_folder: Path, items: int, before: Sequence[int] = (0, 0, 0)
) -> dict[str, Any]:
    """What a run came to: progress, curve, metrics on held-out text, versions. Plain types.

    Args:
        checkpoint: The one after its last step.
        fit: Its configuration.
        corpus_folder: Where the runner has prepared the text.
        items: Items of the accuracy.
        before: Steps, tokens and FLOPs of the run from whose weights it began, which count as its own.
    """
    saved = load_whole_checkpoint(checkpoint)
    record = next(state for name, state in saved["callbacks"].items() if name.startswith("RunRecord"))
    model, tokenizer = load_model(checkpoint)
    corpus = open_corpus(corpus_folder, tokenizer, fit["data"]["val_fraction"])
    held_out = corpus.val.ids(below=tokenizer.vocab_size)
    samples = Samples(held_out, fit["data"]["seq_len"], "the held-out text")
    loss = held_out_loss(model, samples, HELD_OUT_TOKENS // samples.seq_len)
    on_the_curve = held_out_loss(model, samples, fit["trainer"]["limit_val_batches"] * fit["data"]["batch_size"])
    documents = documents_of(corpus.val, tokenizer.eos_id)
    shape = MoEConfig.from_dict(saved["hyper_parameters"]["config"])
    own = (saved["global_step"], saved["progress"]["tokens_seen"], saved["progress"]["flops_spent"])
    done = _sums(own, before)
    return {
        "steps": done[0],
        "tokens": done[1],
        "flops": done[2],
        "params": shape.num_params(),
        "active_params": shape.num_active_params(),
        "metrics": {
            "loss": loss,
            "bits_per_byte": loss / math.log(2) / corpus.val.bytes_per_token,
            "accuracy": choice_accuracy(model, choice_items(documents, items)),
        },
        "curve": [
            *([*_sums(row[:3], before), *row[3:]] for row in record["curve"]),
            [*done, round(record["cpu_seconds"], 2), on_the_curve],
        ],
        "growths": [
            growth | {"steps": growth["steps"] + before[0], "flops": growth["flops"] + before[2]}
            for growth in record["profiles"]
        ],
        "norms": norm_profile(saved["state_dict"]).tolist(),
        "seconds": round(record["seconds"], 1),
        "cpu_seconds": round(record["cpu_seconds"], 1),
        "versions": {name: version(name) for name in VERSIONS} | {"python": platform.python_version()},
        "machine": f"{_cpu()}, {torch.get_num_threads()} thread, {platform.system()}",
        "load": [round(x, 2) for x in os.getloadavg()],
        "date": time.strftime("%Y-%m-%d"),
    }


def _sums(own: Sequence[int], before: Sequence[int]) -> list[int]:
    return [one + other for one, other in zip(own, before, strict=True)]


@torch.no_grad()
def held_out_loss(model: nn.Module, samples: Samples, count: int, batch_size: int = 32) -> float:
    """Mean over the first ``count`` of the held-out samples, in nats per token.

    They are from everywhere in the text, the same for every model, and those of the curve are among them.
    """
    chosen = shuffled(np.arange(min(count, len(samples))), len(samples), seed=0)
    total = 0.0
    for first in range(0, len(chosen), batch_size):
        batch = batch_of([samples.ids(int(i)) for i in chosen[first : first + batch_size]])
        logits, _ = model(batch["input_ids"])
        total += F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), reduction="sum").double().item()
    return total / (len(chosen) * samples.seq_len)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
