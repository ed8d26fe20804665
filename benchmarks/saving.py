"""What a save costs training: checkpoints written while it goes on, beside checkpoints written at once.

    python benchmarks/saving.py [--megabytes 300] [--rounds 5]

A checkpoint of float32 tensors is saved as a run saves it, one file, flushed to disk. Compared is how long training is
stopped: for a save at once, all of its time; for one in the background, that of the copy. Beside it stands what is lost
altogether where training shares its cores with the thread that writes: by how much matrix products, which stand for
training on a CPU, are slower until it is done.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from table import Row

from lit_recycle.checkpoints.background import Background
from lit_recycle.checkpoints.io import AtomicCheckpointIO
from lit_recycle.training.allocator import keep_freed_memory

GOAL = 0.3


def make(megabytes: float) -> dict[str, torch.Tensor]:
    size = 1 << 20
    return {str(i): torch.randn(size) for i in range(max(int(megabytes * 1e6 / 4 / size), 1))}


class Steps:
    """Something to do: products of matrices, some tens of milliseconds each."""

    def __init__(self) -> None:
        self.factor = torch.randn(1024, 1024)
        self.seconds = statistics.median(self.timed() for _ in range(9))

    def timed(self) -> float:
        start = time.perf_counter()
        torch.mm(self.factor, self.factor)
        return time.perf_counter() - start

    def lost_until(self, saved: Background) -> float:
        """Seconds by which steps are slower, until nothing is being saved."""
        lost = 0.0
        while saved.is_saving:
            lost += self.timed() - self.seconds
        return lost


def main(argv: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(argv)
    checkpoint = {"state_dict": make(options.megabytes), "global_step": 0}
    nbytes = sum(t.nbytes for t in checkpoint["state_dict"].values())
    keep_freed_memory()  # as every run on a CPU does
    io, steps = AtomicCheckpointIO(), Steps()
    at_once, copies, later = [], [], []
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        for number in range(options.rounds + 1):  # the first one warms up
            for background in (None, Background()):
                io.background = background
                start = time.perf_counter()
                io.save_checkpoint(checkpoint, Path(folder) / "a.ckpt")
                stopped = time.perf_counter() - start
                if number and background is None:
                    at_once.append(stopped)
                elif background is not None:
                    lost = steps.lost_until(background)
                    background.wait()
                    if number:
                        copies.append(stopped)
                        later.append(stopped + lost)
    stopped, rival = statistics.median(copies), statistics.median(at_once)
    row = Row(
        f"saving while training goes on, {nbytes / 1e6:.0f} MB",
        f"{stopped:.2f} s stopped, {statistics.median(later):.2f} s lost on these cores",
        f"saved at once: {rival:.2f} s",
        f"{stopped / rival:.2f} × the time",
        f"≤ {GOAL} ×",
    )
    print(*row, sep=" | ")
    return [row]


if __name__ == "__main__":
    main()
