"""Scaled and partial rotary positions against the formulas of transformers, over random parameters."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from helpers import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from lit_recycle.model.config import MoEConfig
from lit_recycle.model.rope_scaling import RopeScaling
from lit_recycle.model.rotary import frequencies, rotate, rotation_of

KINDS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "linear": st.just({}),
    "llama3": st.fixed_dictionaries(
        {"low_freq_factor": st.floats(0.5, 2.0), "high_freq_factor": st.floats(2.5, 8.0)},
    ),
    "yarn": st.fixed_dictionaries(
        {"beta_slow": st.floats(0.5, 2.0), "beta_fast": st.floats(4.0, 64.0), "truncate": st.booleans()},
        optional={"attention_factor": st.floats(0.5, 2.0)},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_frequencies_are_those_of_transformers(kind: str, data: st.DataObject) -> None:
    own = {} if kind == "linear" else {"original_max_position_embeddings": data.draw(st.integers(16, 10_000))}
    scaling = {"rope_type": kind, "factor": data.draw(st.floats(1.0, 64.0)), **own, **data.draw(KINDS[kind])}
    shape = {"head_dim": 2 * data.draw(st.integers(2, 32)), "rope_theta": data.draw(st.floats(100.0, 1e6))}
    theirs = LlamaConfig(
        head_dim=shape["head_dim"], rope_parameters=scaling | {"rope_theta": shape["rope_theta"]}, **_length(scaling)
    )
    expected, magnitude = ROPE_INIT_FUNCTIONS[kind](theirs)
    config = tiny(**shape, rope_scaling=RopeScaling(**scaling))
    torch.testing.assert_close(frequencies(config), expected, rtol=2e-5, atol=1e-9)
    assert config.rope_scaling is not None and config.rope_scaling.magnitude == pytest.approx(magnitude, rel=1e-12)


def _length(scaling: dict[str, Any]) -> dict[str, int]:
    original = scaling.get("original_max_position_embeddings", 64)
    return {"max_position_embeddings": int(original * scaling["factor"]) + 1}


def test_only_the_beginning_of_a_head_is_rotated() -> None:
    config = tiny(head_dim=8, rope_fraction=0.5)
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = rotate(x, rotation_of(config, torch.arange(5)))
    assert torch.equal(found[..., 4:], x[..., 4:])
    alone = rotate(x[..., :4].contiguous(), rotation_of(tiny(head_dim=4), torch.arange(5)))
    assert torch.equal(found[..., :4], alone) and not torch.equal(alone, x[..., :4])


@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_the_gradient_is_that_of_the_function(fraction: float) -> None:
    yarn = RopeScaling("yarn", 4.0, 16)
    rotation = rotation_of(tiny(head_dim=8, rope_fraction=fraction, rope_scaling=yarn), torch.arange(1, 4))
    assert yarn.magnitude > 1.1
    x = torch.randn(2, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda x: rotate(x, rotation), x.requires_grad_())


def test_the_config_goes_through_plain_types() -> None:
    config = tiny(head_dim=8, rope_fraction=0.5, rope_scaling=RopeScaling("llama3", 8.0, 64))
    values = config.to_dict()
    assert type(values["rope_scaling"]) is dict and MoEConfig.from_dict(values) == config
    assert dataclasses.is_dataclass(MoEConfig.from_dict(values).rope_scaling)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"rope_type": "dynamic", "factor": 2.0}, "rope_type must be one of linear, llama3, yarn, got 'dynamic'"),
        ({"rope_type": "linear", "factor": 0.0}, "factor must be a positive number, got 0"),
        ({"rope_type": "llama3", "factor": 8.0}, "llama3 needs original_max_position_embeddings"),
        (
            {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, "beta_slow": 40.0},
            "beta_slow must be smaller than beta_fast, got 40",
        ),
    ],
)
def test_bad_scalings(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        tiny(rope_scaling=values)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rope_fraction": 0.0}, "rope_fraction must lie in 0..1, got 0"),
        ({"head_dim": 6, "rope_fraction": 0.5}, "head_dim 6, of which rope_fraction 0.5 is rotated, must be even"),
        ({"rope_theta": 1.0, "rope_scaling": RopeScaling("yarn", 2.0, 64)}, "yarn needs rope_theta above 1"),
    ],
)
def test_bad_shapes(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        tiny(**changes)
