"""Routed experts: who goes where, and what happens there.

Axes: T tokens, D hidden size, E experts, K chosen experts per token (``top_k``), F inner width of an expert.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_recycle.model.config import MoEConfig
from lit_recycle.model.kernels.autocast import in_product_type
from lit_recycle.model.kernels.experts import swiglu_experts
from lit_recycle.model.kernels.grouped import group_by_expert, product


class Routing(NamedTuple):
    """What balancing losses, the balancing bias and monitors need to know of one layer's (or all layers') routing.

    Stacked over the MoE layers each field has a leading axis L.
    """

    counts_E: Tensor
    """Tokens assigned to each expert, float32; sums to ``T · K``."""
    scores_E: Tensor
    """Mean share of the router's scores that each expert gets; sums to one; carries the gradient."""
    z: Tensor
    """Mean over tokens of the squared log-sum-exp of the router logits (Zoph et al. 2022)."""


class Router(nn.Module):
    """Scores every expert for every token and picks ``top_k`` of them. Computed in float32 (float64 stays)."""

    balance_bias: Tensor | None

    def __init__(self, config: MoEConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.hidden_size))
        self.register_buffer(
            "balance_bias",
            torch.zeros(config.num_experts, dtype=torch.float32) if config.balance_bias else None,
        )

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor, Routing]:
        """Returns weights ``[T, K]``, chosen experts ``[T, K]`` and the routing statistics."""
        config = self.config
        with torch.autocast(x_TD.device.type, enabled=False):
            dtype = torch.promote_types(x_TD.dtype, torch.float32)
            logits_TE = F.linear(x_TD.to(dtype), self.weight.to(dtype))
            softmax = config.router_score == "softmax"
            scores_TE = logits_TE.softmax(-1) if softmax else logits_TE.sigmoid()
            if self.balance_bias is None:
                weights_TK, chosen_TK = scores_TE.topk(config.top_k, dim=-1)
            else:
                chosen_TK = (scores_TE.detach() + self.balance_bias).topk(config.top_k, dim=-1).indices
                weights_TK = scores_TE.gather(-1, chosen_TK)
            if config.normalize_top_k:
                weights_TK = weights_TK / weights_TK.sum(-1, keepdim=True)
            weights_TK = weights_TK * config.routed_scaling
            shares_TE = scores_TE if softmax else scores_TE / scores_TE.sum(-1, keepdim=True)
            ones = torch.ones(chosen_TK.numel(), dtype=torch.float32, device=x_TD.device)
            counts_E = ones.new_zeros(config.num_experts).index_add_(0, chosen_TK.flatten(), ones)
            z = logits_TE.logsumexp(-1).square().mean()
        return weights_TK, chosen_TK, Routing(counts_E, shares_TE.mean(0), z)


class Experts(nn.Module):
    """SwiGLU experts, one tensor per matrix with the expert axis first.

    ``gate_up`` is ``[E, 2F, D]`` (gate above up, each out × in as in ``nn.Linear``), ``down`` is ``[E, D, F]``.
    """

    def __init__(self, config: MoEConfig) -> None:
        super().__init__()
        self.gate_up = nn.Parameter(torch.empty(config.num_experts, 2 * config.expert_size, config.hidden_size))
        self.down = nn.Parameter(torch.empty(config.num_experts, config.hidden_size, config.expert_size))

    def forward(self, x_TD: Tensor, weights_TK: Tensor, chosen_TK: Tensor, counts_E: Tensor) -> Tensor:
        """Sum over the chosen experts of weight × expert(x), ``[T, D]``. No token is dropped."""
        x_TD = in_product_type(x_TD)
        groups = group_by_expert(chosen_TK, counts_E, x_TD.dtype)
        return swiglu_experts(x_TD, weights_TK, self.gate_up, self.down, groups)

    @torch.no_grad()
    def inner_squares(self, x_TD: Tensor, weights_TK: Tensor, chosen_TK: Tensor, counts_E: Tensor) -> Tensor:
        """For the inputs of a call the summed squares of each expert's inner channels over its tokens, ``[E, F]``."""
        x_TD = in_product_type(x_TD)
        groups = group_by_expert(chosen_TK, counts_E, x_TD.dtype)
        gate_RF, up_RF = product(x_TD.index_select(0, groups.tokens_R), self.gate_up, groups).chunk(2, dim=-1)
        inner_RF = (F.silu(gate_RF) * up_RF).index_select(0, groups.places_TK.flatten())  # without padding
        sums_EF = inner_RF.new_zeros(len(counts_E), inner_RF.shape[1], dtype=torch.float64)
        return sums_EF.index_add_(0, chosen_TK.flatten(), inner_RF.double().square())


class MoE(nn.Module):
    """Router, routed experts and, where configured, a shared expert."""

    def __init__(self, config: MoEConfig) -> None:
        super().__init__()
        self.router = Router(config)
        self.experts = Experts(config)
        self.shared = SwiGLU(config.hidden_size, config.shared_expert_size) if config.shared_expert_size else None
        self.shared_gate = nn.Linear(config.hidden_size, 1, bias=False) if config.shared_expert_gate else None

    def forward(self, x_BSD: Tensor) -> tuple[Tensor, Routing]:
        x_TD = x_BSD.flatten(0, -2)
        weights_TK, chosen_TK, routing = self.router(x_TD)
        y_TD = self.experts(x_TD, weights_TK, chosen_TK, routing.counts_E)
        if self.shared is not None:
            shared_TD = self.shared(x_TD)
            y_TD = y_TD + (shared_TD if self.shared_gate is None else self.shared_gate(x_TD).sigmoid() * shared_TD)
        return y_TD.view_as(x_BSD), routing


class SwiGLU(nn.Module):
    """Gated feed-forward network: ``down(silu(gate(x)) · up(x))`` (Shazeer 2020); gate and up in one matrix."""

    def __init__(self, hidden_size: int, inner_size: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(hidden_size, 2 * inner_size, bias=False)
        self.down = nn.Linear(inner_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)
