"""What four processes check of sharded tensors; started by tests/growth/test_shards.py.

Each process grows its shards, and beside them the whole tensors; the results must be the same bit for bit.
"""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from maps import grow_one, plan_of_maps
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

from lit_recycle.growth.optimizer import grow_optimizer_state
from lit_recycle.growth.plan import GrowthPlan

PROCESSES = 4
NEEDS_COMMUNICATION = {  # experts, factor, shards
    (8, 2, 4): False,
    (4, 3, 4): False,
    (6, 2, 4): True,  # 2 2 2 0 experts become 3 3 3 3
    (6, 3, 4): True,  # and 5 5 5 3
    (2, 2, 4): True,  # 1 1 0 0 become 1 1 1 1
    (3, 2, 4): False,  # 1 1 1 0 become 2 2 2 0
    (1, 3, 4): True,  # 1 0 0 0 become 1 1 1 0
    (6, 2, 2): False,
    (6, 3, 2): False,
    (5, 2, 2): True,  # 3 2 become 5 5
}
HYBRID = (Replicate(), Shard(0))
SHAPES = {"moe.experts.gate_up": (6, 4), "moe.experts.down": (4, 3), "moe.router.weight": (4,)}


def check() -> None:
    """Everything, in one process of four."""
    dist.init_process_group("gloo", rank=int(os.environ["RANK"]), world_size=PROCESSES)
    line = init_device_mesh("cpu", (PROCESSES,), mesh_dim_names=("shard",))
    grid = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    for (experts, factor, shards), communicates in NEEDS_COMMUNICATION.items():
        layouts = [(line, (Shard(0),))] if shards == 4 else [(grid["shard"], (Shard(0),)), (grid, HYBRID)]
        for mesh, placements in layouts:
            _check_growth(experts, factor, mesh, placements, communicates)
    _check_growth(4, 2, line, (Replicate(),), communicates=False)
    _check_unsharded_kinds(line)


def _check_growth(
    experts: int, factor: int, mesh: DeviceMesh, placements: tuple[Placement, ...], communicates: bool
) -> None:
    twice = tuple(e for e in range(experts) for _ in range(factor))
    plan = plan_of_maps((0, 0), (twice, twice), zero_output=True, noise=0.3, seed=1)
    for suffix, shape in SHAPES.items():
        for dtype in (torch.float32, torch.bfloat16) if suffix == "moe.experts.gate_up" else (torch.float32,):
            whole = torch.randn(experts, *shape, generator=torch.Generator().manual_seed(2)).to(dtype)
            sharded = distribute_tensor(whole, mesh, placements)
            for layer in range(2):
                name = f"layers.{layer}.{suffix}"
                with CommDebugMode() as communication:
                    found = grow_one(plan, name, sharded)
                case = (experts, factor, mesh.shape, name, dtype)
                assert (communication.get_total_counts() > 0) == communicates, case
                _assert_same(found, grow_one(plan, name, whole), sharded, case)
            _assert_same_state(plan, suffix, sharded, whole)


def _assert_same_state(plan: GrowthPlan, suffix: str, sharded: DTensor, whole: torch.Tensor) -> None:
    source, name = f"layers.0.{suffix}", f"layers.1.{suffix}"

    def grow(value: torch.Tensor, policy: str) -> dict:
        state = {"exp_avg": value, "exp_avg_sq": value, "step": torch.tensor(3.0)}
        return grow_optimizer_state(plan, {source: state}, policy, "AdamW")[name]

    for policy in ("carry", "fresh_copies"):
        found, expected = grow(sharded, policy), grow(whole, policy)
        for key in ("exp_avg", "exp_avg_sq"):
            _assert_same(found[key], expected[key], sharded, (name, policy, key))
        assert torch.equal(found["step"], expected["step"])


def _check_unsharded_kinds(mesh: DeviceMesh) -> None:
    """Tensors without an expert axis, and layers whose experts do not grow, stay as they are sharded."""
    plan = plan_of_maps((0, 0), ((0, 1),) * 2)
    for suffix in ("attn.o_proj.weight", "moe.experts.down"):
        whole = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
        sharded = distribute_tensor(whole, mesh, (Shard(0),))
        with CommDebugMode() as communication:
            original, copied = (grow_one(plan, f"layers.{i}.{suffix}", sharded) for i in range(2))
        assert communication.get_total_counts() == 0
        assert original is sharded
        _assert_same(copied, whole, sharded, suffix)
        assert sharded.to_local().numel() == 0 or copied.to_local().data_ptr() != sharded.to_local().data_ptr()


def _assert_same(found: torch.Tensor, whole: torch.Tensor, source: DTensor, case: object) -> None:
    """The same values and the same layout as if the whole tensor had been distributed like the source."""
    assert isinstance(found, DTensor) and found.placements == source.placements, case
    assert found.device_mesh == source.device_mesh, case
    expected = distribute_tensor(whole, source.device_mesh, source.placements, src_data_rank=None)
    assert found.shape == expected.shape and found.stride() == expected.stride(), case
    assert found.dtype == expected.dtype, case
    assert torch.equal(found.to_local(), expected.to_local()), case
