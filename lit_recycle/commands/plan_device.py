"""What a planned run asks of a device: memory at once, and hours."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from lit_recycle.data.pace import Step
from lit_recycle.growth.native import NativeModel
from lit_recycle.growth.shape import Shape
from lit_recycle.model.memory import activation_bytes, working_bytes


def memory(shape: Shape, step: Step, param_bytes: int, precision: str, checkpointing: bool) -> dict[str, int | None]:
    """Bytes of weights, gradients, AdamW's moments and activations on a device that holds the whole model, as alone or
    under DDP, and of all that it holds at once.

    Activations are let go as gradients come, so that the larger of the two counts, activations with what the backward
    pass of a block needs besides. They are known of this project's own
    model, without branches; None elsewhere.
    """
    weights = shape.num_params() * param_bytes
    activations = peak = None
    if type(shape) is NativeModel:
        tokens = step.rows * step.seq_len
        activations = activation_bytes(shape.config, tokens, precision, checkpointing)
        peak = 3 * weights + max(weights, activations + working_bytes(shape.config, tokens, precision))
    return {
        "weight_bytes": weights,
        "gradient_bytes": weights,
        "optimizer_bytes": 2 * weights,
        "activation_bytes": activations,
        "peak_bytes": peak,
    }


def add_hours(rows: list[dict[str, Any]], speed: str) -> None:
    """Add to each row how long its stage takes, FLOPs being done as fast in all of them.

    Args:
        rows: The stages.
        speed: Tokens per second of the first stage, or the folder of a run whose speed was measured.

    Raises:
        ValueError: For a speed that is none, and for a folder without one.
    """
    first = rows[0]
    try:
        tokens_per_second = float(speed)
    except ValueError:
        flops_per_second = measured(Path(speed))
    else:
        if not 0 < tokens_per_second < math.inf:
            raise ValueError(f"--tokens-per-second must be a positive number, got {speed}")
        per_token = first["flops"] / first["tokens"] if first["tokens"] else first["flops_per_token"]
        flops_per_second = tokens_per_second * per_token
    for row in rows:
        row["hours"] = row["flops"] / flops_per_second / 3600


def measured(folder: Path) -> float:
    """Training FLOPs per second of a run, without its validations and growths, from what ComputeMonitor logged."""
    if not folder.exists():
        raise ValueError(f"--tokens-per-second takes a number or the folder of a run, and there is no {folder}")
    from lit_recycle.report.read import find_logs  # brings TensorBoard
    from lit_recycle.report.written import EVENT_FILES, read_csv, read_tensorboard

    logs, kind = find_logs(folder)
    scalars = (read_tensorboard(logs) if kind == EVENT_FILES else read_csv(logs)).scalars
    tags = [f"compute/{name}" for name in ("tokens", "flops", "tokens_per_second")]
    if not all(tag in scalars and len(scalars[tag].values) > 1 for tag in tags):
        raise ValueError(
            f"--tokens-per-second: {folder} has no speed in its logs, which ComputeMonitor writes: give a number"
        )
    tokens, flops, speed = (np.asarray(scalars[tag].values, float) for tag in tags)
    seconds = np.diff(tokens) / speed[1:]
    return float((flops[-1] - flops[0]) / seconds.sum())
