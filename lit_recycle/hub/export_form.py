"""How a model is written on the hub: config, names and layout, by this project's tables or transformers'."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lit_recycle.growth.native import NativeModel
from lit_recycle.growth.shape import Shape
from lit_recycle.hub.native_config import HFConfig, to_hf
from lit_recycle.hub.native_names import hub_parts
from lit_recycle.hub.shape import INSIDE, HubShape, build

OWN = "model."
"""What stands before the names of our own model's weights."""


class Form(NamedTuple):
    """How a model is written.

    Attributes:
        config: Its ``config.json``.
        groups: Names of weights that are converted together.
        convert: The hub's tensors, by name, of such a group.
        keeps_type: Whether a weight is not converted to another type with the rest.
        generation: Its ``generation_config.json``, if it has one.
    """

    config: HFConfig
    groups: Sequence[Sequence[str]]
    convert: Callable[[dict[str, Tensor]], Mapping[str, Tensor]]
    keeps_type: Callable[[str], bool]
    generation: HFConfig | None = None


def form_of(shape: Shape, family: str | None) -> Form:
    """How a model is written.

    Args:
        shape: The model.
        family: ``model_type`` to write; the first that expresses the model when not given.

    Raises:
        ValueError: If no family, or not that family, expresses the model.
    """
    if isinstance(shape, HubShape):
        return _of_transformers(shape, family)
    assert isinstance(shape, NativeModel)
    return _of_ours(shape, family)


def _of_ours(shape: NativeModel, family: str | None) -> Form:
    config = to_hf(shape.config, family)
    parts = hub_parts(shape.config, config["model_type"])

    def convert(group: dict[str, Tensor]) -> dict[str, Tensor]:
        return {n: t for name, tensor in group.items() for n, t in parts[name.removeprefix(OWN)].split(tensor)}

    return Form(config, [[f"{OWN}{name}"] for name in parts], convert, lambda name: name.endswith("balance_bias"))


def _of_transformers(shape: HubShape, family: str | None) -> Form:
    """As transformers writes it: it is asked to turn its own names and layout into those of the hub, layer by layer."""
    from transformers.core_model_loading import revert_weight_conversion  # what ``save_pretrained`` calls

    own = str(shape.config["model_type"])
    if family not in (None, own):
        raise ValueError(f"{family} does not express this model: it is a {own} model of transformers")
    with torch.device("meta"):
        model = build(shape.config)
    left_out = {*model.all_tied_weights_keys, *(model._keys_to_ignore_on_save or ())}
    layers: dict[int, list[str]] = {}
    for name in model.state_dict():
        if name not in left_out:
            layer = shape.naming.parse(f"{INSIDE}{name}").layer
            layers.setdefault(-1 if layer is None else layer, []).append(f"{INSIDE}{name}")
    model.config.architectures = [type(model).__name__]

    def convert(group: dict[str, Tensor]) -> dict[str, Tensor]:
        return revert_weight_conversion(model, {name.removeprefix(INSIDE): tensor for name, tensor in group.items()})

    config = json.loads(model.config.to_json_string()) | {"use_cache": True}
    generation = json.loads(model.generation_config.to_json_string()) if model.can_generate() else None
    groups, naming = list(layers.values()), shape.naming
    return Form(config, groups, convert, lambda name: naming.parse(name).axes.label == "balance", generation)
