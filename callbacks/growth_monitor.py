"""Growth monitor: recovery of the loss, and cosines of copies with their originals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from torch import Tensor
from typing_extensions import override

from lit_recycle.callbacks.monitor import Monitor, Picture, is_multiple, moe_layers, some_layers, write_scalars
from lit_recycle.callbacks.recovery import FEWEST, Recovery
from lit_recycle.growth.event import GrowthEvent
from lit_recycle.growth.originals import Originals, find_originals
from lit_recycle.training import named_state
from lit_recycle.training.growable import GrowableModule
from lit_recycle.training.weight_stats import copy_cosines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIRST_MOMENTS = ("exp_avg", "momentum_buffer")
"""What optimizers call their running mean of gradients."""


class GrowthMonitor(Monitor):
    """Follows the model after each growth. Under ``growth/``, besides the loss jump that GrowthCallback logs:

    - ``loss_vs_before``, ``loss_vs_small``: training loss, mean of some steps, minus what it was right before the
      growth, and minus what the small model would have come to with the compute spent since (:mod:`.recovery`);
    - ``recovery_{steps,tokens,flops}``: what was spent from the growth until the loss was back where it had been, one
      point when it is; zero for a growth that made no jump beyond the noise;
    - ``paid_back_{steps,tokens,flops}``: the same until the loss was better than the small model's would have been;
    - ``cosine_{experts,layers}_{weights,momentum}``: cosine of copies with their originals, in weights and in the
      optimizer's running mean of gradients; mean over the copies, and for single layers (``growth/layer_03/…``);
    - ``copies_token_share``: share of the routed tokens that go to copied experts, over all layers and for single ones.

    Experts are compared with their originals of the last growth of experts, layers with theirs of the last in depth.

    Args:
        every_n_steps: Distance of points; ``trainer.log_every_n_steps`` when not given.
        compare_every_n_steps: Distance of cosines, for which all copies are read. Right after a growth there are more:
            after 1, 2, 4, … steps.
        plot_every_n_steps: Distance of pictures of the cosines of all layers; 0 for none.
        smoothing: Steps over which the loss is averaged.
        trend_steps: Steps before a growth from which is read how the small model's loss falls, and its noise.
        max_layers: Single layers that get curves of their own, spread over the depth.
    """

    def __init__(
        self,
        every_n_steps: int | None = None,
        compare_every_n_steps: int = 100,
        plot_every_n_steps: int = 500,
        smoothing: int = 10,
        trend_steps: int = 200,
        max_layers: int = 4,
    ) -> None:
        super().__init__(every_n_steps, plot_every_n_steps)
        if compare_every_n_steps < 1 or smoothing < 1:
            raise ValueError("GrowthMonitor: compare_every_n_steps and smoothing must be at least 1")
        if trend_steps < FEWEST:
            raise ValueError(f"GrowthMonitor.trend_steps must be at least {FEWEST}, got {trend_steps}")
        self.compare_every_n_steps, self.max_layers = compare_every_n_steps, max_layers
        self.recovery = Recovery(smoothing, trend_steps)
        self._pending: list[tuple[dict[str, int], Tensor]] = []
        self._known: tuple[int, Originals] | None = None
        self._compared: tuple[int, dict[str, Tensor]] = (-1, {})

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"recovery": self.recovery.state_dict(), "pending": [(now, loss.item()) for now, loss in self._pending]}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.recovery.load_state_dict(state_dict["recovery"])
        self._pending = [(now, torch.tensor(loss)) for now, loss in state_dict["pending"]]

    # --- the loss until it is back -----------------------------------------------------------------------------------

    @override
    def on_step(self, trainer: L.Trainer, module: GrowableModule) -> None:
        """Keeps the loss where it is, on its device, until somebody wants to know: no step waits for another."""
        if not module.step_losses:
            return
        progress = module.progress
        now = {"steps": progress.steps, "tokens": progress.tokens, "flops": progress.flops}
        self._pending.append((now, torch.stack(module.step_losses).mean()))
        growth = module.growth[-1] if module.growth else None
        if growth and self._is_time_to_compare(progress.steps - growth["steps"], progress.steps):
            write_scalars(trainer, self._cosine_scalars(trainer, module), progress.steps - 1)

    @override
    def scalars(self, trainer: L.Trainer, module: GrowableModule) -> Mapping[str, float]:
        self._take_in(trainer)
        values = self._token_shares(module)
        compared = {"before": self.recovery.vs_before, "small": self.recovery.vs_small}
        return values | {f"growth/loss_vs_{name}": value for name, value in compared.items() if value is not None}

    def _take_in(self, trainer: L.Trainer) -> None:
        """Hand on the losses that have come in, in order, and log what they have reached."""
        if not self._pending:
            return
        device = self._pending[-1][1].device  # what a checkpoint brought lies on the CPU
        values = torch.stack([loss.to(device) for _, loss in self._pending]).tolist()
        for (now, _), value in zip(self._pending, values, strict=True):
            self._log(trainer, self.recovery.add(now, value), now["steps"] - 1)
        self._pending = []

    @staticmethod
    def _log(trainer: L.Trainer, reached: Mapping[str, float], step: int) -> None:
        write_scalars(trainer, {f"growth/{name}": value for name, value in reached.items()}, step)

    @override
    def on_growth_start(self, trainer: L.Trainer, module: GrowableModule, event: GrowthEvent) -> None:
        self._take_in(trainer)

    @override
    def on_growth_end(self, trainer: L.Trainer, module: GrowableModule, record: Mapping[str, Any]) -> None:
        before, after = record["loss_before"], record["loss_after"]
        jump = None if before is None or after is None else after - before
        self._log(trainer, self.recovery.begin(record, jump), record["steps"])

    # --- copies and originals ----------------------------------------------------------------------------------------

    def _is_time_to_compare(self, since: int, step: int) -> bool:
        return is_multiple(step, self.compare_every_n_steps) or (
            0 < since < self.compare_every_n_steps and since & (since - 1) == 0
        )

    def _originals(self, module: GrowableModule) -> Originals:
        growths = len(module.growth)
        if self._known is None or self._known[0] != growths:
            self._known = growths, find_originals(module.shape, module.growth)
        return self._known[1]

    def _cosines(self, trainer: L.Trainer, module: GrowableModule) -> dict[str, Tensor]:
        """By name, each ``[layers]``, NaN for layers without copies; computed once per step."""
        if self._compared[0] == trainer.global_step:
            return self._compared[1]
        originals = self._originals(module)
        if not originals.layer_copies and not any(originals.expert_copies(j) for j in range(len(originals.experts))):
            return {}
        assert trainer.model is not None
        tensors = {"weights": named_state.weights(trainer.model), "momentum": first_moments(trainer)}
        found = {}
        for what, named in tensors.items():
            for kind, values in copy_cosines(named, originals, module.shape.naming).items() if named else ():
                found[f"cosine_{kind}_{what}"] = values
        self._compared = trainer.global_step, found
        return found

    def _cosine_scalars(self, trainer: L.Trainer, module: GrowableModule) -> dict[str, float]:
        cosines, values = self._cosines(trainer, module), {}
        if not cosines:
            return {}
        table = torch.stack([*cosines.values()]).tolist()
        for name, row in zip(cosines, table, strict=True):
            copies = [(layer, value) for layer, value in enumerate(row) if math.isfinite(value)]
            if not copies:
                continue
            values[f"growth/{name}"] = sum(value for _, value in copies) / len(copies)
            for i in some_layers(copies, self.max_layers):
                values[f"growth/layer_{copies[i][0]:02d}/{name}"] = copies[i][1]
        return values

    def _token_shares(self, module: GrowableModule) -> dict[str, float]:
        originals, layers = self._originals(module), moe_layers(module)
        if module.counts_LE is None or not any(originals.expert_copies(j) for j in layers):
            return {}
        shares = copy_shares(module.counts_LE, layers, originals).tolist()
        values = {"growth/copies_token_share": sum(shares) / len(shares)}
        for i in some_layers(layers, self.max_layers):
            values[f"growth/layer_{layers[i]:02d}/copies_token_share"] = shares[i]
        return values

    @override
    def pictures(self, trainer: L.Trainer, module: GrowableModule) -> Iterable[Picture]:
        cosines = self._cosines(trainer, module) if module.growth else {}
        if not cosines:
            return
        named = {name.removeprefix("cosine_").replace("_", ", "): row.tolist() for name, row in cosines.items()}
        step = trainer.global_step - 1  # where it lies

        def draw() -> Figure:
            from lit_recycle.report import plots

            return plots.cosines(named, step)

        yield Picture("growth/cosines", torch.stack([*cosines.values()]).cpu(), draw)


def first_moments(trainer: L.Trainer) -> dict[str, Tensor]:
    """The optimizer's running means of gradients by parameter name; empty where it keeps none, or not of all."""
    (optimizer,) = trainer.optimizers
    assert trainer.model is not None
    state = named_state.optimizer_state(trainer.model, optimizer)["state"]
    if len(state) < sum(1 for _ in trainer.model.parameters()):  # those of frozen layers may not have begun
        return {}
    keys = [next((key for key in FIRST_MOMENTS if key in values), None) for values in state.values()]
    return {name: values[key] for key, (name, values) in zip(keys, state.items(), strict=True) if key}


def copy_shares(counts_LE: Tensor, layers: list[int], originals: Originals) -> Tensor:
    """Share of each MoE layer's routed tokens that go to copied experts, ``[L]``."""
    is_copy = [[original != e for e, original in enumerate(originals.experts[j])] for j in layers]
    mask_LE = torch.tensor(is_copy, dtype=counts_LE.dtype, device=counts_LE.device)
    return (counts_LE * mask_LE).sum(-1) / counts_LE.sum(-1)
