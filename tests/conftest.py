"""Shared by all tests: reproducible examples, one thread (so that sums are always added in the same order)."""

import hypothesis
import torch

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, max_examples=25)
hypothesis.settings.load_profile("ci")
torch.set_num_threads(1)
