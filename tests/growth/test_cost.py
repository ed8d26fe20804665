"""What a growth sends between processes, on 64 of them that do not exist."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh

from lit_recycle.growth import cost
from lit_recycle.growth.cost import EventCost, event_cost, fake_processes
from lit_recycle.growth.engine import grow_tensors
from lit_recycle.growth.facts import Unmeasured
from lit_recycle.growth.ledger import Ledger
from lit_recycle.growth.native import NativeModel
from lit_recycle.growth.operator import Operator
from lit_recycle.growth.operators import DuplicateExperts, Interpolate, Interpose, PruneInner, WidenHidden, WidenInner
from lit_recycle.growth.optimizer import grow_optimizer_state
from lit_recycle.growth.plan import GrowthPlan, plan_growth
from lit_recycle.growth.shards import best_dimension
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
        ([PruneInner(4, "experts")], 0),  # and so each process has all channels of its experts
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
    plan = plan_growth(NativeModel(CONFIG), operators, facts=Unmeasured)
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


def cost_of_all(model: NativeModel, plan: GrowthPlan, mesh: DeviceMesh) -> EventCost:
    """Found by growing every tensor."""
    plan = GrowthPlan(tuple(replace(step, operator=cost._Untreated(step.operator)) for step in plan.steps))

    def empty(size: torch.Size) -> torch.Tensor:
        return cost._Spec(tuple(size), best_dimension(size, mesh.size()), torch.float32).tensor(mesh)

    shapes = parameter_shapes(model)
    with torch.no_grad(), FakeTensorMode(), Ledger() as ledger:
        weights = {name: empty(size) for name, size in shapes.items()}
        states = {name: {key: empty(size) for key in ("exp_avg", "exp_avg_sq")} for name, size in shapes.items()}
        before = ledger.held
        ledger.reset_peak()
        grown = dict(grow_tensors(plan, weights))
        moments = grow_optimizer_state(plan, states, "carry", "AdamW")
        assert grown.keys() == moments.keys()
        return EventCost(before, ledger.peak, ledger.held, ledger.received, ledger.collectives)


@pytest.mark.parametrize(
    "operators",
    [
        [Interpose(2), DuplicateExperts(3)],
        [DuplicateExperts(2, order="appended"), Interpolate()],
        [WidenHidden(2), WidenInner("experts"), Interpose(2)],
    ],
    ids=str,
)
def test_a_tensor_of_each_kind_tells_what_all_of_them_cost(
    operators: list[Operator], mesh: DeviceMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, grown = NativeModel(CONFIG.replace(num_layers=3)), []
    plan, grow = plan_growth(model, operators), cost.grow_weight
    monkeypatch.setattr(cost, "grow_weight", lambda *a: grown.append(a) or grow(*a))
    assert event_cost(parameter_shapes(model), plan, mesh) == cost_of_all(model, plan, mesh)
    kinds = len(grown)
    more = NativeModel(CONFIG.replace(num_layers=9))
    event_cost(parameter_shapes(more), plan_growth(more, operators), mesh)
    assert len(grown) == 2 * kinds, "as many as of three layers"
