"""Norms of experts and inner channels of a Hugging Face folder, for operators that choose by them. torch when asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from lit_recycle.growth.facts import NORMS, Facts, PerLayer
from lit_recycle.growth.operator import GrowableModel
from lit_recycle.growth.plan import GrowthPlan
from lit_recycle.hub.reader import HFFolder


def folder_facts(folder: HFFolder, dtype: str | None = None) -> Callable[[GrowableModel], Facts]:
    """What the weights of a folder tell, and those that a growth makes of them, each read when it is asked for.

    Args:
        folder: The folder.
        dtype: The type that a growth converts its weights to.
    """

    def facts(model: GrowableModel) -> Facts:
        return Facts(_known(partial(_norms, folder, dtype, model)), "of a folder", grown)

    def grown(plan: GrowthPlan) -> Mapping[str, Callable[[], PerLayer]]:
        return _known(partial(_grown_norms, folder, dtype, plan))

    return facts


def _known(norms: Callable[[str], PerLayer]) -> dict[str, Callable[[], PerLayer]]:
    return {name: partial(norms, axis) for name, axis in NORMS.items()}


def _norms(folder: HFFolder, dtype: str | None, model: GrowableModel, axis: str) -> PerLayer:
    from lit_recycle.growth.measure import norms
    from lit_recycle.hub.folder_tensors import FolderTensors

    return norms(model, FolderTensors(folder, dtype), axis)


def _grown_norms(folder: HFFolder, dtype: str | None, plan: GrowthPlan, axis: str) -> PerLayer:
    from lit_recycle.growth.measure import grown_norms
    from lit_recycle.hub.folder_tensors import FolderTensors

    return grown_norms(plan, FolderTensors(folder, dtype), axis)
