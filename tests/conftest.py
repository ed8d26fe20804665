"""Shared by all tests: reproducible examples, one thread (so that sums are always added in the same order)."""

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, max_examples=25)
hypothesis.settings.load_profile("ci")
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, which are those with several processes, so that no core is left with one of them at the end."""
    items.sort(key=lambda item: "training" not in item.path.parts)
