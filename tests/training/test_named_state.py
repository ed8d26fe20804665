"""Slices of parameters under FSDP1, without processes."""

import pytest
import torch
from torch import nn

from lit_recycle.training import named_state
from lit_recycle.training.named_state import Slice


@pytest.mark.parametrize("shape", [(4, 3), (12,), (2, 3, 2)])
def test_a_slice_takes_its_part_and_reads_no_more_rows_than_it_touches(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    value = torch.arange(12.0).view(shape)
    read: list[torch.Tensor] = []
    monkeypatch.setattr(named_state, "read_whole", lambda rows: read.append(rows) or rows)
    row = value[0].numel()
    for start in range(12):
        for length in range(1, 12 - start + 1):
            part = Slice(nn.Parameter(torch.empty(length), requires_grad=False), start, length, value.shape)
            part.take(value)
            assert part.param.tolist() == list(range(start, start + length)) == part.of(value).tolist()
            assert len(read[-1]) == len({i // row for i in range(start, start + length)})
    read.clear()
    Slice(nn.Parameter(torch.empty(0)), 0, 0, value.shape).take(value)
    assert not read, "of nothing nothing is read"
