"""Multi-token-prediction layers of a folder beside a run: no run trains them; an export takes them from the folder.

They are grown by the maps that the run has recorded: single in depth, behind the last layer, with their experts
duplicated as those of the last layer are. A run holds none of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_recycle.growth import operators
from lit_recycle.growth.axes import EXPERTS
from lit_recycle.growth.operator import Operator
from lit_recycle.growth.plan import plan_growth
from lit_recycle.growth.sources import SourceMap
from lit_recycle.hub.config_keys import NUM_MTP_LAYERS, Config, num_layers
from lit_recycle.hub.dequantize import plain_weights
from lit_recycle.hub.families import family_of
from lit_recycle.hub.model import model_of
from lit_recycle.hub.reader import HFFolder, open_folder

if TYPE_CHECKING:
    from torch import Tensor

OWN_STACK = re.compile(r"(?:^|\.)mtp[._]")
"""In the names of such layers that are no further layers of the model."""


def split_off(folder: HFFolder) -> tuple[HFFolder, list[str]]:
    """A folder without its multi-token-prediction layers, and the names of their tensors."""
    family = family_of(folder.config, folder.path)
    text = family.text_of(folder.config)
    count = num_layers(text, family)
    naming = family.naming_of(count)
    layers = {name: naming.parse(name).layer for name in folder.tensors}
    names = [name for name, layer in layers.items() if OWN_STACK.search(name) or (layer is not None and layer >= count)]
    left = {name: stored for name, stored in folder.tensors.items() if name not in names}
    return replace(folder, tensors=left), names


def with_mtp_layers(config: Config, folder: HFFolder | None) -> Config:
    """A config that counts as many such layers as its folder is written with: those of another folder, or none."""
    if folder is None:
        return config | {key: 0 for key in NUM_MTP_LAYERS if config.get(key)}
    text = family_of(folder.config, folder.path).text_of(folder.config)
    return config | {key: text[key] for key in NUM_MTP_LAYERS if text.get(key)}


def grown_layers(source: Mapping[str, Any], growths: Sequence[Mapping[str, Any]]) -> tuple[HFFolder, dict[str, Tensor]]:
    """The folder that a run came from, and its multi-token-prediction layers after the run's growths.

    Args:
        source: The ``folder``, and the number of ``growths`` that it had been through.
        growths: The model's, as a checkpoint records them.

    Raises:
        ValueError: For a folder that is gone or has changed, or a growth that these layers cannot follow.
    """
    from lit_recycle.growth.engine import grow_tensors

    way_out = "export with --drop-mtp, or give model.drop_mtp from the start"
    path = Path(source["folder"])
    if not path.is_dir():
        raise ValueError(f"the multi-token-prediction layers of this model lie in {path}, which is gone: {way_out}")
    folder, tensors = plain_weights(open_folder(path))
    names = split_off(folder)[1]
    if not names:
        raise ValueError(f"{path} holds no multi-token-prediction layers any more: {way_out}")
    model = model_of(folder.config, {name: stored.shape for name, stored in folder.tensors.items()}, path)
    found = {name: tensors[name] for name in names}
    for number, growth in enumerate(growths[source["growths"] :], start=source["growths"]):
        try:
            maps = [_with_tail(values, model.num_tail_layers) for values in growth["maps"]]
            plan = plan_growth(model, [_operator(o) for o in growth["event"]["grow"]], event=number, maps=maps)
        except ValueError as error:
            raise ValueError(
                f"multi-token-prediction layers cannot follow {growth['label']} ({error}): {way_out}"
            ) from error
        found, model = dict(grow_tensors(plan, found)), plan.after  # type: ignore[assignment]
    return folder, found


def _with_tail(values: Mapping[str, Any], tail: int) -> dict[str, Any]:
    """A recorded map with further layers behind the last one, each mapped within as that one is."""
    sources = SourceMap.from_dict(values)
    if other := sorted(sources.axes.keys() - {EXPERTS}):
        raise ValueError(f"it maps the axes {', '.join(other)}")
    axes = {axis: (*m, *(m[-1],) * tail) if isinstance(m, tuple) else m for axis, m in sources.axes.items()}
    layers = (*sources.layers, *range(sources.num_layers, sources.num_layers + tail))
    return SourceMap(layers, sources.num_layers + tail, axes, sources.blends).to_dict()


def _operator(values: Mapping[str, Any]) -> Operator:
    """An operator as a checkpoint records it; none is imported that is not this project's."""
    name = str(values["class_path"]).rpartition(".")[2]
    if name not in operators.__all__:
        raise ValueError(f"{name} is an operator of one's own")
    return getattr(operators, name)(**values["init_args"])
