"""A step of Muon beside torch.optim.Muon, on matrices of two dimensions, which are all that torch's takes.

    python benchmarks/muon.py [--hidden 256] [--layers 8] [--rounds 7]

The matrices of a dense transformer's layers: queries, keys, values, outputs, gate, up and down. Both do the same
iteration in bfloat16; contestants take turns, and the median of their ratios counts.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from contest import synchronize
from table import Row
from torch import nn

from lit_recycle.training.muon import Muon

GOAL = 1.0


def matrices(hidden: int, layers: int, device: str) -> list[nn.Parameter]:
    kinds = [(hidden, hidden), (hidden // 2, hidden), (hidden // 2, hidden), (hidden, hidden)]
    kinds += [(2 * hidden, hidden), (2 * hidden, hidden), (hidden, 2 * hidden)]
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(kind, generator=generator).to(device)) for _ in range(layers) for kind in kinds]
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator).to(device)
    return params


def main(argv: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ours, theirs = (matrices(options.hidden, options.layers, device) for _ in range(2))
    contestants = {
        "ours": Muon([{"params": ours, "algorithm": "muon"}], lr=1e-3),
        "theirs": torch.optim.Muon(theirs, lr=1e-3),
    }
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for round_ in range(options.rounds + 1):  # the first warms up
        for name, optimizer in contestants.items():
            synchronize(device)
            started = time.perf_counter()
            optimizer.step()
            synchronize(device)
            if round_:
                times[name].append(time.perf_counter() - started)
    for a, b in zip(ours, theirs, strict=True):  # both in bfloat16, and in batches or not
        torch.testing.assert_close(a, b, rtol=0, atol=1e-3)
    ratio = statistics.median(t / o for o, t in zip(times["ours"], times["theirs"], strict=True))
    own, rival = (statistics.median(times[name]) * 1e3 for name in contestants)
    print(f"{len(ours)} matrices: {own:.1f} ms, torch.optim.Muon {rival:.1f} ms: {ratio:.2f} × as fast")
    what = f"a step of Muon, {len(ours)} matrices of hidden size {options.hidden}"
    return [Row(what, f"{own:.1f} ms", f"torch.optim.Muon: {rival:.1f} ms", f"{ratio:.2f} ×", f"≥ {GOAL:g} ×")]


if __name__ == "__main__":
    main()
