"""Rules that say which layers of a Mixture-of-Experts model are dense, read from a ``config.json`` and written into it.

No torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    """``mlp_only_layers`` lists dense layers, and all but each ``decoder_sparse_step``-th are dense too."""

    def is_dense(self, config: Mapping[str, Any], layer: int) -> bool:
        step = config.get("decoder_sparse_step") or 1
        return layer in (config.get("mlp_only_layers") or ()) or (layer + 1) % step != 0

    def express(self, config: Config, wanted: Sequence[bool]) -> None:
        config["decoder_sparse_step"] = 1
        config["mlp_only_layers"] = [i for i, dense in enumerate(wanted) if dense]


@dataclass(frozen=True)
class Prefix(DenseLayers):
    """So many leading layers are dense.

    Args:
        key: The config key of their number.
    """

    leading_only = True
    key: str = "first_k_dense_replace"

    def is_dense(self, config: Mapping[str, Any], layer: int) -> bool:
        return layer < (config.get(self.key) or 0)

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
