"""The decoder-only Mixture-of-Experts transformer.

Axes: B batch, S positions, D hidden size, V vocabulary, E experts; stacked routing has a leading axis L (MoE layers).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

from lit_recycle.model.attention import Attention, KeyValues
from lit_recycle.model.config import MoEConfig
from lit_recycle.model.documents import DocumentMask, document_mask, positions_in_documents
from lit_recycle.model.experts import MoE, Router, Routing, SwiGLU
from lit_recycle.model.kernels.autocast import in_product_type
from lit_recycle.model.loss import next_token_loss
from lit_recycle.model.norm import RMSNorm
from lit_recycle.model.rotary import Rotation, rotation_of
from lit_recycle.seeding import generator_of

Cache = list[KeyValues]
"""Keys and values of the past positions, layer by layer; empty before the first position."""


class Block(nn.Module):
    """Pre-norm attention and feed-forward network, each added to the residual stream.

    With ``checkpointing`` only the inputs are kept for the backward pass, and the rest is computed again.
    """

    def __init__(self, config: MoEConfig, layer: int, checkpointing: bool = False) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.attn_norm = RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.attn = Attention(config)
        self.ffn_norm = RMSNorm(config.hidden_size, eps=config.norm_eps)
        if config.is_dense(layer):
            self.mlp = SwiGLU(config.hidden_size, config.dense_size)
        else:
            self.moe = MoE(config)

    @override
    def compile(self, *args: Any, **kwargs: Any) -> None:
        """``torch.compile`` what is computed; the hooks of wrappers and checkpointing stay outside."""
        self._forward = torch.compile(self._forward, *args, **kwargs)  # type: ignore[method-assign]

    def forward(
        self,
        x_BSD: Tensor,
        rotation: Rotation,
        past: KeyValues | None = None,
        documents: DocumentMask | None = None,
    ) -> tuple[Tensor, KeyValues, Routing | None]:
        if self.checkpointing and self.training:
            return checkpoint(self._forward, x_BSD, rotation, past, documents, use_reentrant=False)
        return self._forward(x_BSD, rotation, past, documents)

    def _forward(
        self, x_BSD: Tensor, rotation: Rotation, past: KeyValues | None, documents: DocumentMask | None
    ) -> tuple[Tensor, KeyValues, Routing | None]:
        attended, key_values = self.attn(self.attn_norm(x_BSD), rotation, past, documents)
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
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, i, activation_checkpointing) for i in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.tie_weights()

    def tie_weights(self) -> None:
        """Make the output layer the embedding matrix, where configured; again after weights were assigned."""
        if self.config.tie_embeddings:
            self.lm_head.weight = self.embed.weight

    def forward(
        self,
        tokens_BS: Tensor,
        cache: Cache | None = None,
        labels_BS: Tensor | None = None,
        documents_BS: Tensor | None = None,
    ) -> tuple[Tensor, Routing | None]:
        """Logits ``[B, S, V]`` of the next token, and the routing stacked over MoE layers (None without any).

        With a ``cache`` the positions follow those in it, the cache is extended in place, and only the last position
        has logits, ``[B, 1, V]``. With labels, the tokens
        that do come next, it is their mean cross-entropy in nats instead of logits, which are then never held whole;
        the output layer's weight is used without calling the layer. Labels of -100 are left out. With the numbers of
        the documents that the positions are in, which never fall, each document is as if it were alone.
        """
        assert cache is None or documents_BS is None, "a cache is of one document"
        start = cache[0][0].shape[2] if cache else 0  # known before the first block puts its own keys in
        x_BSD, documents = self.embed(tokens_BS), None
        if documents_BS is None:
            rotation = rotation_of(self.config, torch.arange(start, start + tokens_BS.shape[1], device=x_BSD.device))
        else:
            rotation = rotation_of(self.config, positions_in_documents(documents_BS).unsqueeze(1))
            documents = document_mask(documents_BS, in_product_type(x_BSD[:0]).dtype)
        routings: list[Routing] = []
        for i, block in enumerate(self.layers):
            past = cache[i] if cache and start else None
            x_BSD, key_values, routing = block(x_BSD, rotation, past, documents)
            if cache is not None:
                cache[i : i + 1] = [key_values]
            if routing is not None:
                routings.append(routing)
        stacked = Routing(*map(torch.stack, zip(*routings, strict=True))) if routings else None
        x_BSD = self.norm(x_BSD)
        if labels_BS is None:
            return self.lm_head(x_BSD if cache is None else x_BSD[:, -1:]), stacked
        return next_token_loss(x_BSD.flatten(0, 1), self.lm_head.weight, labels_BS.flatten()), stacked

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Draw every parameter; see :func:`initial_value`."""
        for name, tensor in (*self.named_parameters(), *self.named_buffers()):
            tensor.copy_(initial_value(self.config, name, tensor.shape, seed))

    def routers(self) -> list[Router]:
        """The routers of the MoE layers, in order: row i of stacked routing belongs to router i."""
        return [module for module in self.modules() if isinstance(module, Router)]

    def balance_biases(self) -> list[Tensor | None]:
        """The balancing bias of each MoE layer, in order; None where there is none."""
        return [router.balance_bias for router in self.routers()]


def initial_value(config: MoEConfig, name: str, shape: torch.Size, seed: int) -> Tensor:
    """The initial value of a parameter or buffer, in float32.

    Matrices are drawn from N(0, init_std²), output projections scaled by 1/√(2L) (Radford et al. 2019); norms are one,
    biases zero. Each matrix has a generator of its own, seeded by ``seed`` and its name, so that the weights do not
    depend on the number of processes or on the order of the modules.
    """
    # On the CPU and in float32 whatever the context's defaults are: generators and their numbers belong to a device.
    empty = torch.empty(shape, dtype=torch.float32, device="cpu")
    if len(shape) == 1:
        return empty.fill_(0.0 if name.endswith("bias") else 1.0)
    std = config.init_std
    if name.endswith(("o_proj.weight", "down.weight", "experts.down")):
        std /= (2 * config.num_layers) ** 0.5
    return empty.normal_(0.0, std, generator=generator_of(seed, name))
