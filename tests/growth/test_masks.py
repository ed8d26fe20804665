"""Masks of pruned weights: which weights they hold, and what becomes of them in a growth, over random shapes."""

from __future__ import annotations

import pytest
import torch
from helpers import built, carried_out, configs, tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from maps import WidenEachExpert
from torch import Tensor

from lit_recycle.growth.masks import KEY, apply_masks, grow_masks, is_prunable, pruned
from lit_recycle.growth.native import NativeModel
from lit_recycle.growth.operator import Operator
from lit_recycle.growth.operators import (
    DuplicateExperts,
    Interpolate,
    Interpose,
    RandomLayers,
    Upcycle,
    WidenHeads,
    WidenHidden,
    WidenInner,
)
from lit_recycle.growth.optimizer import GRADIENT_POWER
from lit_recycle.growth.plan import plan_growth
from lit_recycle.model.config import MoEConfig
from lit_recycle.model.transformer import MoETransformer

WIDENINGS = st.sampled_from(
    [WidenInner("experts", factor=2), WidenHeads(2), WidenHidden(2), DuplicateExperts(2, noise=0.0)]
)


def masks_of(model: MoETransformer, sparsity: float) -> dict[str, Tensor]:
    naming = NativeModel(model.config).naming
    named = {n: p.detach() for n, p in model.named_parameters() if is_prunable(naming.parse(n), p.shape)}
    return {name: pruned(naming.parse(name), weight, None, sparsity) for name, weight in named.items()}


def test_the_smallest_weights_of_each_expert_are_chosen_and_stay_chosen() -> None:
    model = built(tiny())
    place = NativeModel(model.config).naming.parse("layers.1.moe.experts.down")
    weight = model.get_parameter(place.name).detach()
    first = pruned(place, weight, None, 0.3)
    for matrix, mask in zip(weight, first, strict=True):
        assert int(mask.sum()) == int(0.3 * matrix.numel())
        assert matrix.abs()[mask.bool()].max() < matrix.abs()[~mask.bool()].min()
    moved = torch.where(first.bool(), 9.0, weight)  # whatever an optimizer has made of them meanwhile
    second = pruned(place, moved, first, 0.6)
    assert (second >= first).all() and int(second[0].sum()) == int(0.6 * weight[0].numel())
    assert torch.equal(pruned(place, moved, second, 0.1), second), "never fewer"


def test_of_weights_that_are_all_zero_no_more_than_the_share_is_chosen() -> None:
    place = NativeModel(tiny()).naming.parse("layers.0.attn.o_proj.weight")
    assert pruned(place, torch.zeros(4, 5), None, 0.5).flatten().tolist() == [1] * 10 + [0] * 10


def test_matrices_of_layers_are_pruned_and_nothing_else() -> None:
    model = built(tiny(shared_expert_size=3, shared_expert_gate=True, qkv_bias=True, dense_layers=[0], dense_size=4))
    found = {name.partition(".")[2].partition(".")[2] for name in masks_of(model, 0.5)}
    attention = {f"attn.{m}_proj.weight" for m in "qkvo"}
    networks = {f"{n}.{m}" for n in ("mlp", "moe.shared") for m in ("gate_up.weight", "down.weight")}
    assert found == attention | networks | {"moe.experts.gate_up", "moe.experts.down"}


@settings(max_examples=25)
@given(configs(tie_embeddings=False), st.lists(WIDENINGS, max_size=2), st.booleans(), st.integers(0, 2**32))
def test_what_is_pruned_before_a_growth_is_pruned_after_it(
    config: MoEConfig, operators: list[Operator], deeper: bool, seed: int
) -> None:
    """Weights are zero where their source was, and nowhere else: that is what their masks say, too."""
    operators = [*operators, *([Interpose(2)] if deeper else []), WidenEachExpert(40, seed)]
    model = built(config, seed)
    masks = masks_of(model, 0.4)
    apply_masks(dict(model.named_parameters()), masks)
    plan = plan_growth(NativeModel(config), operators)
    after = dict(carried_out(plan, model).named_parameters())
    grown = grow_masks(plan, masks)
    naming = NativeModel(plan.after.config).naming  # type: ignore[attr-defined]
    assert grown.keys() <= {name for name, p in after.items() if is_prunable(naming.parse(name), p.shape)}
    assert grown.keys() == set(plan.parameters(masks)), "all of them, and their copies"
    for name, mask in grown.items():
        assert mask.dtype == torch.uint8 and torch.equal(mask == 1, after[name] == 0), name


def test_noise_on_copies_is_taken_back_by_their_masks() -> None:
    model = built(tiny())
    masks = masks_of(model, 0.5)
    apply_masks(dict(model.named_parameters()), masks)
    plan = plan_growth(NativeModel(model.config), [DuplicateExperts(2, noise=0.5)])
    after = dict(carried_out(plan, model).named_parameters())
    grown = grow_masks(plan, masks)
    name = "layers.0.moe.experts.down"
    assert (after[name] == 0).float().mean() < 0.4
    apply_masks(after, grown)
    assert torch.equal(after[name] == 0, grown[name] == 1) and grown[name].float().mean() >= 0.45


def test_what_has_no_source_or_is_drawn_anew_has_nothing_pruned() -> None:
    model = built(tiny())
    plan = plan_growth(NativeModel(model.config), [RandomLayers(2)])
    grown = grow_masks(plan, masks_of(model, 0.5))
    assert not grown["layers.1.moe.experts.down"].any() and grown["layers.0.moe.experts.down"].any()
    plan = plan_growth(NativeModel(model.config), [DuplicateExperts(2, redraw=0.5)])
    grown = grow_masks(plan, masks_of(model, 0.5))
    original, copy = grown["layers.0.moe.experts.down"][:2]
    assert (copy.sum(0) == 0).sum() >= 2 and copy.sum() < original.sum()
    dense = built(tiny(num_experts=0, dense_layers=[0, 1, 2], dense_size=6))
    grown = grow_masks(plan_growth(NativeModel(dense.config), [Upcycle(4, granularity=2)]), masks_of(dense, 0.5))
    assert "layers.0.moe.router.weight" not in grown and grown["layers.0.moe.experts.down"].any()


def test_between_two_layers_is_pruned_what_is_so_in_both() -> None:
    model = built(tiny())
    masks = masks_of(model, 0.5)
    name = "layers.{}.attn.o_proj.weight"
    grown = grow_masks(plan_growth(NativeModel(model.config), [Interpolate(0.25)]), masks)
    assert torch.equal(grown[name.format(1)], masks[name.format(0)] & masks[name.format(1)])


@pytest.mark.parametrize("operator", [WidenInner(factor=3), WidenEachExpert(9)], ids=str)
def test_masks_are_copied_and_never_scaled(operator: Operator) -> None:
    assert GRADIENT_POWER[KEY] == 0
    model = built(tiny())
    grown = grow_masks(plan_growth(NativeModel(model.config), [operator]), masks_of(model, 0.5))
    assert all(set(mask.unique().tolist()) == {0, 1} for mask in grown.values())
