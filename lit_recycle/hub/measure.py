"""Norms of experts and inner channels of a Hugging Face folder, for operators that choose by them. torch when asked."""

from __future__ import annotations

from functools import partial

from lit_recycle.growth.axes import EXPERTS
from lit_recycle.growth.facts import CHANNELS, Facts, PerLayer
from lit_recycle.hub.config_keys import num_layers
from lit_recycle.hub.families import family_of
from lit_recycle.hub.family import Family
from lit_recycle.hub.reader import HFFolder


def folder_facts(folder: HFFolder, family: Family | None = None) -> Facts:
    """What the weights of a folder tell, each read when it is asked for."""
    names = ("norm", *(f"channel_norm_{axis}" for axis in CHANNELS))
    return Facts({name: partial(_norms, folder, family, name) for name in names}, "of a folder")


def _norms(folder: HFFolder, family: Family | None, name: str) -> PerLayer:
    """Euclidean norm over all matrices of each entry of an axis, by layer."""
    from safetensors import safe_open

    from lit_recycle.growth.measure import squares

    axis = name.removeprefix("channel_norm_") if "_" in name else EXPERTS
    family = family or family_of(folder.config, folder.path)
    naming = family.naming_of(num_layers(family.text_of(folder.config), family))
    files = {path: safe_open(path, "pt") for path in folder.paths}
    sums: dict[int, dict[tuple[int, int], float]] = {}
    for stored in folder.tensors.values():
        place = naming.parse(stored.name)
        if place.layer is None or not set(place.axes.matrices) & {"gate", "up", "down"}:
            continue
        layer = sums.setdefault(place.layer, {})
        if axis == EXPERTS and place.expert is not None:
            total = files[stored.path].get_tensor(stored.name).double().square().sum()
            layer[place.expert, 0] = layer.get((place.expert, 0), 0.0) + float(total)
        elif axis in place.axes.names:
            for i, total in enumerate(squares(place, files[stored.path].get_tensor(stored.name), axis).tolist()):
                layer[place.expert or 0, i] = layer.get((place.expert or 0, i), 0.0) + total
    return [[sums.get(j, {})[i] ** 0.5 for i in sorted(sums.get(j, {}))] for j in range(max(sums, default=-1) + 1)]
