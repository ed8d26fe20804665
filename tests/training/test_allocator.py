"""Freed memory is kept by the process."""

import subprocess
import sys

import pytest

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
