"""Memory of a training step: what is kept for the backward pass, worked out from the config. No torch."""

from __future__ import annotations

from lit_recycle.model.config import MoEConfig

INDEX = 8
"""Bytes of a token's or a row's number."""


def activation_bytes(config: MoEConfig, tokens: int, precision: str = "32-true", checkpointing: bool = False) -> int:
    """Bytes that a forward pass keeps for the backward pass, at the moment when they are most.

    Rows that pad the experts' products are not counted.

    Args:
        config: The model.
        tokens: Tokens of the micro-batch of one process.
        precision: As `trainer.precision`: mixed ones keep the residual stream in float32.
        checkpointing: Whether blocks are computed again in the backward pass; then one of them is held at a time.
    """
    residual, product = _widths(precision)
    layers = [_block(config, config.is_dense(i), residual, product) for i in range(config.num_layers)]
    blocks = sum(layers)
    if checkpointing:
        blocks = config.num_layers * config.hidden_size * residual + max(layers)
    ends = 2 * config.hidden_size * residual + INDEX  # the last norm's input, the gradient that the loss has computed
    return tokens * (blocks + ends)


def working_bytes(config: MoEConfig, tokens: int, precision: str = "32-true") -> int:
    """Bytes of the gradients of activations, which live while a block is gone back through: about what it has kept."""
    return tokens * max(_block(config, config.is_dense(i), *_widths(precision)) for i in range(config.num_layers))


def _widths(precision: str) -> tuple[int, int]:
    """Bytes of a number in the residual stream, and in products."""
    product = 2 if "16" in precision else 4
    return 4 if "mixed" in precision else product, product


def _block(config: MoEConfig, is_dense: bool, residual: int, product: int) -> int:
    """Of one block, for a token."""
    hidden = config.hidden_size
    norms = 2 * (hidden * residual + 4)  # their inputs, and a scale for each
    inputs = 2 * hidden * product  # of attention and of the feed-forward network
    if is_dense:
        return norms + inputs + _attention(config, product) + 4 * config.dense_size * product
    routed = config.top_k * ((2 * config.expert_size + 1) * product + 2 * INDEX)
    router = 2 * config.num_experts * 4 + config.top_k * (INDEX + 4) + (0 if product == 4 else hidden * 4)
    shared = 4 * config.shared_expert_size * product
    shared += (hidden + 1) * product if config.shared_expert_gate else 0
    return norms + inputs + _attention(config, product) + router + routed + shared


def _attention(config: MoEConfig, product: int) -> int:
    """Queries, keys, values and output of one token, with what norms of queries and keys keep."""
    assert config.num_kv_heads is not None and config.head_dim is not None
    width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    kept = 2 * width + 2 * kv_width
    kept += 0 if config.qk_norm == "none" else width + kv_width
    scales = {"none": 0, "head": config.num_heads + config.num_kv_heads, "full": 2}[config.qk_norm]
    return kept * product + (scales + config.num_heads) * 4
