"""Counts that follow from a config, against the built model, counted FLOPs and the paper's figures."""

import json
from unittest.mock import patch

import pytest
import torch
from helpers import built, configs, loss, plan_of, tiny, tokens
from hypothesis import given, settings
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lit_recycle.growth.event import Depth, Width
from lit_recycle.growth.shape import chinchilla_flops
from lit_recycle.model.config import MoEConfig
from lit_recycle.model.kernels import grouped
from lit_recycle.model.transformer import MoETransformer

PAPER = MoEConfig(
    vocab_size=200_000,
    hidden_size=2048,
    num_layers=28,
    num_heads=16,
    num_kv_heads=4,
    head_dim=128,
    num_experts=96,
    top_k=6,
    expert_size=1024,
)


@settings(max_examples=100)
@given(configs())
def test_parameters_are_those_of_the_built_model(config):
    with torch.device("meta"):
        model = MoETransformer(config)
    total = routed = 0
    for name, parameter in model.named_parameters():
        total += parameter.numel()
        routed += parameter.numel() if ".experts." in name else 0
    assert config.num_params() == total
    assert config.num_active_params() == total - routed + routed * config.top_k // config.num_experts


@given(configs())
def test_flops_are_those_of_a_training_step(config):
    model, (batch, length) = built(config), (2, 5)
    text = tokens(config, batch, length + 1)
    # The plain attention kernel in float64, and experts one by one, without padding: products that the counter knows.
    one_by_one = patch.multiple(grouped, WASTE=0.0, SLACK=0)
    with one_by_one, FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        loss(model, text).backward()
    assert config.num_flops_per_token(length) * batch * length == counter.get_total_flops()


def test_the_figures_of_the_paper():
    deep = plan_of(PAPER, Depth()).after.config
    wide = plan_of(deep, None, Width()).after.config
    figures = [(c.num_params() / 1e9, c.num_active_params() / 1e9) for c in (PAPER, deep, wide)]
    assert [(round(total, 2), round(active, 2)) for total, active in figures] == [
        (18.03, 2.18),
        (35.24, 3.53),
        (69.07, 5.66),
    ]


def test_flops_by_hand():
    """6 per weight of a matrix product, and attention's 12·L·H·P·S."""
    config = MoEConfig(
        vocab_size=10, hidden_size=4, num_layers=1, num_heads=2, num_experts=3, top_k=1, expert_size=5, qkv_bias=True
    )
    attention, router, expert, head = 4 * 4 * 4, 3 * 4, 3 * 4 * 5, 10 * 4
    assert config.num_flops_per_token(7) == 6 * (attention + router + expert + head) + 12 * 1 * 2 * 2 * 7


def test_chinchilla_flops_are_120_times_the_square_of_active_parameters():
    assert chinchilla_flops(PAPER) == 120 * PAPER.num_active_params() ** 2


def test_defaults_that_depend_on_other_keys():
    config = MoEConfig(hidden_size=24, num_heads=6)
    assert (config.num_kv_heads, config.head_dim) == (6, 4)
    assert MoEConfig(hidden_size=25, num_heads=6, head_dim=8).head_dim == 8


def test_dense_layers_are_sorted_and_single():
    config = tiny(dense_layers=[2, 0, 2], dense_size=4)
    assert config.dense_layers == (0, 2)
    assert config.num_moe_layers == 1
    assert [config.is_dense(i) for i in range(3)] == [True, False, True]


@given(configs())
def test_a_config_survives_being_written_down(config):
    assert MoEConfig.from_dict(config.to_dict()) == config
    assert MoEConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"vocab_size": 0}, ["vocab_size", "0"]),
        ({"hidden_size": 0, "head_dim": 4}, ["hidden_size"]),
        ({"num_layers": 0}, ["num_layers"]),
        ({"num_heads": 0}, ["num_heads"]),
        ({"num_heads": 0, "head_dim": 4}, ["num_heads"]),
        ({"num_kv_heads": 0}, ["num_kv_heads"]),
        ({"head_dim": 0}, ["head_dim"]),
        ({"head_dim": 5}, ["head_dim", "5", "even"]),
        ({"hidden_size": 9}, ["hidden_size 9", "num_heads 2", "head_dim"]),
        ({"num_heads": 4, "num_kv_heads": 3}, ["num_heads 4", "num_kv_heads 3"]),
        ({"dense_layers": [3], "dense_size": 4}, ["dense_layers", "[3]", "0..2"]),
        ({"dense_layers": [-1], "dense_size": 4}, ["dense_layers"]),
        ({"dense_layers": [0]}, ["dense_size"]),
        ({"dense_size": 4}, ["dense_size 4", "dense_layers"]),
        ({"vocab_size": None}, ["vocab_size", "null", "512"]),
        ({"dense_layers": None}, ["dense_layers", "null"]),
        ({"num_experts": 0, "top_k": 0}, ["num_experts"]),
        ({"top_k": 0}, ["top_k", "1..3", "num_experts"]),
        ({"top_k": 4}, ["top_k 4", "1..3", "num_experts"]),
        ({"expert_size": 0}, ["expert_size"]),
        ({"shared_expert_size": -1}, ["shared_expert_size"]),
        ({"shared_expert_gate": True}, ["shared_expert_gate", "shared_expert_size"]),
        ({"router_score": "tanh"}, ["router_score", "softmax", "sigmoid", "'tanh'"]),
        ({"qk_norm": "l2"}, ["qk_norm", "none", "head", "full", "'l2'"]),
    ],
    ids=str,
)
def test_errors_name_the_key(changes, keys):
    with pytest.raises(ValueError) as error:
        tiny(**changes)
    assert all(key in str(error.value) for key in keys), error.value


def test_unknown_keys_are_refused():
    with pytest.raises(ValueError, match="unknown model config keys: num_expert, topk"):
        MoEConfig.from_dict({"topk": 2, "num_expert": 3, "num_layers": 2})


def test_a_model_of_dense_layers_alone_needs_no_experts():
    config = tiny(dense_layers=[0, 1, 2], dense_size=4, num_experts=0, top_k=0)
    assert config.num_params() == config.num_active_params()
