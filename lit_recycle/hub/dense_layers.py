"""Rules that say which layers of a Mixture-of-Experts model are dense, read from a ``config.json`` and written into it.

No torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

Config = dict[str, Any]


class DenseLayers:
    """A rule, and the way in which a config is made to say something else by it."""

    leading_only: ClassVar[bool] = False
    """The config can only make leading layers dense."""

    def is_dense(self, config: Mapping[str, Any], layer: int) -> bool:
        """Whether a layer has a dense network instead of experts."""
        raise NotImplementedError

    def express(self, config: Config, wanted: Sequence[bool]) -> None:
        """Change a config so that it says which layers are dense, as far as the rule can."""


@dataclass(frozen=True)
class NoLayer(DenseLayers):
    """All layers have experts."""

    def is_dense(self, config: Mapping[str, Any], layer: int) -> bool:
        return False


@dataclass(frozen=True)
class AllLayers(DenseLayers):
    """A dense model."""

    def is_dense(self, config: Mapping[str, Any], layer: int) -> bool:
        return True


@dataclass(frozen=True)
class Listed(DenseLayers):
    """``mlp_only_layers`` lists dense layers, and all but each ``decoder_sparse_step``-th are dense too.

    Args:
        default: The list that a config without it means.
    """

    default: tuple[int, ...] = ()

    def is_dense(self, config: Mapping[str, Any], layer: int) -> bool:
        step, listed = config.get("decoder_sparse_step") or 1, config.get("mlp_only_layers")
        return layer in (self.default if listed is None else listed) or (layer + 1) % step != 0

    def express(self, config: Config, wanted: Sequence[bool]) -> None:
        config["decoder_sparse_step"] = 1
        config["mlp_only_layers"] = [i for i, dense in enumerate(wanted) if dense]


@dataclass(frozen=True)
class Prefix(DenseLayers):
    """So many leading layers are dense.

    Args:
        key: The config key of their number.
        default: That number where the config is silent.
    """

    leading_only = True
    key: str = "first_k_dense_replace"
    default: int = 0

    def is_dense(self, config: Mapping[str, Any], layer: int) -> bool:
        number = config.get(self.key)
        return layer < (self.default if number is None else number)

    def express(self, config: Config, wanted: Sequence[bool]) -> None:
        config[self.key] = sum(wanted)


@dataclass(frozen=True)
class Span(DenseLayers):
    """Layers with experts lie between a first and a last one, each ``moe_layer_interval``-th of them."""

    def is_dense(self, config: Mapping[str, Any], layer: int) -> bool:
        last = config.get("moe_layer_end_index", -1)
        last = last if last != -1 else int(config["num_hidden_layers"]) - 1
        start, interval = config.get("moe_layer_start_index", 1), config.get("moe_layer_interval", 1)
        return layer < start or layer > last or (layer + 1) % interval != 0

    def express(self, config: Config, wanted: Sequence[bool]) -> None:
        sparse = [i for i, dense in enumerate(wanted) if not dense] or [len(wanted)]
        config["moe_layer_interval"] = 1
        config["moe_layer_start_index"], config["moe_layer_end_index"] = sparse[0], sparse[-1]


@dataclass(frozen=True)
class Kinds(DenseLayers):
    """A list, or a string, says what each layer has; leading layers are dense where there is none.

    Args:
        keys: The config keys of the list, of which one is present.
        experts: What it says of layers with experts.
        dense: What it says of dense layers.
        prefix: What a config without the list means.
    """

    keys: tuple[str, ...] = ("mlp_layer_types",)
    experts: tuple[Any, ...] = ("sparse",)
    dense: Any = "dense"
    prefix: Prefix = field(default_factory=lambda: Prefix(default=1))

    def is_dense(self, config: Mapping[str, Any], layer: int) -> bool:
        kinds = next((config[key] for key in self.keys if isinstance(config.get(key), (list, str))), None)
        return self.prefix.is_dense(config, layer) if kinds is None else kinds[layer] not in self.experts

    def express(self, config: Config, wanted: Sequence[bool]) -> None:
        listed = any(isinstance(config.get(key), (list, str)) for key in self.keys)
        by_number, leading = self.prefix.key in config, sorted(wanted, reverse=True)
        if not listed and not (by_number and list(wanted) == leading):
            config[self.keys[0]] = [self.dense if dense else self.experts[0] for dense in wanted]
        if by_number:
            self.prefix.express(config, wanted)


@dataclass(frozen=True)
class Indexed(DenseLayers):
    """A list names the layers with experts, or each n-th layer has them.

    Args:
        key: The config key of the list.
        step: The config key of n.
    """

    key: str = "moe_layers"
    step: str = "interleave_moe_layer_step"

    def is_dense(self, config: Mapping[str, Any], layer: int) -> bool:
        listed = config.get(self.key)
        return (layer + 1) % (config.get(self.step) or 1) != 0 if listed is None else layer not in listed

    def express(self, config: Config, wanted: Sequence[bool]) -> None:
        config[self.key] = [i for i, dense in enumerate(wanted) if not dense]


@dataclass(frozen=True)
class Period(DenseLayers):
    """Each n-th layer has experts, from a first one on; a config has no way to say something else.

    Args:
        period: The config key of n.
        offset: The config key of the first one's index.
    """

    period: str = "expert_layer_period"
    offset: str = "expert_layer_offset"

    def is_dense(self, config: Mapping[str, Any], layer: int) -> bool:
        return layer % config[self.period] != config[self.offset]


@dataclass(frozen=True)
class Flag(DenseLayers):
    """All layers have experts, or none has.

    Args:
        key: The config key that says so.
    """

    key: str

    def is_dense(self, config: Mapping[str, Any], layer: int) -> bool:
        return not config.get(self.key)


RULES: dict[str, type[DenseLayers]] = {
    "none": NoLayer,
    "all": AllLayers,
    "listed": Listed,
    "prefix": Prefix,
    "span": Span,
    "kinds": Kinds,
    "indexed": Indexed,
    "period": Period,
    "flag": Flag,
}
"""The rules by the names that a user's file has for them."""
