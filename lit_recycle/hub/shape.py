"""Shape of a Hugging Face model that is trained through transformers: a config, and what is counted on its tensors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from math import prod
from types import MappingProxyType
from typing import Any, Self

from lit_recycle.growth.names import Naming
from lit_recycle.growth.native import NativeModel
from lit_recycle.growth.shape import Shape
from lit_recycle.hub.config_keys import Config
from lit_recycle.hub.families import FAMILIES, family_of
from lit_recycle.hub.model import HubModel
from lit_recycle.model.config import MoEConfig

ATTENTION = ("full_attention", "sliding_attention", "chunked_attention", "attention")
"""Kinds of layers, in a config's ``layer_types``, that see other positions by attention alone."""
STATEFUL = ("attn_layer_period", "hybrid_override_pattern", "mamba_d_state", "linear_attn_config")
"""Config keys of families with layers of other kinds that have no such list."""
INSIDE = "model.hf."
"""Where the model of transformers is, within the LightningModule."""


@dataclass(frozen=True)
class HubShape(HubModel):
    """A :class:`lit_recycle.growth.shape.Shape` of a model of transformers, named as it is in memory."""

    @classmethod
    def of(cls, config: Config, where: object = "model.config") -> Self:
        """The shape that a ``config.json`` describes; in a model of more than text that of the language model.

        Raises:
            ValueError: For a family that is not known, or a config that transformers cannot build a model of.
        """
        family = family_of(config, where)
        if family.text_config in config:
            config = family.text_of(config)
            family = family_of(config, f"{where}, {family.text_config}")
        shape = cls(config, family, ())
        experts: dict[int, int] = {}
        for name, size in shape.parameters.items():
            place = shape.naming.parse(name)
            if place.layer is not None:
                dimension = place.axes.expert_dimension
                experts[place.layer] = max(experts.get(place.layer, 0), 0 if dimension is None else size[dimension])
        return cls(config, family, tuple(experts[layer] for layer in sorted(experts)))

    @cached_property
    def naming(self) -> Naming:
        return replace(self.family.naming_of(self.num_layers), inside=INSIDE)

    @cached_property
    def parameters(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of each parameter by name within the LightningModule; the first name of one that has two."""
        import torch

        with torch.device("meta"):
            model = build(self.config)
        return {f"{INSIDE}{name}": tuple(parameter.shape) for name, parameter in model.named_parameters()}

    @cached_property
    def layer_suffixes(self) -> Iterable[str]:
        """See :class:`HubModel`; those that are there in memory."""
        places = [self.naming.parse(name) for name in self.parameters]
        return list(dict.fromkeys(place.suffix for place in places if place.layer is not None))

    @cached_property
    def _counts(self) -> tuple[int, float, float]:
        """Parameters; those that a token meets; those of them in matrix products."""
        every, active, products = 0, 0.0, 0.0
        for name, size in self.parameters.items():
            axes = self.naming.parse(name).axes
            number = float(prod(size))
            every += prod(size)
            if axes.expert_dimension is not None and "router" not in axes.matrices:
                number *= min(1.0, self.top_k / size[axes.expert_dimension])
            active += number
            is_embedding = axes.names == {"V", "D"} and not any(d.summed for d in axes.dimensions)
            if len(size) > 1 and (not is_embedding or self.config.get("tie_word_embeddings")):
                products += number
        return every, active, products

    def num_params(self) -> int:
        """See :class:`Shape`."""
        return self._counts[0]

    def num_active_params(self) -> int:
        """See :class:`Shape`."""
        return round(self._counts[1])

    def num_flops_per_token(self, seq_len: int) -> int:
        """See :class:`lit_recycle.model.config.MoEConfig.num_flops_per_token`; all layers counted as full attention."""
        heads = self.config["num_attention_heads"]
        head_dim = self.config.get("v_head_dim") or self.config.get("head_dim") or self.config["hidden_size"] // heads
        return 6 * round(self._counts[2]) + 12 * self.num_layers * heads * head_dim * seq_len

    def size(self, axis: str, layer: int | None = None) -> int:
        """See :class:`GrowableModel`."""
        return int(self.config["vocab_size"]) if axis == "V" else super().size(axis, layer)

    @property
    def mixes_positions(self) -> str:
        """What hands on a state from position to position, whatever attention may see; empty for attention alone."""
        kinds = {str(kind) for kind in self.config.get("layer_types") or ()}
        found = sorted(kind for kind in kinds if kind not in ATTENTION)
        found += [key for key in STATEFUL if self.config.get(key)]
        return ", ".join(found)

    def to_dict(self) -> dict[str, Any]:
        """See :class:`Shape`."""
        return self.config


def shape_of(values: dict[str, Any]) -> HubShape | NativeModel:
    """The shape that a checkpoint keeps: our own model's, with branches or without, or that of a Hugging Face model.

    Raises:
        ValueError: For a module of a user's own, whose class no checkpoint names.
    """
    if "model_type" in values:
        return HubShape.of(values)
    ours = {key: value for key, value in values.items() if key != "reparam"}
    if ours.keys() != {field.name for field in fields(MoEConfig)}:
        raise ValueError(
            f"the checkpoint's model, of {', '.join(values)}, is none of this version's: one of a module of your own "
            "is used in Python, where its class is known (docs/grow-your-own-module.md)"
        )
    config = MoEConfig.from_dict(ours)
    if "reparam" not in values:
        return NativeModel(config)
    # Here alone: who trains no branches never imports them.
    from lit_recycle.reparam.model import BranchedModel
    from lit_recycle.reparam.names import Reparam

    return BranchedModel(config, Reparam.of(values["reparam"]))


def with_branches(shape: Shape, reparam: Mapping[str, Any]) -> Shape:
    """A shape with its chosen matrices trained as sums of branches.

    Raises:
        ValueError: For a model of transformers, or one that has other branches already.
    """
    if isinstance(shape, HubShape):
        raise ValueError("model.reparam is for this project's own model, and this one is trained through transformers")
    values = shape.to_dict()
    branched = shape_of({**values, "reparam": dict(reparam)})
    if "reparam" in values and branched != shape:
        raise ValueError(
            f"the checkpoint to start from has branches already, {values['reparam']}: leave model.reparam out, or "
            "merge them first with `lit-recycle merge-branches`"
        )
    return branched


def parameter_shapes(shape: Shape) -> Mapping[str, Sequence[int]]:
    """Shape of each parameter by name, of either kind of model; nothing is allocated."""
    if isinstance(shape, HubShape):
        return shape.parameters
    assert isinstance(shape, NativeModel)
    return _native_shapes(json.dumps(shape.to_dict()))


@lru_cache
def _native_shapes(values: str) -> Mapping[str, Sequence[int]]:
    """Of a shape in plain types. A model of a hundred layers takes a second to build, and is asked for often."""
    import torch

    from lit_recycle.model.transformer import MoETransformer

    shape = shape_of(json.loads(values))
    assert isinstance(shape, NativeModel)
    with torch.device("meta"):
        model = shape.prepared(MoETransformer(shape.config))
        return MappingProxyType({name: tuple(p.shape) for name, p in model.named_parameters()})


def parameter_names(shape: Shape) -> list[str]:
    """Names of the parameters within the LightningModule, of either kind of model."""
    prefix = "" if isinstance(shape, HubShape) else "model."
    return [f"{prefix}{name}" for name in parameter_shapes(shape)]


def build(config: Config) -> Any:
    """A causal language model of transformers for a ``config.json``, in torch's default type, on the present device.

    Raises:
        ValueError: For a config that transformers cannot build a model of.
    """
    try:
        from huggingface_hub.errors import StrictDataclassError
        from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    except ImportError as error:
        raise ValueError(f"training through transformers needs it: pip install 'lit-recycle[hf]' ({error})") from error
    import torch

    model_type = str(config["model_type"])
    code = (FAMILIES[model_type].code if model_type in FAMILIES else "") or model_type
    try:
        made = CONFIG_MAPPING[code].from_dict(_decoded({**config, "model_type": code}))
        # The language model of some models with images is built by that class alone.
        known = AutoModelForCausalLM if code in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else AutoModelForImageTextToText
        return known.from_config(made, dtype=torch.get_default_dtype())
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, StrictDataclassError) as error:
        raise ValueError(f"transformers builds no {config.get('model_type')} model of this config: {error}") from error


def _decoded(value: Any) -> Any:
    """Numbers that JSON has no way to write, as transformers writes them: ``{"__float__": "Infinity"}``."""
    if isinstance(value, dict):
        return (
            float(value["__float__"]) if value.keys() == {"__float__"} else {k: _decoded(v) for k, v in value.items()}
        )
    return [_decoded(entry) for entry in value] if isinstance(value, list) else value
