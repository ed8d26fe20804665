"""Predicted memory of activations, against what torch keeps for the backward pass of a real step."""

import pytest
import torch
from helpers import tiny

from lit_recycle.commands.plan_device import memory
from lit_recycle.data.pace import Step
from lit_recycle.growth.ledger import Ledger
from lit_recycle.growth.native import NativeModel
from lit_recycle.model.config import MoEConfig
from lit_recycle.model.memory import activation_bytes
from lit_recycle.model.transformer import MoETransformer

WIDE = dict(vocab_size=64, hidden_size=64, num_layers=3, num_heads=8, num_kv_heads=2, num_experts=8, expert_size=48)


def kept(config: MoEConfig, samples: int, length: int) -> int:
    """Bytes of all memory that autograd keeps, without parameters."""
    model = MoETransformer(config)
    model.init_weights(seed=0)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage  # held, so that its place is not given to another one
        return tensor

    tokens_BS = torch.randint(config.vocab_size, (samples, length), generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(tokens_BS, labels_BS=tokens_BS)
    gradient = config.vocab_size * config.hidden_size * 4  # of the output layer, which the loss has computed
    return sum(storage.nbytes() for storage in found.values()) - gradient


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"qk_norm": "head", "top_k": 4, "router_score": "sigmoid"},
        {"qk_norm": "full", "shared_expert_size": 96},
        {"dense_layers": (0,), "dense_size": 160, "qkv_bias": True},
    ],
    ids=str,
)
def test_activations_are_those_that_torch_keeps(changes: dict) -> None:
    config = MoEConfig(**{**WIDE, "top_k": 2, **changes})
    measured = kept(config, samples=4, length=64)
    assert activation_bytes(config, 4 * 64) == pytest.approx(measured, rel=0.03)


def test_recomputed_blocks_keep_their_inputs() -> None:
    one, eight = (activation_bytes(tiny(num_layers=n), 100, checkpointing=True) for n in (1, 8))
    assert eight - one == 7 * 100 * tiny().hidden_size * 4
    assert one > activation_bytes(tiny(num_layers=1), 100)


@pytest.mark.parametrize("samples", [1, 24], ids=["mostly weights", "mostly activations"])
def test_a_step_holds_what_a_plan_says(samples: int) -> None:
    config = MoEConfig(**{**WIDE, "top_k": 2, "num_layers": 8})
    tokens_BS = torch.randint(config.vocab_size, (samples, 64), generator=torch.Generator().manual_seed(0))
    with Ledger() as ledger:
        model = MoETransformer(config)
        model.init_weights(seed=0)
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        for _ in range(2):
            ledger.reset_peak()
            model(tokens_BS, labels_BS=tokens_BS)[0].backward()
            optimizer.step()
            optimizer.zero_grad()
    step = Step(seq_len=64, rows=samples, accumulate=1, tokens=samples * 64)
    planned = memory(NativeModel(config), step, 4, "32-true", False)
    assert ledger.held == pytest.approx(planned["weight_bytes"] + planned["optimizer_bytes"], rel=0.01)
    assert ledger.peak == pytest.approx(planned["peak_bytes"], rel=0.1)
