"""What checksums cost: a checkpoint saved and loaded with them and without.

    python benchmarks/checksums.py [--gigabytes 1] [--rounds 3]

A checkpoint of float32 tensors, a third of them weights and two thirds moments, is saved as a run saves it, flushed to
disk, and loaded as a run that goes on loads it: out of the page cache into tensors of its own, and from the disk with
the cache emptied. The rival is the same without checksums.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from table import Row

from lit_recycle import checksums
from lit_recycle.checkpoints import atomic, native

GOAL = 0.03


def timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def make(gigabytes: float) -> dict[str, torch.Tensor]:
    size = 1 << 22
    return {str(i): torch.randn(size) for i in range(max(int(gigabytes * 1e9 / 4 / size), 1))}


def forget(path: Path) -> None:
    """Empty the page cache of a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main(argv: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    tensors = make(options.gigabytes)
    checkpoint = {"state_dict": tensors, "hyper_parameters": {"config": {}, "growth": []}, "global_step": 0}
    nbytes = sum(t.nbytes for t in tensors.values())
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        path = Path(folder) / "a.ckpt"

        def load() -> None:
            checksums._verified.clear()  # as in a process that has not seen the file
            found = native.load_checkpoint(path)["state_dict"]
            for name, tensor in tensors.items():
                tensor.copy_(found[name])

        atomic.save(checkpoint, path)
        seal = [timed(lambda: checksums.seal(path)) for _ in range(options.rounds)]
        save = [timed(lambda: atomic.save(checkpoint, path)) for _ in range(options.rounds)]
        verify, warm, cold, cold_without = [], [], [], []
        for _ in range(options.rounds):
            warm.append(timed(load))
            checksums._verified.clear()
            verify.append(timed(lambda: checksums.verify_archive(path)))
            forget(path)
            cold.append(timed(load))
            forget(path)
            known = checksums._verified.copy()
            cold_without.append(timed(lambda known=known: (checksums._verified.update(known), plain(path, tensors))))
        rows = [
            _row("saving", nbytes, save, [s - c for s, c in zip(save, seal, strict=True)]),
            _row("loading from the disk", nbytes, cold, cold_without),
            _row("loading from the page cache", nbytes, warm, [w - v for w, v in zip(warm, verify, strict=True)]),
        ]
    for row in rows:
        print(*row, sep=" | ")
    return rows


def plain(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """What loading is without a look at checksums."""
    found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    for name, tensor in tensors.items():
        tensor.copy_(found[name])


def _row(what: str, nbytes: int, ours: list[float], without: list[float]) -> Row:
    a, b = statistics.median(ours), statistics.median(without)
    return Row(
        f"checksums, {what}, {nbytes / 1e9:.1f} GB",
        f"{nbytes / a / 1e9:.2f} GB/s",
        f"without: {nbytes / b / 1e9:.2f} GB/s",
        f"{(a - b) / b:+.1%} of the time",
        f"< {GOAL:.0%}",
    )


if __name__ == "__main__":
    main()
