"""RMSNorm (Zhang and Sennrich 2019)."""

from __future__ import annotations

from torch import Tensor, nn

from lit_recycle.model.kernels.norm import rms_norm


class RMSNorm(nn.RMSNorm):
    """RMSNorm computed in the type of its weight, whatever autocast made of the input; the input's type comes out.

    Types of 16 bits are computed in float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        assert self.eps is not None
        if x.device.type == "cpu":  # where torch has no kernel of its own, but composes it of others, and its gradient
            return rms_norm(x, self.weight, self.eps)
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)
