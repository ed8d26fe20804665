"""Routed experts: who goes where, and what happens there.

Axes: T tokens, D hidden size, E experts, K chosen experts per token (``top_k``), F inner width of an expert.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_recycle.model.config import MoEConfig


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
            counts_E = torch.bincount(chosen_TK.flatten(), minlength=config.num_experts).to(torch.float32)
            z = logits_TE.logsumexp(-1).square().mean()
        return weights_TK, chosen_TK, Routing(counts_E, shares_TE.mean(0), z)


class _GatherRows(torch.autograd.Function):
    """``x[rows]`` where every row of ``x`` is taken ``copies`` times: ``rows`` is a permutation, divided by copies.

    The gradient of such a gather is itself a gather by the inverse permutation and a sum over copies. Autograd would
    scatter with accumulation instead, which is slower and has no fixed order of summation on a GPU.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, order: Tensor, inverse: Tensor, copies: int):
        ctx.save_for_backward(inverse)
        ctx.copies = copies
        return x[order if copies == 1 else order // copies]

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor):
        (inverse,) = ctx.saved_tensors
        grad = grad[inverse]
        return grad if ctx.copies == 1 else grad.unflatten(0, (-1, ctx.copies)).sum(1), None, None, None


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
        top_k = chosen_TK.shape[-1]
        order = chosen_TK.flatten().argsort(stable=True)
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(order.numel(), device=order.device)
        ends_E = counts_E.to(torch.int32).cumsum(0, dtype=torch.int32)
        x_RD = _GatherRows.apply(x_TD, order, inverse, top_k)  # R = T·K rows, sorted by expert
        gate, up = grouped_linear(x_RD, self.gate_up, ends_E).chunk(2, dim=-1)
        y_RD = grouped_linear(F.silu(gate) * up, self.down, ends_E)
        y_TKD = _GatherRows.apply(y_RD, inverse, order, 1).unflatten(0, (-1, top_k))
        return (y_TKD * weights_TK.to(y_TKD.dtype).unsqueeze(-1)).sum(1)


def grouped_linear(x_RI: Tensor, weight_EOI: Tensor, ends_E: Tensor) -> Tensor:
    """``x[r] @ weight[e].T`` for rows sorted by expert; rows of expert e end before ``ends_E[e]``.

    torch's grouped matrix product takes float32 and bfloat16; other types go expert by expert.

    Raises:
        ValueError: For sizes that the grouped product cannot read 16 bytes at a time.
    """
    if torch.is_autocast_enabled(x_RI.device.type):
        dtype = torch.get_autocast_dtype(x_RI.device.type)
        x_RI, weight_EOI = x_RI.to(dtype), weight_EOI.to(dtype)
    if x_RI.dtype in (torch.float32, torch.bfloat16):
        multiple = 16 // x_RI.element_size()
        if any(size % multiple for size in weight_EOI.shape[1:]):
            raise ValueError(
                f"hidden_size and expert_size must be multiples of {multiple} to train in {x_RI.dtype}; "
                f"a weight of the experts has shape {tuple(weight_EOI.shape)}"
            )
        return F.grouped_mm(x_RI, weight_EOI.transpose(-2, -1), offs=ends_E)
    sizes = ends_E.diff(prepend=ends_E.new_zeros(1)).tolist()
    return torch.cat([F.linear(x, w) for x, w in zip(x_RI.split(sizes), weight_EOI, strict=True)])


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
