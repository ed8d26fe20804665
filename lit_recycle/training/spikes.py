"""Optimizer steps that are skipped because their loss or gradient norm is far above those before (OLMo-core's rule)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

IN_A_ROW = 8
"""Steps without a finite loss that are not passed over any more: weights are broken, or data is."""


@dataclass(frozen=True)
class SpikeSkip:
    """When a step is skipped.

    Args:
        window: Number of steps whose losses and gradient norms a new one is compared with. Nothing is skipped before
            half of them are known, at the beginning of a run and after each growth.
        sigmas: A loss or a norm may be above the window's mean by this many standard deviations.
        non_finite: Skip a step whose loss or norm is NaN or infinite, too, rather than end the run; `IN_A_ROW` of them
            end it all the same.
    """

    window: int = 128
    sigmas: float = 6.0
    non_finite: bool = False

    def __post_init__(self) -> None:
        if self.window < 4:
            raise ValueError(f"model.spike_skip.window must be at least 4, got {self.window}")
        if not 0 < self.sigmas < math.inf:
            raise ValueError(f"model.spike_skip.sigmas must be a positive number, got {self.sigmas}")


class SpikeWatch:
    """Compares each step with those before it, on the device, without waiting for it.

    A step that was skipped counts for the next ones like any other: a level that has risen for good is soon taken for
    what it is.

    Attributes:
        skipped: Number of steps skipped so far.
        excused: One where the step at hand is not finite, and the run goes on.
    """

    def __init__(self, rule: SpikeSkip) -> None:
        self.rule = rule
        self.skipped = self.excused = torch.zeros(())
        self._in_a_row = torch.zeros(())
        self._values: Tensor | None = None
        """Losses and norms of the last steps, in a ring."""
        self._count = 0

    @torch.no_grad()
    def observe(self, loss: Tensor, norm: Tensor) -> Tensor:
        """One if the step at hand is to be skipped, zero if not. Both values are equal on all processes."""
        point = torch.stack([loss.detach().float(), norm.float().to(loss.device)])
        window = self.rule.window
        if self._values is None:
            self._values = torch.zeros(2, window, device=point.device)
        values = self._values = self._values.to(point.device)
        skip = torch.zeros((), device=point.device)
        if self._count >= window // 2:
            std, mean = torch.std_mean(values[:, : min(self._count, window)], dim=1)
            skip = (point > mean + self.rule.sigmas * std).any().float()
        if self.rule.non_finite:
            broken = (~point.isfinite()).any()
            self._in_a_row = torch.where(broken, self._in_a_row.to(point.device) + 1, 0.0)
            self.excused = (broken & (self._in_a_row < IN_A_ROW)).float()
            skip = torch.maximum(skip, self.excused)
            point = torch.where(broken, values[:, (self._count - 1) % window], point)  # the one before it once more
        values[:, self._count % window] = point
        self._count += 1
        self.skipped = self.skipped.to(skip.device) + skip
        return skip

    def begin_anew(self) -> None:
        """Forget the window: after a growth losses and norms are others."""
        self._values, self._count = None, 0

    def state_dict(self) -> dict[str, Any]:
        """Plain types."""
        values = None if self._values is None else self._values.tolist()
        counts = {"skipped": int(self.skipped), "in_a_row": int(self._in_a_row)}
        return {"values": values, "count": self._count, **counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ``ValueError`` for a window of another length."""
        values = state["values"]
        if values is not None and len(values[0]) != self.rule.window:
            raise ValueError(
                f"model.spike_skip.window is {self.rule.window}, and the checkpoint's {len(values[0])}: set it to that"
            )
        self._values = None if values is None else torch.tensor(values)
        self._count, self.skipped = state["count"], torch.tensor(float(state["skipped"]))
        self._in_a_row = torch.tensor(float(state["in_a_row"]))


def skips_on_device(optimizer: Optimizer) -> bool:
    """Whether the optimizer looks at a tensor ``found_inf`` on the device, as those of torch do that are fused."""
    # The flag by which torch's GradScaler knows them; nothing public says it.
    fused = getattr(optimizer, "_step_supports_amp_scaling", False)
    return fused or getattr(optimizer, "skips_on_device", False)


def skip_step(optimizer: Optimizer, skip: Tensor) -> None:
    """Let the optimizer's next step change nothing, neither weights nor its state, if ``skip`` is one.

    An optimizer that cannot be told on the device costs a wait for it, and finds no gradients.
    """
    if skips_on_device(optimizer):
        optimizer.grad_scale, optimizer.found_inf = None, skip  # type: ignore[attr-defined]
    elif skip.item():
        optimizer.zero_grad(set_to_none=True)
