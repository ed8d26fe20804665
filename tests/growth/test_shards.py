"""Experts gathered from tensors that are whole, and from tensors that are spread over processes."""

import pytest
import shard_cases
import torch
from runs import on_processes

from lit_recycle.growth.shards import best_dimension, gather, strides, window


def test_entries_are_gathered_into_memory_of_their_own():
    source = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert gather(source, 0, [1, 0, 1]).tolist() == [[3.0, 4.0], [1.0, 2.0], [3.0, 4.0]]
    assert gather(source, 1, [1, 1]).tolist() == [[2.0, 2.0], [4.0, 4.0]]
    assert gather(source, 0, [0, 1]).data_ptr() != source.data_ptr()
    assert window(source) == (slice(0, 2), slice(0, 2))


def test_sharded_tensors_grow_into_what_whole_ones_grow_into():
    """Four processes; shards of equal and unequal numbers of experts, and hybrid sharding. See shard_cases."""
    on_processes(shard_cases.PROCESSES, shard_cases.check)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (4, 1, 5), (2, 0, 3)])
def test_strides_are_those_of_torch(shape):
    assert strides(shape) == torch.empty(shape).stride()


@pytest.mark.parametrize(
    ("shape", "processes", "dimension"),
    [
        ((128, 3072, 4096), 128, 0),
        ((128, 3072, 4096), 1024, 1),  # more processes than experts
        ((96, 3072, 4096), 128, 1),  # one expert for three of four would be 1.33 × the even share
        ((96, 3000, 4096), 128, 2),
        ((3, 5, 7), 2, 0),  # nothing divides evenly
        ((50257, 768), 8, 0),  # even enough
        ((257, 16), 4, 0),
        ((5,), 4, 0),
        ((), 4, 0),
    ],
)
def test_each_tensor_is_divided_where_it_divides_best(shape, processes, dimension):
    assert best_dimension(shape, processes) == dimension
