"""Experts gathered from tensors that are whole, and from tensors that are spread over processes."""

import shard_cases
import torch
import torch.multiprocessing

from lit_recycle.growth.shards import gather, window


def test_entries_are_gathered_into_memory_of_their_own():
    source = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert gather(source, 0, [1, 0, 1]).tolist() == [[3.0, 4.0], [1.0, 2.0], [3.0, 4.0]]
    assert gather(source, 1, [1, 1]).tolist() == [[2.0, 2.0], [4.0, 4.0]]
    assert gather(source, 0, [0, 1]).data_ptr() != source.data_ptr()
    assert window(source) == (slice(0, 2), slice(0, 2))


def test_sharded_tensors_grow_into_what_whole_ones_grow_into(tmp_path):
    """Four processes; shards of equal and unequal numbers of experts, and hybrid sharding. See shard_cases."""
    torch.multiprocessing.spawn(shard_cases.check, (str(tmp_path / "store"),), nprocs=shard_cases.PROCESSES)
