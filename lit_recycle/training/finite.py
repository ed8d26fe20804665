"""Losses, gradient norms and weights that are no finite numbers, found without waiting for the device at every step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from lit_recycle.addresses import Place

WAY_OUT = (
    "{on} with clipped gradients (trainer.gradient_clip_val), or passing over such steps "
    "(model.spike_skip.non_finite); or begin anew{weights} with a lower learning rate (model.optimizer) or a longer "
    "warm-up"
)


class _Seen(NamedTuple):
    step: int
    values: Tensor
    """Loss and gradient norm, on their way to the CPU."""
    arrived: torch.Event | None


class FiniteWatch:
    """Looks at the loss and the gradient norm of every optimizer step.

    On a CPU at once, before the weights change. On other devices the values are copied while the device goes on
    computing, and looked at one step later, or when something is about to be saved, whatever comes first.

    Args:
        newest: Gives the newest checkpoint of the run, or None.
    """

    def __init__(self, newest: Callable[[], Place | None]) -> None:
        self._newest = newest
        self._loss: Tensor | None = None
        self._seen: deque[_Seen] = deque()

    def add_loss(self, loss: Tensor) -> None:
        """The loss of a micro-batch of the step at hand, equal on all processes."""
        self._loss = loss if self._loss is None else self._loss + loss

    def end_step(self, step: int, norm: Tensor | None, excused: Tensor | None = None) -> None:
        """The step at hand has its gradients.

        Args:
            step: Its number.
            norm: Of the gradients over all processes; None where nobody has computed it.
            excused: One where it is skipped, so that its values do not matter.
        """
        if self._loss is None:
            return
        values = torch.stack([self._loss, torch.zeros_like(self._loss) if norm is None else norm.to(self._loss)])
        if excused is not None:
            values = torch.where(excused.bool(), 0.0, values)
        self._loss = None
        if values.device.type == "cpu":
            self._seen.append(_Seen(step, values, None))
        else:
            arriving = torch.empty(2, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)
            event = torch.Event(values.device)
            event.record()
            self._seen.append(_Seen(step, arriving, event))
        self.check(wait=False)

    def check(self, wait: bool) -> None:
        """Look at what has arrived, or at everything.

        Raises:
            ValueError: On all processes, for a loss or a norm that is not finite.
        """
        while self._seen and (wait or self._seen[0].arrived is None or self._seen[0].arrived.query()):
            step, values, arrived = self._seen.popleft()
            if arrived is not None:
                arrived.synchronize()
            for what, value in zip(("loss", "gradient norm"), values.tolist(), strict=True):
                if not torch.isfinite(torch.tensor(value)):
                    way_out = way_out_from(self._newest())
                    raise ValueError(f"the {what} of step {step} is {value}, and the run stops there: {way_out}")


def way_out_from(newest: Place | None) -> str:
    """What can be done; a run that goes on has the rate of its checkpoint, whatever the configuration says."""
    if newest is None:
        return WAY_OUT.format(on="begin anew", weights="")
    return WAY_OUT.format(
        on=f"go on from {newest}, --ckpt_path last,", weights=f" from its weights (model.init_from {newest})"
    )


def check_weights(tensors: Iterable[Tensor], step: int, newest: Callable[[], Place | None]) -> None:
    """Raises ``ValueError``, on all processes, where a weight of any of them is not finite."""
    extremes = [
        extreme
        for tensor in tensors
        if (local := tensor.to_local() if isinstance(tensor, DTensor) else tensor.detach()).numel()
        for extreme in local.aminmax()
    ]
    if not extremes:
        return
    broken = (~torch.isfinite(torch.stack([extreme.float() for extreme in extremes]))).any().float()
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(broken, dist.ReduceOp.MAX)
    if broken.item():
        way_out = way_out_from(newest())
        raise ValueError(f"the weights after step {step} are not finite, and are not saved: {way_out}")
