"""Shrinking, and maps that differ from expert to expert: what is kept, of weights and of state, over random shapes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from helpers import assert_equal_to_rounding, built, carried_out, configs, gradients, grown_by, tokens
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from maps import WidenEachExpert
from torch import Tensor

from lit_recycle.growth.facts import entries
from lit_recycle.growth.measure import weight_facts
from lit_recycle.growth.native import NativeModel
from lit_recycle.growth.operators import PruneExperts, PruneInner
from lit_recycle.growth.optimizer import grow_optimizer_state
from lit_recycle.growth.plan import plan_growth
from lit_recycle.growth.sources import MapPerExpert, SourceMap
from lit_recycle.model.config import MoEConfig

NETWORKS = {"experts": "F", "shared": "S", "dense": "I"}


def by_hand(config: MoEConfig, name: str, tensor: Tensor, axis: str, kept: Sequence[Sequence[Sequence[int]]]) -> Tensor:
    """A tensor of the model with some channels of each network left."""
    place = NativeModel(config).naming.parse(name)
    if place.layer is None or axis not in place.axes.names:
        return tensor
    rows = kept[place.layer]
    if axis != "F":
        tensor = tensor.unsqueeze(0)
    found = []
    for row, matrix in zip(rows, tensor, strict=True):
        if "down" in place.axes.matrices:
            found.append(matrix[:, row])
        else:
            gate, up = matrix.chunk(2)
            found.append(torch.cat([gate[row], up[row]]))
    return torch.stack(found) if axis == "F" else found[0]


def norms_by_hand(config: MoEConfig, weights: dict[str, Tensor], axis: str) -> list[list[Tensor]]:
    """Of each channel, by layer and network."""
    squares: dict[int, Tensor] = {}
    for name, tensor in weights.items():
        place = NativeModel(config).naming.parse(name)
        if place.layer is None or axis not in place.axes.names:
            continue
        each = tensor if axis == "F" else tensor.unsqueeze(0)
        if "down" in place.axes.matrices:
            found = each.square().sum(1)
        else:
            found = sum(m.square().sum(2) for m in each.chunk(2, dim=1))  # type: ignore[assignment]
        squares[place.layer] = squares.get(place.layer, torch.zeros(())) + found
    return [list(squares[i].sqrt()) if i in squares else [] for i in range(config.num_layers)]


@settings(max_examples=25)
@given(configs(), st.sampled_from(sorted(NETWORKS)), st.integers(1, 5), st.integers(0, 2**32))
def test_channels_that_are_left_keep_weights_and_state(config: MoEConfig, networks: str, size: int, seed: int) -> None:
    axis = NETWORKS[networks]
    widths = {NativeModel(config).size(axis, i) for i in range(config.num_layers)}
    assume(max(widths) > size)
    model = built(config, seed)
    weights = dict(model.state_dict())
    norms = norms_by_hand(config, weights, axis)
    kept = [[row.argsort(descending=True, stable=True)[:size].sort().values.tolist() for row in rows] for rows in norms]
    facts = weight_facts(NativeModel(config), weights)
    plan = plan_growth(NativeModel(config), [PruneInner(size, networks)], facts=lambda _: facts)
    after = carried_out(plan, model)
    assert NativeModel(after.config).size(axis) == size
    states = {n: {"exp_avg": torch.randn(p.shape), "step": torch.tensor(3.0)} for n, p in model.named_parameters()}
    held = {n: dict(state) for n, state in states.items()}
    grown = grow_optimizer_state(plan, states, "carry", "AdamW")
    for name, tensor in after.state_dict().items():
        assert torch.equal(tensor, by_hand(config, name, weights[name], axis, kept)), name
    for name, state in grown.items():
        assert torch.equal(state["exp_avg"], by_hand(config, name, held[name]["exp_avg"], axis, kept)), name
    written = SourceMap.from_dict(plan.maps()[0])
    assert written == plan.steps[0].sources


@settings(max_examples=15)
@given(configs(), st.integers(1, 5), st.integers(0, 2**32))
def test_channels_that_do_nothing_are_left_out_of_each_expert_alone(config: MoEConfig, size: int, seed: int) -> None:
    assume(config.expert_size > size)
    model, generator = built(config, seed), torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith("experts.down"):
            for e, down in enumerate(parameter.data):
                useless = torch.randperm(config.expert_size, generator=generator)[size:]
                down[:, useless] = 0
                gate_up = model.get_parameter(name.replace("down", "gate_up")).data[e]
                gate_up[torch.cat([useless, useless + config.expert_size])] = 0
    text = tokens(config, seed=seed)
    after = grown_by(model, PruneInner(size, "experts"))
    assert_equal_to_rounding(after(text)[0].detach(), model(text)[0].detach())


@settings(max_examples=15)
@given(configs(), st.integers(1, 4), st.integers(0, 2**32))
def test_a_map_for_each_expert_follows_the_one_rule(config: MoEConfig, more: int, seed: int) -> None:
    """Summed: 1/m of the weight, so that logits stay. Produced: 1/m of the gradient, and moments to match."""
    model, text = built(config, seed), tokens(config, seed=seed)
    plan = plan_growth(NativeModel(config), [WidenEachExpert(config.expert_size + more, seed)])
    after = carried_out(plan, model)
    assert_equal_to_rounding(after(text)[0].detach(), model(text)[0].detach())
    before, found = gradients(model, text), gradients(after, text)
    states = {n: {"exp_avg": g.clone(), "exp_avg_sq": g.clone(), "row": g.clone()} for n, g in before.items()}
    for state in states.values():
        del state["row"]
    moments = grow_optimizer_state(plan, states, "carry", "AdamW")
    scale = max(g.abs().max() for g in before.values())
    for name, gradient in found.items():
        assert_equal_to_rounding(moments[name]["exp_avg"], gradient, scale)
        place = NativeModel(config).naming.parse(name)
        if place.suffix == "moe.experts.gate_up":
            assert place.layer is not None
            maps = plan.steps[0].sources.full_axis("F", place.layer)
            assert isinstance(maps, MapPerExpert)
            shares = torch.stack(
                [torch.tensor([1 / n for n in m.multiplicities] * 2, dtype=torch.float64) for m in maps.maps]
            )
            whole = moments[name]["exp_avg"] / shares.unsqueeze(2)
            assert_equal_to_rounding(moments[name]["exp_avg_sq"], whole * shares.square().unsqueeze(2), scale)
    fresh = grow_optimizer_state(
        plan, {n: {"exp_avg": torch.ones_like(g)} for n, g in before.items()}, "fresh_copies", "AdamW"
    )
    for name, state in fresh.items():
        if name.endswith("gate_up") and "experts" in name:
            assert (state["exp_avg"].ne(0).sum(1) == 2 * config.expert_size).all(), "originals alone keep theirs"


@settings(max_examples=15)
@given(configs(num_experts=4, top_k=1), st.integers(1, 3))
def test_whole_experts_that_are_left_keep_their_channels(config: MoEConfig, count: int) -> None:
    model = built(config)
    norms = weight_facts(NativeModel(config), model.state_dict())("norm")
    after = grown_by(model, PruneExperts(count)).state_dict()
    for name, tensor in model.state_dict().items():
        place = NativeModel(config).naming.parse(name)
        if place.is_routed and place.layer is not None:
            best = sorted(sorted(range(4), key=lambda e: -norms[place.layer][e])[:count])
            assert torch.equal(after[name], tensor[best])


def test_facts_of_channels_inside_experts_are_of_one_expert_after_the_other() -> None:
    config = MoEConfig(vocab_size=7, hidden_size=4, num_layers=2, num_heads=2, num_experts=3, top_k=1, expert_size=5)
    model = built(config)
    found = weight_facts(NativeModel(config), model.state_dict())("channel_norm_F")
    assert [len(layer) for layer in found] == [entries(NativeModel(config), "F", i) for i in range(2)] == [15, 15]
    expected = torch.cat(norms_by_hand(config, dict(model.state_dict()), "F")[1])
    torch.testing.assert_close(torch.tensor(found[1], dtype=torch.float64), expected)
