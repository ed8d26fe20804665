"""Next-token cross-entropy.

Axes: B batch, S positions, T = B·S tokens, D hidden size, V vocabulary.
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
