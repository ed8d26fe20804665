"""Merge of checkpoints: a weighted mean of those of a constant learning rate, instead of a decay of the rate.

After WSM (Tian et al., ICLR 2026): a decay lets later updates count less, and so does a mean of checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lit_recycle.checkpoints.atomic import save
from lit_recycle.checkpoints.native import AVERAGE, load_whole_checkpoint, trained_weights
from lit_recycle.destination import check_destination
from lit_recycle.hub.alike import check_alike
from lit_recycle.hub.folder_tensors import FolderTensors
from lit_recycle.hub.reader import HFFolder, open_folder
from lit_recycle.hub.stream import rewriting
from lit_recycle.hub.transform import TORCH, write
from lit_recycle.hub.writer import SHARD_SIZE, Spec, write_json

Decay = Literal["linear", "cosine", "mean"]


def decay_factors(decay: Decay, updates: int) -> list[float]:
    """How much each of so many updates between checkpoints counts, d₁ ≥ … ≥ dₙ.

    ``linear`` and ``cosine`` fall from one to zero, and an update has the value in its middle; with ``mean`` all
    checkpoints weigh the same.
    """
    if decay not in get_args(Decay):
        raise ValueError(f"--decay must be one of {', '.join(get_args(Decay))}, got {decay!r}")
    middles = [(j + 0.5) / updates for j in range(updates)]
    return {
        "linear": [1.0 - x for x in middles],
        "cosine": [(1.0 + math.cos(math.pi * x)) / 2 for x in middles],
        "mean": [1.0 - (j + 1) / (updates + 1) for j in range(updates)],
    }[decay]


def merge_weights(decay: Decay, count: int) -> list[float]:
    """Weights of checkpoints, the oldest first: w₀ = 1 − d₁, wⱼ = dⱼ − dⱼ₊₁, wₙ = dₙ.

    With them the mean is the oldest checkpoint plus each update times its factor.
    """
    if count < 2:
        raise ValueError(f"a merge is of two checkpoints at least, got {count}")
    factors = [1.0, *decay_factors(decay, count - 1), 0.0]
    return [before - after for before, after in pairwise(factors)]


def weighted_mean(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """In float32 (float64 stays), and then in the type of the last; integers are those of the last."""
    last = tensors[-1]
    if not last.is_floating_point():
        return last
    total = torch.zeros_like(last, dtype=torch.promote_types(last.dtype, torch.float32))
    for tensor, weight in zip(tensors, weights, strict=True):
        total.add_(tensor.to(total.dtype), alpha=weight)
    return total.to(last.dtype)


def merge_checkpoints(sources: Sequence[Path], destination: Path, decay: Decay) -> list[Path]:
    """Merge checkpoints of this project, by their steps. The result has no optimizer state.

    Returns:
        The sources, the oldest first.

    Raises:
        ValueError: For checkpoints of different shapes or runs, or a destination that exists.
    """
    weights = merge_weights(decay, len(sources))
    check_destination(destination)
    loaded = sorted(((load_whole_checkpoint(path), path) for path in sources), key=lambda pair: pair[0]["global_step"])
    checkpoints, paths = [checkpoint for checkpoint, _ in loaded], [path for _, path in loaded]
    last = checkpoints[-1]
    for checkpoint, path in loaded:
        for key in ("config", "growth"):
            if checkpoint["hyper_parameters"][key] != last["hyper_parameters"][key]:
                raise ValueError(f"{path} and {paths[-1]} have been through different growths: merge within one stage")
    if "reparam" in last["hyper_parameters"]["config"]:
        raise ValueError(
            f"{paths[-1]} was trained with branches, and a mean of branches is no mean of weights: make plain "
            "checkpoints of all first with `lit-recycle merge-branches`"
        )
    steps = [checkpoint["global_step"] for checkpoint in checkpoints]
    if len(set(steps)) < len(steps):
        raise ValueError(f"two of the checkpoints are of the same step: their steps are {', '.join(map(str, steps))}")
    states = [trained_weights(checkpoint) for checkpoint in checkpoints]
    merged = {name: weighted_mean([state[name] for state in states], weights) for name in states[-1]}
    kept = {key: value for key, value in last.items() if key not in AVERAGE}
    made: dict[str, Any] = {**kept, "state_dict": merged, "optimizer_states": [], "lr_schedulers": []}
    made["merged"] = {"decay": decay, "steps": steps, "weights": weights}
    save(made, destination)
    return paths


def merge_folders(
    sources: Sequence[Path],
    destination: Path,
    decay: Decay,
    *,
    max_shard_size: str | int = SHARD_SIZE,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> None:
    """Merge Hugging Face folders, the oldest first, tensor by tensor. Side files are those of the last.

    Raises:
        ValueError: For folders of different models, or one that is named twice.
    """
    weights = merge_weights(decay, len(sources))
    if len({path.resolve() for path in sources}) < len(sources):
        raise ValueError(f"a folder is named twice among {', '.join(map(str, sources))}: name each once, oldest first")
    folders = [open_folder(path) for path in sources]
    last = folders[-1]
    for folder in folders:
        check_alike(folder, last)
        _check_types(folder)
    specs = [Spec(name, stored.dtype, stored.shape) for name, stored in last.tensors.items()]
    with rewriting(last, destination, specs, max_shard_size, folders[:-1]) as new:
        tensors = [FolderTensors(folder) for folder in folders]
        for spec in specs:
            made = weighted_mean([of[spec.name] for of in tensors], weights)
            progress(write(made, spec.dtype, new.files[spec.name]))
        write_json(new.folder / "config.json", last.config)
        told = {"decay": decay, "sources": [str(path) for path in sources], "weights": weights}
        write_json(new.folder / "merge.json", told)


def _check_types(folder: HFFolder) -> None:
    if odd := sorted({s.dtype for s in folder.tensors.values()} - set(TORCH)):
        raise ValueError(f"{folder.path} holds {', '.join(odd)}, of which no mean can be made: convert it first")
