"""Tensors in pieces: any section is that of the whole, and reads no piece that it does not touch."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_recycle.hub.joined import Joined, put, whole


def experts(read: list[int]) -> tuple[Joined, torch.Tensor]:
    """Three experts, each of a gate and an up matrix, as folders have them; ``read`` collects whose is looked at."""
    tensors = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(0))

    def matrix(expert: int, number: int) -> torch.Tensor:
        read.append(expert)
        return tensors[expert, number]

    cells = [partial(Joined, [partial(matrix, e, 0), partial(matrix, e, 1)]) for e in range(3)]
    return Joined(cells, stacked=True), tensors.flatten(1, 2)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_section_is_that_of_the_whole(data: st.DataObject) -> None:
    value, expected = experts([])
    assert value.shape == expected.shape and torch.equal(whole(value), expected)
    for dimension in data.draw(st.permutations(range(3))):
        start = data.draw(st.integers(0, expected.shape[dimension] - 1))
        length = data.draw(st.integers(0, expected.shape[dimension] - start))
        value, expected = value.narrow(dimension, start, length), expected.narrow(dimension, start, length)
        assert value.shape == expected.shape and torch.equal(whole(value), expected)
        if not length:
            return


def test_experts_of_other_processes_are_not_read() -> None:
    read: list[int] = []
    value, expected = experts(read)
    mine = value.narrow(0, 2, 1)
    assert torch.equal(whole(mine), expected[2:]) and set(read) == {2}


def test_pieces_of_another_shape_are_refused() -> None:
    value = Joined([lambda: torch.ones(4, 5), lambda: torch.ones(1, 5)], stacked=True)
    with pytest.raises(ValueError, match=r"a piece has shape \[1, 5\], and its place is \[4, 5\]"):
        whole(value)
    with pytest.raises(ValueError, match=r"shape \[1\]"):
        put(torch.zeros(3), torch.ones(1))
