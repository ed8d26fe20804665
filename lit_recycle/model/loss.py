"""Losses: next-token cross-entropy, and that of an uneven load of experts.

Axes: L MoE layers, E experts, B batch, S positions, T = B·S tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lit_recycle.model.kernels.autocast import in_product_type
from lit_recycle.model.kernels.loss import chunked_cross_entropy


def next_token_loss(hidden_TD: Tensor, weight_VD: Tensor, labels_T: Tensor) -> Tensor:
    """Mean cross-entropy of ``softmax(hidden @ weight.T)`` in nats per label; labels of -100 are left out.

    The products are in autocast's type or that of ``hidden``, the softmax in float32 (float64 stays).
    """
    return chunked_cross_entropy(in_product_type(hidden_TD), weight_VD, labels_T)


def label_losses(logits_BSV: Tensor, labels_BS: Tensor) -> tuple[Tensor, Tensor]:
    """Of each label its negative log-likelihood in nats, zero where it is left out, and whether it is the likeliest."""
    losses_BS = F.cross_entropy(logits_BSV.mT.float(), labels_BS, reduction="none")
    return losses_BS, logits_BSV.argmax(-1) == labels_BS


def balance_loss(counts_LE: Tensor, scores_LE: Tensor) -> Tensor:
    """Switch load-balancing loss E·Σ f·P, mean over layers; one when the load is even (Fedus et al. 2022, eq. 4).

    ``counts_LE`` are the tokens of the global batch that each expert got, ``scores_LE`` the mean router scores, which
    carry the gradient. f is normalised by the number of assignments, so that duplicating experts changes nothing.
    """
    fractions_LE = counts_LE / counts_LE.sum(-1, keepdim=True)
    return counts_LE.shape[-1] * (fractions_LE * scores_LE).sum(-1).mean()
