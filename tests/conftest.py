"""Shared by all tests: reproducible examples, one thread (so that sums are always added in the same order)."""

import gc
import os
from collections.abc import Generator

import hypothesis
import pytest
import torch

from lit_recycle.commands.parent import LAUNCHER

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, max_examples=25)
hypothesis.settings.load_profile("ci")
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, which are those with several processes, so that no core is left with one of them at the end."""
    items.sort(key=lambda item: "training" not in item.path.parts)


def pytest_collection_finish() -> None:
    """What was imported stays: the garbage collector need not walk through a million objects in each of its rounds."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs more GPUs than there are."""
    needed = max((mark.kwargs.get("devices", 1) for mark in item.iter_markers("gpu")), default=0)
    if needed > (there := torch.cuda.device_count()):
        pytest.skip(f"GPUs needed: {needed}, here: {there}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Take back what launchers leave in the environment: a later run would be a rank of theirs, or end with them."""
    before = set(os.environ)
    result = yield
    left = {"LOCAL_RANK", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "OMP_NUM_THREADS", LAUNCHER}
    for name in left - before:
        os.environ.pop(name, None)
    return result
