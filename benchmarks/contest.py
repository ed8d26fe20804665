"""What several benchmarks measure by: the loss of anybody's model, the rate of products, resident memory."""

from __future__ import annotations

import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_recycle.model.transformer import MoETransformer


def loss_of(model: nn.Module, tokens: Tensor) -> Tensor:
    """Mean cross-entropy of the next token, by our model or one of transformers'."""
    if isinstance(model, MoETransformer):
        return model(tokens[:, :-1], labels_BS=tokens[:, 1:])[0]
    logits = model(tokens[:, :-1]).logits
    return F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())


def matmul_rate(device: str, dtype: torch.dtype, side: int) -> float:
    """FLOP/s of a large matrix product."""
    a = torch.randn(side, side, device=device).to(dtype)
    times = []
    for _ in range(20):
        synchronize(device)
        started = time.perf_counter()
        a @ a
        synchronize(device)
        times.append(time.perf_counter() - started)
    return 2 * side**3 / min(times)


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def resident(key: str = "VmRSS", pid: int | str = "self") -> int:
    """Resident bytes of a process now, or at their peak since it began (``VmHWM``); 0 for one that is gone. Linux."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key)), 0)
