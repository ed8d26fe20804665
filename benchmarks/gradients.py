"""What logging the gradient's norm and skipping spikes cost, as a share of a training step that clips its gradients.

    python benchmarks/gradients.py [--rounds 7]

Forward, backward, clipping and fused AdamW of a model as in `step_cpu.py`, with torch's own clipping; beside it the
same step with the norm measured by `GradientNorm` and looked at by `SpikeWatch`. Both take turns on one model.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from contest import loss_of, synchronize
from table import Row

from lit_recycle.model.config import MoEConfig
from lit_recycle.model.transformer import MoETransformer
from lit_recycle.training.allocator import keep_freed_memory
from lit_recycle.training.gradients import GradientNorm
from lit_recycle.training.spikes import SpikeSkip, SpikeWatch, skip_step

SHAPE = MoEConfig(vocab_size=512, hidden_size=256, num_layers=4, num_heads=4, num_experts=16, top_k=2, expert_size=256)
BATCH, SEQ_LEN, STEPS = 4, 256, 5
GOAL = 0.01


def main(argv: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        keep_freed_memory()
    torch.manual_seed(0)
    model = MoETransformer(SHAPE)
    model.to_empty(device=device)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    watch = SpikeWatch(SpikeSkip())
    tokens = torch.randint(0, 512, (BATCH, SEQ_LEN + 1), device=device)

    def plain(loss: torch.Tensor) -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)

    def watched(loss: torch.Tensor) -> None:
        gradients = GradientNorm(model, optimizer)
        norm = gradients.total()
        gradients.clip(norm, 1.0)
        skip_step(optimizer, watch.observe(loss, norm))

    def turn(clip: Callable[[torch.Tensor], None]) -> float:
        optimizer.found_inf = optimizer.grad_scale = None  # type: ignore[attr-defined]
        synchronize(device)
        started = time.perf_counter()
        for _ in range(STEPS):
            loss = loss_of(model, tokens)
            loss.backward()
            clip(loss)
            optimizer.step()
            optimizer.zero_grad()
        synchronize(device)
        return (time.perf_counter() - started) / STEPS

    turn(plain)
    pairs = [(turn(plain), turn(watched)) for _ in range(options.rounds)]
    bare, on = (statistics.median(times) * 1e3 for times in zip(*pairs, strict=True))
    share = statistics.median(b / a for a, b in pairs) - 1
    print(f"a step that clips: {bare:.1f} ms; with norm and spike skip {on:.1f} ms: {share:+.2%}")
    what = "gradient norm and spike skip, in a training step"
    return [Row(what, f"{on:.1f} ms", f"clip_grad_norm_ alone: {bare:.1f} ms", f"{share:+.1%}", f"< {GOAL:.0%}")]


if __name__ == "__main__":
    main()
