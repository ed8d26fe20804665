"""Small random models, and growth of one from end to end; shared by the tests of the model and of growth."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

from lit_recycle.growth.engine import grow_tensors
from lit_recycle.growth.event import Depth, Width
from lit_recycle.growth.measure import weight_facts
from lit_recycle.growth.native import NativeModel
from lit_recycle.growth.operator import Operator
from lit_recycle.growth.plan import GrowthPlan, plan_growth
from lit_recycle.model.config import MoEConfig
from lit_recycle.model.transformer import MoETransformer

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def tiny(**changes: Any) -> MoEConfig:
    """Three layers of three experts, so that a mix-up of layers and experts finds an index of the other kind."""
    sizes = dict(vocab_size=13, hidden_size=8, num_layers=3, num_heads=2, num_experts=3, top_k=2, expert_size=4)
    return MoEConfig(**{**sizes, **changes})


@st.composite
def configs(draw: st.DrawFn, **fixed: Any) -> MoEConfig:
    """Any kind of model, small, with as many experts as layers."""
    size = draw(st.integers(2, 4), "layers and experts")
    kv_heads = draw(st.integers(1, 2), "key and value heads")
    dense = fixed.get("dense_layers", draw(st.sets(st.integers(0, size - 1), max_size=size - 1), "dense layers"))
    shared = draw(st.sampled_from((0, 3, 6)), "shared expert")
    drawn = dict(
        vocab_size=draw(st.integers(5, 20), "vocabulary"),
        hidden_size=draw(st.integers(3, 9), "hidden size"),
        num_layers=size,
        num_heads=kv_heads * draw(st.integers(1, 3), "query heads per key head"),
        num_kv_heads=kv_heads,
        head_dim=2 * draw(st.integers(1, 3), "half of head_dim"),
        num_experts=size,
        top_k=draw(st.integers(1, size), "top_k"),
        expert_size=draw(st.integers(1, 6), "expert size"),
        shared_expert_size=shared,
        shared_expert_gate=bool(shared) and draw(st.booleans(), "gate"),
        dense_layers=tuple(dense),
        dense_size=draw(st.integers(1, 6), "dense size") if dense else 0,
        router_score=draw(st.sampled_from(("softmax", "sigmoid")), "score"),
        normalize_top_k=draw(st.booleans(), "normalize"),
        routed_scaling=draw(st.sampled_from((1.0, 2.5)), "scaling"),
        balance_bias=draw(st.booleans(), "balance bias"),
        qk_norm=draw(st.sampled_from(("none", "head", "full")), "qk_norm"),
        qkv_bias=draw(st.booleans(), "qkv bias"),
        tie_embeddings=draw(st.booleans(), "tied"),
    )
    return MoEConfig(**{**drawn, **fixed})


def built(config: MoEConfig, seed: int = 0, dtype: torch.dtype = torch.float64) -> MoETransformer:
    """A model in which no tensor is special: norms differ from one, biases and balancing biases from zero."""
    model = MoETransformer(config).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.copy_(drawn * (0.1 if tensor.dim() == 1 else tensor.shape[-1] ** -0.5))
            if tensor.dim() == 1:
                tensor.add_(1.0)
        for router in model.routers():
            if router.balance_bias is not None:
                router.balance_bias.sub_(1.0)
    return model


def plan_of(
    config: MoEConfig, depth: Depth | None = None, width: Width | None = None, seed: int = 0, event: int = 0
) -> GrowthPlan:
    """The plan of the short forms."""
    return plan_growth(
        NativeModel(config), [short.operator for short in (depth, width) if short], seed=seed, event=event
    )


def grown(
    model: MoETransformer, depth: Depth | None = None, width: Width | None = None, seed: int = 0, event: int = 0
) -> MoETransformer:
    """The grown model, in tensors of its own."""
    return carried_out(plan_of(model.config, depth, width, seed, event), model)


def grown_by(model: MoETransformer, *operators: Operator, seed: int = 0, event: int = 0) -> MoETransformer:
    """The model after operators, in tensors of its own."""
    plan = plan_growth(
        NativeModel(model.config),
        operators,
        seed=seed,
        event=event,
        facts=lambda _: weight_facts(NativeModel(model.config), model.state_dict()),
    )
    return carried_out(plan, model)


def carried_out(plan: GrowthPlan, model: MoETransformer) -> MoETransformer:
    target = MoETransformer(plan.after.config).to(model.embed.weight.dtype)
    target.load_state_dict(dict(grow_tensors(plan, dict(model.state_dict()))))
    return target


def tokens(config: MoEConfig, batch: int = 2, length: int = 7, seed: int = 0) -> Tensor:
    return torch.randint(config.vocab_size, (batch, length), generator=torch.Generator().manual_seed(seed))


def loss(model: MoETransformer, tokens_BS: Tensor) -> Tensor:
    """Cross-entropy of the next tokens."""
    logits, _ = model(tokens_BS[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), tokens_BS[:, 1:].flatten())


def gradients(model: MoETransformer, tokens_BS: Tensor) -> dict[str, Tensor]:
    """Gradients of the loss by parameter name."""
    named = dict(model.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss(model, tokens_BS), list(named.values())), strict=True))


def assert_equal_to_rounding(actual: Tensor, expected: Tensor, scale: float | Tensor | None = None) -> None:
    """Equal to 1e-12 of the greatest element, or of ``scale``."""
    scale = expected.abs().max() if scale is None else scale
    assert actual.shape == expected.shape
    error = (actual - expected).abs().max()
    assert error <= 1e-12 * scale, f"differs by {error:.1e} at a scale of {float(scale):.1e}"


def assert_same_tensors(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """The same names in the same order with bit for bit the same values."""
    assert list(actual) == list(expected)
    for name, tensor in expected.items():
        assert tensor.dtype == actual[name].dtype and torch.equal(actual[name], tensor), name
