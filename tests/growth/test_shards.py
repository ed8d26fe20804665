"""Experts gathered from tensors that are whole, and from tensors that are spread over processes."""

import shard_cases
import torch
import torch.multiprocessing

from lit_recycle.growth.shards import ExpertRows, gather_experts


def test_rows_are_gathered_and_treated_with_their_numbers():
    seen = []

    def treat(rows: ExpertRows) -> None:
        seen.append(rows.experts)
        rows.values.add_(1.0)

    source = torch.tensor([[1.0], [2.0]])
    assert gather_experts(source, [1, 0, 1], treat).tolist() == [[3.0], [2.0], [3.0]]
    assert seen == [range(3)]
    assert source.tolist() == [[1.0], [2.0]], "rows are a copy"


def test_sharded_tensors_grow_into_what_whole_ones_grow_into(tmp_path):
    """Four processes; shards of equal and unequal numbers of experts, and hybrid sharding. See shard_cases."""
    torch.multiprocessing.spawn(shard_cases.check, (str(tmp_path / "store"),), nprocs=shard_cases.PROCESSES)
