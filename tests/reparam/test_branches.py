"""Branches of matrices: nothing changes when they come, one product a step, growth by the one rule, merged exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import assert_equal_to_rounding, built, configs, gradients, loss, tiny, tokens
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from lit_recycle.growth.engine import grow_tensors
from lit_recycle.growth.operators import DuplicateExperts, Interpose, Upcycle, WidenHeads, WidenHidden, WidenInner
from lit_recycle.growth.plan import plan_growth
from lit_recycle.hub.shape import parameter_names, shape_of
from lit_recycle.model.config import MoEConfig
from lit_recycle.model.transformer import MoETransformer, initial_value
from lit_recycle.reparam.model import BranchedModel
from lit_recycle.reparam.names import Part
from lit_recycle.training.module import LitMoE
from lit_recycle.training.muon import Muon

REPARAM: dict[str, Any] = {"pattern": ".", "branches": 3, "product_rank": 2}
CONFIG = tiny(dense_layers=[0], dense_size=5, shared_expert_size=6, num_heads=4, num_kv_heads=2, qkv_bias=True)


def branched(config: MoEConfig, **changes: Any) -> BranchedModel:
    shape = shape_of({**config.to_dict(), "reparam": {**REPARAM, **changes}})
    assert isinstance(shape, BranchedModel)
    return shape


def with_branches(shape: BranchedModel, seed: int = 0) -> MoETransformer:
    """A model in float64 of which no branch is special."""
    model, generator = shape.prepared(MoETransformer(shape.config)).double(), torch.Generator().manual_seed(seed)
    plain = built(shape.config, seed).state_dict()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name in plain:
                tensor.copy_(plain[name])
            elif (found := Part.of(name)) and found.part.startswith("0.scale"):
                tensor.copy_(1 + 0.3 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
            else:
                drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
                tensor.copy_(drawn * tensor.shape[-1] ** -0.5)
    return model


def logits(model: MoETransformer, text: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(text)[0]


def grown(shape: BranchedModel, model: MoETransformer, *operators: Any) -> tuple[Any, MoETransformer]:
    plan = plan_growth(shape, operators)
    assert isinstance(plan.after, BranchedModel)
    target = plan.after.prepared(MoETransformer(plan.after.config)).double()
    target.load_state_dict(dict(grow_tensors(plan, dict(model.state_dict()))))
    return plan, target


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_run_that_begins_with_branches_computes_what_the_plain_one_does(dtype: torch.dtype) -> None:
    torch.manual_seed(5)
    module = LitMoE(CONFIG, reparam=REPARAM)
    module.configure_model()
    assert isinstance(module.model, MoETransformer)
    plain = MoETransformer(CONFIG)
    plain.init_weights(5)
    text = tokens(CONFIG)
    assert torch.equal(logits(module.model.to(dtype), text), logits(plain.to(dtype), text))
    drawn = {n: t for n, t in module.model.named_parameters() if (p := Part.of(n)) and p.part.startswith("0.matrix")}
    assert drawn and all(tensor.std() > 0 for tensor in drawn.values()), "branches differ, and will part"


def test_every_branch_learns() -> None:
    model = with_branches(branched(CONFIG))
    for name, gradient in gradients(model, tokens(CONFIG)).items():
        assert gradient.abs().max() > 0, name


@settings(max_examples=40)
@given(configs(), st.integers(1, 3), st.integers(0, 3))
def test_merged_logits_are_those_of_the_model_in_training(config: MoEConfig, branches: int, rank: int) -> None:
    shape = branched(config, branches=branches + (not rank), product_rank=rank)
    model, merged = with_branches(shape), MoETransformer(config).double()
    merged.load_state_dict(shape.merged(model.state_dict()))
    assert_equal_to_rounding(logits(merged, tokens(config)), logits(model, tokens(config)))


def test_the_merged_weight_is_the_sum_of_scaled_branches() -> None:
    shape = branched(CONFIG)
    model = with_branches(shape)
    named, merged = model.state_dict(), shape.merged(model.state_dict())
    for matrix in ("layers.0.mlp.gate_up.weight", "layers.1.attn.o_proj.weight", "layers.2.moe.experts.down"):
        at = {part: named[Part(matrix, part).name] for part in shape.reparam.parts()}
        terms = [at["original"], at["0.matrix_1"], at["0.matrix_2"], at["0.left"] @ at["0.right"]]
        scales = [at["0.scale_0"], at["0.scale_1"], at["0.scale_2"], at["0.scale_product"]]
        expected = sum(s[..., None] * w for s, w in zip(scales, terms, strict=True))
        assert_equal_to_rounding(merged[matrix], expected)


def test_a_step_costs_one_product_whatever_the_number_of_branches() -> None:
    config, counted = tiny(num_experts=0, dense_layers=[0, 1, 2], dense_size=5), []
    text = tokens(config, batch=4)
    for model in (built(config), *(with_branches(branched(config, branches=n, product_rank=0)) for n in (2, 6))):
        with FlopCounterMode(display=False) as counter:
            loss(model, text).backward()
        counted.append(counter.get_total_flops())
    assert counted[0] > 0 and len(set(counted)) == 1, counted


# --- growth ----------------------------------------------------------------------------------------------------------

WIDENINGS = [
    [DuplicateExperts(2, noise=0.0)],
    [WidenHidden(2)],
    [WidenHeads(2)],
    [WidenInner("experts", size=7), WidenInner("dense", size=8), WidenInner("shared")],
    [WidenHidden(2, symmetry_break=0.2), DuplicateExperts(3, noise=0.0), WidenHeads(2, kv_heads=False)],
]


@pytest.mark.parametrize("operators", WIDENINGS, ids=lambda ops: "+".join(type(op).__name__ for op in ops))
def test_widened_branches_compute_the_same_and_share_gradients_by_the_one_rule(operators: list[Any]) -> None:
    from growth.test_widths import expected_gradient

    shape, text = branched(CONFIG), tokens(CONFIG)
    model = with_branches(shape)
    plan, larger = grown(shape, model, *operators)
    assert plan.preserves and plan.after.reparam == shape.reparam
    assert_equal_to_rounding(logits(larger, text), logits(model, text))
    if any(getattr(op, "symmetry_break", 0) for op in operators):
        return
    before, after = gradients(model, text), gradients(larger, text)
    scale = max(gradient.abs().max() for gradient in before.values())
    for name, gradient in before.items():
        assert_equal_to_rounding(after[name], expected_gradient(plan, name, gradient), scale)


def test_noise_on_copied_experts_is_drawn_for_each_branch() -> None:
    shape = branched(CONFIG)
    model = with_branches(shape)
    _, quiet = grown(shape, model, DuplicateExperts(2, noise=0.0))
    _, noisy = grown(shape, model, DuplicateExperts(2, noise=0.1))
    before, after = quiet.state_dict(), noisy.state_dict()
    drawn = []
    for part in ("original", "0.matrix_1", "0.left"):
        name = Part("layers.1.moe.experts.down", part).name
        difference = after[name] - before[name]
        assert torch.equal(difference[::2], torch.zeros_like(difference[::2])), "originals stay"
        drawn.append((difference / before[name].std())[1].flatten()[:4])
        assert (difference[1::2] != 0).all()
    assert not torch.allclose(drawn[0], drawn[1], rtol=0.5), "the same noise on each branch"


def test_copied_layers_without_an_output_compute_nothing_and_learn() -> None:
    shape, text = branched(CONFIG), tokens(CONFIG)
    torch.manual_seed(5)
    module = LitMoE(CONFIG, reparam=REPARAM)  # at the very start, when scales of branches are zero as well
    module.configure_model()
    assert isinstance(module.model, MoETransformer)
    model = module.model.double()
    _, deeper = grown(shape, model, Interpose(2, zero_output=True))
    assert torch.equal(logits(deeper, text), logits(model, text))
    found = gradients(deeper, text)
    for part in ("0.scale_0", "0.scale_1", "0.scale_product"):
        assert found[Part("layers.1.attn.o_proj.weight", part).name].abs().max() > 0, "the way back is open"


def test_networks_of_branches_do_not_become_experts() -> None:
    dense = tiny(num_experts=0, dense_layers=[0, 1, 2], dense_size=6)
    with pytest.raises(ValueError, match="merge-branches"):
        plan_growth(branched(dense), [Upcycle(4)])
    plan = plan_growth(branched(dense, pattern="attn"), [Upcycle(4)])
    assert isinstance(plan.after, BranchedModel) and plan.after.config.num_experts == 4


# --- what else goes by names and axes --------------------------------------------------------------------------------


def test_every_tensor_of_a_branched_model_has_axes_of_its_shape() -> None:
    shape = branched(CONFIG)
    for name, tensor in shape.prepared(MoETransformer(CONFIG)).named_parameters():
        axes = shape.naming.parse(name).axes
        assert axes.known and len(axes.dimensions) == tensor.dim(), name
    names = dict(shape.prepared(MoETransformer(CONFIG)).named_parameters(prefix="model"))
    assert parameter_names(shape) == list(names)


def test_scales_of_experts_are_vectors_for_the_optimizer() -> None:
    module = LitMoE(CONFIG, reparam=REPARAM)
    module.build()
    optimizer = module.make_optimizer(module.named_parameters(), {})
    groups = {group["name"]: group for group in optimizer.param_groups}
    scales = [name for name, _ in module.named_parameters() if ".0.scale_" in name]
    assert any("experts" in name for name in scales)
    assert set(scales) <= set(groups["vectors"]["param_names"]) and groups["vectors"]["weight_decay"] == 0
    module = LitMoE(CONFIG, reparam=REPARAM, optimizer=lambda params: Muon(params, lr=0.01))
    module.build()
    muon = {group["name"]: group for group in module.make_optimizer(module.named_parameters(), {}).param_groups}
    assert any(".0.left" in name for name in muon["matrices/muon"]["param_names"])


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, "needs a pattern"),
        ({"pattern": "("}, "no regular expression"),
        ({"pattern": "attn", "branches": 0}, "branches must be a whole number of at least 1"),
        ({"pattern": "attn", "branches": 1}, "changes nothing"),
        ({"pattern": "attn", "product_rank": -1}, "product_rank must be"),
        ({"pattern": "attn", "rank": 3}, "has no key rank"),
        ({"pattern": "mlp"}, "chooses no matrix of this model: it is looked for in attn.q_proj.weight"),
        ({"pattern": "embed|norm"}, "chooses no matrix"),
    ],
)
def test_what_cannot_be_meant_is_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        LitMoE(tiny(), reparam=values)


def test_the_values_of_branches_do_not_depend_on_the_order_of_modules() -> None:
    shape = branched(CONFIG)
    name, size = Part("layers.1.attn.q_proj.weight", "0.matrix_1").name, torch.Size((8, 8))

    def plain(own: str, of: torch.Size) -> torch.Tensor:
        return initial_value(CONFIG, own, of, 3)

    first = shape.initial_value(name, size, plain, 3)
    assert torch.equal(first, shape.initial_value(name, size, plain, 3))
    assert not torch.equal(first, shape.initial_value(name.replace("matrix_1", "matrix_2"), size, plain, 3))
    assert not torch.equal(first, shape.initial_value(name.replace(".1.", ".2."), size, plain, 3))
