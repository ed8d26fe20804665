"""Freed memory is kept by the process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import config

from lit_recycle.callbacks import freed_memory
from lit_recycle.cli import main
from lit_recycle.training.module import LitMoE

PROGRAM = """
import resource, sys
import torch
from lit_recycle.training.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()

def faults() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(1 << 24)  # 64 MB: more than glibc ever keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
print(sum([faults() for _ in range(20)][10:]))  # the first ones make room, also for where aligned pieces begin
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems' allocators keep memory by themselves")
def test_memory_that_was_freed_is_not_taken_from_the_system_again():
    found = {}
    for how in ("default", "keep"):
        done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
        found[how] = int(done.stdout)
    assert found["keep"] < 1000 < 100_000 < found["default"], found


def test_a_run_keeps_it_once_its_weights_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not before: two processes under FSDP1 would come up with the memory of the whole model each."""
    seen: list[str] = []
    monkeypatch.setattr(freed_memory, "keep_freed_memory", lambda: seen.append("kept"))
    for name in ("configure_optimizers", "training_step"):
        monkeypatch.setattr(LitMoE, name, told(getattr(LitMoE, name), seen))
    assert main(["fit", "--config", str(config(tmp_path / "run")), "--trainer.fast_dev_run", "true"]) == 0
    assert seen[:3] == ["configure_optimizers", "kept", "training_step"]


def told(function: Callable[..., Any], seen: list[str]) -> Callable[..., Any]:
    def telling(*args: Any, **kwargs: Any) -> Any:
        seen.append(function.__name__)
        return function(*args, **kwargs)

    return telling
