"""What a growth sends between processes, on 64 of them that do not exist."""

from collections.abc import Iterator

import pytest
from torch.distributed.device_mesh import DeviceMesh

from lit_recycle.growth.cost import event_cost, fake_processes
from lit_recycle.growth.native import NativeModel
from lit_recycle.growth.operator import Operator
from lit_recycle.growth.operators import DuplicateExperts, Interpose, WidenHidden, WidenInner
from lit_recycle.growth.plan import plan_growth
from lit_recycle.hub.shape import parameter_shapes
from lit_recycle.model.config import MoEConfig

CONFIG = MoEConfig(
    vocab_size=128, hidden_size=64, num_layers=2, num_heads=64, head_dim=2, num_experts=64, top_k=2, expert_size=8
)


@pytest.fixture(scope="module")
def mesh() -> Iterator[DeviceMesh]:
    with fake_processes(64) as made:
        yield made


@pytest.mark.parametrize(
    ("operators", "collectives"),
    [
        ([Interpose(2, zero_output=True)], 0),
        ([WidenInner("experts", size=12, symmetry_break=0.1)], 0),  # tensors of experts are sharded along experts
        ([DuplicateExperts(2)], 0),  # copies stand beside their source, in the process that has it
        ([WidenInner("experts"), DuplicateExperts(3), Interpose(2)], 0),
        ([DuplicateExperts(2, order="appended")], 2 * 3 * 3),  # three tensors with two moments in each of two layers
        ([WidenHidden(2)], (2 * 3 + 1) * 3),  # o_proj and two norms of each layer, and the last norm
    ],
    ids=str,
)
def test_what_is_not_sharded_is_grown_without_a_word(
    operators: list[Operator], collectives: int, mesh: DeviceMesh
) -> None:
    plan = plan_growth(NativeModel(CONFIG), operators)
    cost = event_cost(parameter_shapes(NativeModel(CONFIG)), plan, mesh)
    assert cost.collectives == collectives
    assert (cost.received == 0) == (collectives == 0)


@pytest.mark.parametrize("experts", [16, 48, 96])
def test_more_processes_than_experts_share_evenly_and_grow_locally(experts: int, mesh: DeviceMesh) -> None:
    """Neither depth nor more experts make a process send anything, and each holds its part of all."""
    model = NativeModel(CONFIG.replace(num_experts=experts, expert_size=64))
    plan = plan_growth(model, [DuplicateExperts(2), Interpose(2)])
    cost = event_cost(parameter_shapes(model), plan, mesh)
    assert cost.received == 0
    assert cost.after <= 1.1 * 3 * 4 * plan.after.num_params() / 64
