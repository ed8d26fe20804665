"""A process's part of a flat parameter: filled with its elements, without whole parameters in between."""

from __future__ import annotations

from functools import partial
from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lit_recycle.hub.joined import Joined
from lit_recycle.training import named_state
from lit_recycle.training.named_state import Slice


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_slice_takes_its_part_and_reads_no_row_that_it_does_not_touch(data: st.DataObject) -> None:
    shape = torch.Size(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    start = data.draw(st.integers(0, prod(shape)))
    length = data.draw(st.integers(0, prod(shape) - start))
    value, read, row = torch.randn(shape), set[int](), shape[1:].numel()
    part = Slice(nn.Parameter(torch.zeros(length), requires_grad=False), start, length, shape)
    pieces = Joined([partial(lambda i: read.add(i) or value[i], i) for i in range(shape[0])], stacked=True)
    for given_as in (value, pieces):
        part.param.zero_()
        part.take(given_as)
        assert torch.equal(part.param, value.flatten()[start : start + length]) and torch.equal(
            part.param, part.of(value)
        )
    assert read == {i // row for i in range(start, start + length)}


def test_no_more_than_one_row_is_held_beside_a_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    value, held, whole = torch.randn(6, 5), [], named_state.read_whole
    monkeypatch.setattr(named_state, "read_whole", lambda v: held.append(list(v.shape)) or whole(v))
    part = Slice(nn.Parameter(torch.zeros(20), requires_grad=False), 3, 20, value.shape)
    part.take(value)
    assert torch.equal(part.param, part.of(value)) and held == [[1, 5], [1, 5]]
