"""The decoder-only Mixture-of-Experts transformer.

Axes: B batch, S positions, D hidden size, V vocabulary, E experts; stacked routing has a leading axis L (MoE layers).
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import checkpoint

from lit_recycle.model.attention import Attention, KeyValues, RMSNorm, rotary_angles
from lit_recycle.model.config import MoEConfig
from lit_recycle.model.experts import MoE, Router, Routing, SwiGLU

Cache = list[KeyValues]
"""Keys and values of the past positions, layer by layer; empty before the first position."""


class Block(nn.Module):
    """Pre-norm attention and feed-forward network, each added to the residual stream."""

    def __init__(self, config: MoEConfig, layer: int) -> None:
        super().__init__()
        self.attn_norm = RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.attn = Attention(config)
        self.ffn_norm = RMSNorm(config.hidden_size, eps=config.norm_eps)
        if config.is_dense(layer):
            self.mlp = SwiGLU(config.hidden_size, config.dense_size)
        else:
            self.moe = MoE(config)

    def forward(
        self, x_BSD: Tensor, angles: Tensor, past: KeyValues | None = None
    ) -> tuple[Tensor, KeyValues, Routing | None]:
        attended, key_values = self.attn(self.attn_norm(x_BSD), angles, past)
        x_BSD = x_BSD + attended
        if hasattr(self, "mlp"):
            return x_BSD + self.mlp(self.ffn_norm(x_BSD)), key_values, None
        y_BSD, routing = self.moe(self.ffn_norm(x_BSD))
        return x_BSD + y_BSD, key_values, routing


class MoETransformer(nn.Module):
    """Decoder-only transformer whose layers have routed experts.

    Args:
        config: The shape.
        activation_checkpointing: Keep only the inputs of each block and recompute the rest in the backward pass.
    """

    def __init__(self, config: MoEConfig, activation_checkpointing: bool = False) -> None:
        super().__init__()
        self.config = config
        self.activation_checkpointing = activation_checkpointing
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, i) for i in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.tie_weights()

    def tie_weights(self) -> None:
        """Make the output layer the embedding matrix, where configured; again after weights were assigned."""
        if self.config.tie_embeddings:
            self.lm_head.weight = self.embed.weight

    def forward(self, tokens_BS: Tensor, cache: Cache | None = None) -> tuple[Tensor, Routing | None]:
        """Logits ``[B, S, V]`` of the next token, and the routing stacked over MoE layers (None without any).

        With a ``cache`` the positions follow those in it, and the cache is extended in place.
        """
        start = cache[0][0].shape[2] if cache else 0  # known before the first block puts its own keys in
        angles = rotary_angles(self.config, start, tokens_BS.shape[1], tokens_BS.device)
        x_BSD = self.embed(tokens_BS)
        routings: list[Routing] = []
        for i, block in enumerate(self.layers):
            past = cache[i] if start else None
            if self.activation_checkpointing and self.training:
                x_BSD, key_values, routing = checkpoint(block, x_BSD, angles, past, use_reentrant=False)
            else:
                x_BSD, key_values, routing = block(x_BSD, angles, past)
            if cache is not None:
                cache[i : i + 1] = [key_values]
            if routing is not None:
                routings.append(routing)
        stacked = Routing(*map(torch.stack, zip(*routings, strict=True))) if routings else None
        return self.lm_head(self.norm(x_BSD)), stacked

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Draw every matrix from N(0, init_std²), output projections scaled by 1/√(2L) (Radford et al. 2019).

        Each tensor has a generator of its own, seeded by ``seed`` and the tensor's name, so that the weights do not
        depend on the number of processes or on the order of the modules.
        """
        for name, param in self.named_parameters():
            if param.dim() == 1:
                param.fill_(0.0 if name.endswith("bias") else 1.0)
                continue
            std = self.config.init_std
            if name.endswith(("o_proj.weight", "down.weight", "experts.down")):
                std /= (2 * self.config.num_layers) ** 0.5
            full = torch.empty(param.shape, dtype=torch.float32).normal_(0.0, std, generator=_generator(seed, name))
            if isinstance(param, DTensor):
                full = distribute_tensor(full.to(param.device), param.device_mesh, param.placements, src_data_rank=None)
            param.copy_(full)
        for router in self.routers():
            if router.balance_bias is not None:
                router.balance_bias.zero_()

    def routers(self) -> list[Router]:
        """The routers of the MoE layers, in order: row i of stacked routing belongs to router i."""
        return [module for module in self.modules() if isinstance(module, Router)]


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
