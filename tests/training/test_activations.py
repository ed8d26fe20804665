"""Channels chosen by their activations: what is silent on the batch at hand goes, however large its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from helpers import built, tiny
from runs import CONFIG, fit
from torch import nn

from lit_recycle.growth.event import GrowthEvent, Trigger
from lit_recycle.growth.native import NativeModel
from lit_recycle.growth.operators import PruneInner
from lit_recycle.growth.sources import MapPerExpert, SourceMap
from lit_recycle.training.activations import check_activations

WIDTH, SILENT = CONFIG.expert_size, 3


def silent(expert: int) -> list[int]:
    """Other channels in each expert."""
    return sorted((2 * expert + i) % WIDTH for i in range(SILENT))


class Silence(L.Callback):
    """Channels whose gate is closed, with large weights besides."""

    @torch.no_grad()
    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        for block in pl_module.model.layers:
            for e, matrices in enumerate(block.moe.experts.gate_up):
                matrices[silent(e)] = 0
                matrices[[WIDTH + i for i in silent(e)]] = 9
            block.moe.shared.gate_up.weight[silent(0)] = 0


@pytest.mark.parametrize(("networks", "axis"), [("experts", "F"), ("shared", "S")])
def test_silent_channels_go_first(networks: Any, axis: str, tmp_path: Path) -> None:
    operator = PruneInner(WIDTH - SILENT, networks, by="activation")
    event = GrowthEvent(Trigger(steps=0), grow=[operator])
    _, module, _ = fit(tmp_path, steps=1, events=[event], before_growth=[Silence()])
    sources = SourceMap.from_dict(module.growth[0]["maps"][0])
    for layer in range(CONFIG.num_layers):
        found = sources.full_axis(axis, layer)
        assert found is not None
        maps = found.maps if isinstance(found, MapPerExpert) else (found,)
        assert len(maps) == (CONFIG.num_experts if axis == "F" else 1)
        for e, mapped in enumerate(maps):
            assert mapped.sources == tuple(i for i in range(WIDTH) if i not in silent(e))


def test_sums_of_experts_are_over_the_tokens_that_they_get() -> None:
    experts, x = built(tiny()).layers[0].moe.experts, torch.randn(5, 8, dtype=torch.float64)  # type: ignore[union-attr]
    chosen = torch.tensor([[0, 2], [2, 0], [0, 2], [2, 0], [0, 2]])  # nobody goes to expert 1
    found = experts.inner_squares(x, torch.ones(5, 2), chosen, torch.tensor([5.0, 0.0, 5.0]))
    for e, matrices in enumerate(experts.gate_up):
        gate, up = (x @ matrices.T).chunk(2, dim=1)
        expected = (F.silu(gate) * up).square().sum(0) * (e != 1)
        torch.testing.assert_close(found[e], expected.detach())


def test_a_model_whose_channels_cannot_be_seen_is_told_before_the_run() -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.Parameter(torch.zeros(3, 8, 4))

    class Module(nn.Module):
        shape = NativeModel(tiny())

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.ModuleDict({"moe": nn.ModuleDict({"experts": Other()})})])

    with pytest.raises(ValueError, match=r"layers\.0\.moe\.experts\.down is in a Other, .* choose by norm"):
        check_activations(Module(), "F")  # type: ignore[arg-type]
