"""Every benchmark at a small size, and one table of what it is measured on and what came out: ``make bench``.

    python benchmarks/all.py [--only step_cpu disk …] [--table benchmarks/table.md]

One after the other, each in a process of its own. A benchmark that fails leaves a line that says so, and an exit status
that is not zero.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import multiprocessing as mp
import os
import platform
import sys
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown
from table import Row

BENCHMARKS = {
    "step_cpu": ["--rounds", "5"],
    "active": ["--rounds", "5"],
    "step_gpu": [],
    "growth_event": [],
    "disk": ["--gigabytes", "4"],
    "hub_memory": ["--gigabytes", "1"],
    "saving": ["--megabytes", "300"],
    "checksums": ["--gigabytes", "1"],
    "start_up": ["--rounds", "3"],
    "muon": ["--rounds", "7"],
    "reparam": ["--rounds", "5"],
    "gradients": ["--rounds", "9"],
    "loop": ["--steps", "320"],
    "data": ["--megabytes", "60", "--steps", "40"],
}
PACKAGES = ("torch", "lightning", "transformers", "tokenizers")
HEADS = ("what", "lit-recycle", "rival", "ratio", "goal")


def run(name: str, pipe: Connection) -> None:
    """A process: one benchmark, its rows into the pipe."""
    import torch

    dry = ["--dry-run"] if name == "step_gpu" and not torch.cuda.is_available() else []
    try:
        pipe.send(importlib.import_module(name).main([*BENCHMARKS[name], *dry]))
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        pipe.send([Row(name, f"failed: {error}", "", "", "")])


def machine() -> str:
    """Processor, cores, memory, system and versions, in a line."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in PACKAGES)
    return (
        f"{model}, {os.cpu_count()} cores, {memory:.0f} GB, {platform.system()} {platform.release().split('-')[0]}; "
        f"Python {platform.python_version()}, {versions}; {time.strftime('%Y-%m-%d')}"
    )


def markdown(rows: list[Row]) -> str:
    lines = [HEADS, ("---",) * len(HEADS), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n*{machine()}*\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(BENCHMARKS), choices=list(BENCHMARKS))
    parser.add_argument("--table", type=Path, default=Path(__file__).parent / "table.md")
    options = parser.parse_args()
    rows: list[Row] = []
    for name in options.only:
        print(f"\n=== {name}", flush=True)
        started = time.perf_counter()
        receiver, sender = mp.get_context("spawn").Pipe(duplex=False)
        process = mp.get_context("spawn").Process(target=run, args=(name, sender))
        process.start()
        sender.close()
        try:
            rows += receiver.recv()
        except EOFError:  # it was killed
            rows.append(Row(name, "failed: the process ended", "", "", ""))
        process.join()
        print(f"=== {name}: {time.perf_counter() - started:.0f} s", flush=True)
    text = markdown(rows)
    options.table.write_text(text, encoding="utf-8")
    Console().print(Markdown(text))
    return int(any(row.ours.startswith("failed") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
