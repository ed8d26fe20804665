"""A Hugging Face model as a growth sees it: its config, the experts that its weights have, its family. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

from lit_recycle.growth.axes import EXPERTS
from lit_recycle.growth.names import Naming, Place
from lit_recycle.growth.operator import Target
from lit_recycle.growth.sources import SourceMap
from lit_recycle.hub.config_json import grown_config, with_rope_theta
from lit_recycle.hub.config_keys import (
    Config,
    experts_of_layer,
    first_of,
    is_grouped,
    keys_of,
    num_layers,
    num_mtp_layers,
)
from lit_recycle.hub.families import family_of
from lit_recycle.hub.family import Family
from lit_recycle.hub.upcycle import routed_targets, upcycled_config


@dataclass(frozen=True)
class HubModel:
    """A :class:`lit_recycle.growth.operator.GrowableModel` out of a ``config.json``.

    Args:
        config: The config of the language model, see ``Family.text_of``.
        family: Its family.
        experts: Routed experts of each layer, those of multi-token-prediction layers at the end.
    """

    config: Config
    family: Family
    experts: tuple[int, ...]

    @cached_property
    def naming(self) -> Naming:
        return self.family.naming_of(self.num_layers)

    @property
    def num_layers(self) -> int:
        return num_layers(self.config, self.family)

    @property
    def num_tail_layers(self) -> int:
        return len(self.experts) - self.num_layers

    @property
    def top_k(self) -> int:
        top_k = first_of(self.config, keys_of(self.family, "top_k"), 0)
        return int(top_k[0] if isinstance(top_k, list) else top_k)

    @property
    def init_std(self) -> float:
        return float(self.config.get("initializer_range", 0.02))

    @cached_property
    def traits(self) -> frozenset[str]:
        routing = self.family.routing
        normalized = routing is not None and routing.normalizes(self.config)
        found = {
            "grouped routing": is_grouped(self.config, self.family),
            "softmax bias": self.family.softmax_bias,
            "two experts": routing is not None and routing.kind == "sparsemixer",
            "tied embeddings": bool(self.config.get("tie_word_embeddings")),
            "dense prefix": self.family.dense.leading_only,
            "weights of experts sum to one": normalized and self.config.get("routed_scaling_factor", 1.0) == 1.0,
            "scores add up": routing is not None and routing.scaling is None and routing.adds_up(self.config),
            "normalised residual": not self.family.is_identity(self.config),
        }
        return frozenset(trait for trait, holds in found.items() if holds)

    @property
    def layer_suffixes(self) -> Iterable[str]:
        """The tensors that a layer may have."""
        return self.family.naming.axes

    def size(self, axis: str, layer: int | None = None) -> int:
        """See :class:`GrowableModel`."""
        if axis == EXPERTS:
            return max(self.experts) if layer is None else self.experts[layer]
        if axis not in self.family.sizes:
            return 0
        inner = layer is not None and layer < self.num_layers and axis in ("F", "S", "I")
        if inner and self.family.is_dense(self.config, layer) != (axis == "I"):  # type: ignore[arg-type]
            return 0
        value = self.config.get(self.family.sizes[axis])
        if value is None and axis == "G":
            value = self.config["num_attention_heads"]
        return int(value or 0)

    def resized(self, sources: SourceMap, top_k: int | None = None) -> HubModel:
        """See :class:`GrowableModel`."""
        maps = [sources.experts(j) for j in range(len(sources.layers))]
        experts = tuple(
            self.experts[source] if mapped is None else len(mapped.sources)
            for mapped, source in zip(maps, sources.layers, strict=True)
        )
        config = grown_config(self.config, self.family, sources, self.num_tail_layers, self.experts, experts)
        if top_k is not None:
            config = _with_top_k(config, self.family, self.top_k, top_k, grows=EXPERTS in sources.axes)
        return replace(self, config=config, experts=experts)

    def upcycled(self, layers: Sequence[int], num_experts: int, top_k: int, granularity: int) -> Self:
        """See :class:`GrowableModel`."""
        config, family = upcycled_config(self.config, self.family, layers, num_experts, top_k, granularity)
        experts = tuple(num_experts if i in layers else n for i, n in enumerate(self.experts))
        return replace(self, config=config, family=family, experts=experts)

    def with_rope_theta(self, theta: float) -> Self:
        """See :class:`GrowableModel`."""
        return replace(self, config=with_rope_theta(self.config, theta))

    def routed_targets(self, place: Place, after: HubModel) -> Iterable[Target]:
        """See :class:`GrowableModel`."""
        return routed_targets(place, after.config, after.family, after.experts, after.layer_suffixes)


def model_of(
    config: Config, shapes: Mapping[str, Sequence[int]], where: object, family: Family | None = None
) -> HubModel:
    """The model that a ``config.json`` and the shapes of its tensors describe, in a folder or in memory.

    Args:
        config: The config, whole.
        shapes: Shapes by the tensors' names, as on the hub or as in a ``state_dict`` of transformers.
        where: What an error names.
        family: Its family, where that is not one of those by ``model_type``.

    Raises:
        ValueError: For a family that is not known, or weights that contradict the config.
    """
    family = family or family_of(config, where)
    text = family.text_of(config)
    naming = family.naming_of(num_layers(text, family))
    places = [naming.parse(name) for name in shapes]
    _check_layers(text, family, places, where)
    return HubModel(text, family, tuple(_experts_per_layer(text, family, places, shapes, where)))


def _check_layers(config: Config, family: Family, places: Iterable[Place], where: object) -> None:
    """Hold the layers of the weights against the config; behind the last may be those for multi-token prediction."""
    found = {place.layer for place in places if place.layer is not None and place.number is None}
    main, extra = num_layers(config, family), len([i for i in found if i >= num_layers(config, family)])
    missing = sorted(set(range(main + extra)) - found)
    if missing:
        raise ValueError(f"{where} has no weights of layer {missing[0]}, config.json counts {main} layers")
    if extra > num_mtp_layers(config):
        raise ValueError(f"{where} has weights of layer {main}, but config.json says num_hidden_layers {main}")


def _experts_per_layer(
    config: Config, family: Family, places: Iterable[Place], shapes: Mapping[str, Sequence[int]], where: object
) -> list[int]:
    """Routed experts of each layer as the weights have them, held against the config."""
    counts: dict[int, int] = {}
    for place in places:
        if place.layer is None:
            continue
        number, dimension = 0, place.axes.expert_dimension
        if place.expert is not None:
            number = place.expert + 1
        elif dimension is not None:
            shape = shapes[place.name]
            number = shape[dimension] if dimension < len(shape) else 0
        counts[place.layer] = max(counts.get(place.layer, 0), number)
    for layer in range(num_layers(config, family)):
        said = 0 if family.is_dense(config, layer) else experts_of_layer(config, family, layer)
        if said is not None and said != counts[layer]:
            raise ValueError(
                f"{where}: config.json gives layer {layer} {said} experts, the weights have {counts[layer]}"
            )
    return [counts[i] for i in sorted(counts)]


def _with_top_k(config: Config, family: Family, before: int, top_k: int, grows: bool) -> Config:
    """The config with other numbers of experts per token, and of groups and a scaling that follow from them."""
    config, routing = dict(config), family.routing
    assert routing is not None
    for key in keys_of(family, "top_k"):
        value = config.get(key)
        if value is not None:
            config[key] = [v * top_k // before for v in value] if isinstance(value, list) else value * top_k // before
    if routing.groups and grows and is_grouped(config, family):
        config[routing.groups[1]] = config[routing.groups[1]] * top_k // before
    scaling = routing.scaling
    if scaling is not None and routing.adds_up(config) and grows and top_k != before:
        if scaling not in config:
            raise ValueError(
                f"config.json has no {scaling}, which must be multiplied by {before}/{top_k}; add it to the source"
            )
        config[scaling] = config[scaling] * before / top_k
    return config
