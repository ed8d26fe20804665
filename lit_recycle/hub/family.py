"""Model family of the Hugging Face hub as data: what its tensors are, how it routes, which layers are dense. No torch.

Each family is a file in ``families/``. Config keys that all families share stand in ``config_json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from lit_recycle.growth.names import Naming
from lit_recycle.hub.dense_layers import DenseLayers, NoLayer
from lit_recycle.hub.patterns import Pattern

LAYERS = r"(?:(?:model|language_model|backbone)\.)*layers"
"""What stands before a layer's index, in models of text alone and inside of others."""
OTHERS = {"embed_tokens.weight": "V D", "lm_head.weight": "V D*", "norm.weight": "D"}


@dataclass(frozen=True)
class Routing:
    """How a family gets from router logits to the experts of a token and their weights.

    Args:
        kind: ``softmax`` over all experts and then the best; ``top-k softmax`` over the best alone; ``sigmoid`` of
            each; ``sparsemixer``, which always takes two.
        key: The config key that says ``sigmoid`` where it is a choice.
        normalize: Whether the weights of the chosen experts are made to sum to one; a config key where it is a choice.
        default: That choice where the config is silent.
        groups: The number of groups and that of groups visited, where experts are chosen from groups.
        scaling: The config key of a factor on the weights of all experts; None where the family has none.
        logits: Which of the router's outputs in transformers are the logits.
    """

    kind: Literal["softmax", "top-k softmax", "sigmoid", "sparsemixer"]
    normalize: bool | str = True
    default: bool = False
    groups: tuple[str, str] | None = None
    scaling: str | None = "routed_scaling_factor"
    key: str | None = None
    logits: int = 0

    def adds_up(self, config: Mapping[str, Any]) -> bool:
        """Whether the weights of copies of an expert are not shares of its weight, but that weight each."""
        sigmoid = self.kind == "sigmoid" or (self.key is not None and config.get(self.key) == "sigmoid")
        return sigmoid and not self.normalizes(config)

    def normalizes(self, config: Mapping[str, Any]) -> bool:
        if isinstance(self.normalize, bool):
            return self.normalize
        value = config.get(self.normalize)
        return self.default if value is None else bool(value)

    def __str__(self) -> str:
        return self.kind + (", in groups" if self.groups else "")


@dataclass(frozen=True)
class Native:
    """How this project's own model expresses a family, and is written as one.

    Args:
        architecture: The class that ``transformers`` loads it with.
        fixed: Keys of ``MoEConfig`` that the family has no choice in.
        keys: The config key of each key of ``MoEConfig`` that the family has besides the common ones.
        rank: Where several families express a model, the one of the lowest rank is written.
        moe: Where a layer keeps router and experts.
        expert: Names of an expert's gate, up and down matrices.
        shared: Where a shared expert is kept, below ``moe``.
        shared_count: The config key of the number of shared experts, each of the size of a routed one.
        qkv_bias: The config key that switches biases on queries, keys and values on; None if it is fixed.
        head_dim: The family's config knows ``head_dim``.
        rope_theta: What a config that names none means.
        rope_fraction: Share of a head that is rotated where a config names none; None where heads are rotated whole.
        qk_norm: The config key that switches norms of each head's queries and keys on; None if it is fixed.
        extra: Keys that its config must hold besides.
    """

    architecture: str
    fixed: Mapping[str, Any]
    keys: Mapping[str, str] = field(default_factory=dict)
    rank: int = 100
    moe: str = "mlp"
    expert: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
    shared: str = "shared_expert"
    shared_count: str | None = None
    qkv_bias: str | None = None
    head_dim: bool = True
    rope_theta: float = 10_000.0
    rope_fraction: float | None = None
    qk_norm: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Upcycled:
    """How a dense model becomes one of this family, whose experts are copies of its networks.

    Args:
        architecture: The class that ``transformers`` loads it with.
        num_experts: The config key of their number.
        expert_size: The config key of their inner width.
        top_k: The config key of the number of experts per token.
        config: Config keys that are set besides.
        defaults: Config keys that are set where the dense model has none.
        refused: Config keys of the dense model that the family cannot have.
        windows: Layers may see a sliding window.
        shared_size: Inner width of a shared expert that the family demands; its output begins at zero.
        shared: The tensors that it brings, by suffix.
    """

    architecture: str
    num_experts: str
    expert_size: str = "intermediate_size"
    top_k: str = "num_experts_per_tok"
    config: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    refused: Sequence[str] = ()
    windows: bool = True
    shared_size: int = 0
    shared: Sequence[str] = ()


@dataclass(frozen=True)
class Family:
    """What growth must know of one ``model_type``.

    Args:
        axes: The axes of a layer's tensors, by suffix. Those that are not named belong to no expert, and are copied
            with their layer.
        routing: None for a family of dense models.
        dense: Which layers have no experts.
        sizes: The config key of each axis that may be widened, besides experts; only where all tensors are named.
        keys: Config keys that no other family has: of ``num_layers``, ``num_experts``, ``top_k``.
        others: The axes of the tensors outside of the layers.
        layers: Regular expression of what stands before a layer's index.
        tail: The same for multi-token-prediction layers that are a stack of their own.
        text_config: The config key below which the language model is described, in models of more than text.
        patterns: The lists with an entry for each layer that a config without them means, by their config keys.
        fixed_patterns: A config cannot have these lists: a growth must keep to the patterns.
        indices: Config keys (``a.b`` for b in a) that list layers by index, and the index of the first layer there.
        outputs: Number of projections of a layer that write into the residual stream.
        identity: A layer with zeroed outputs leaves the function as it was.
        identity_unless: A config key, and a value in its list with which layers read what an earlier one has found.
        no_depth: Config keys with which layers cannot be copied, and why.
        free_head_dim: The config has a ``head_dim`` that hidden size and heads do not settle.
        code: The ``model_type`` by whose code transformers computes it, where that is another one.
        note: What a user should know, shown by ``lit-recycle families``.
        native: How our own model expresses it; None if it does not.
        becomes: The family that dense models become when they get experts.
        implied: What config keys mean that a dense model's config leaves out, where they mean something else than in
            most families.
        upcycled: How they do, on the side of that family.
    """

    axes: Mapping[str, str]
    routing: Routing | None = None
    dense: DenseLayers = field(default_factory=NoLayer)
    sizes: Mapping[str, str] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    others: Mapping[str, str] = field(default_factory=lambda: OTHERS)
    layers: str = LAYERS
    tail: str = ""
    text_config: str = ""
    patterns: Mapping[str, Pattern] = field(default_factory=dict)
    fixed_patterns: bool = False
    indices: Mapping[str, int] = field(default_factory=dict)
    outputs: int = 2
    identity: bool = True
    identity_unless: tuple[str, str] | None = None
    no_depth: Mapping[str, str] = field(default_factory=dict)
    free_head_dim: bool = True
    code: str = ""
    note: str = ""
    native: Native | None = None
    becomes: str | None = None
    implied: Mapping[str, Any] = field(default_factory=dict)
    upcycled: Upcycled | None = None

    @cached_property
    def naming(self) -> Naming:
        return Naming(self.layers, self.axes, self.others, tail=self.tail)

    def naming_of(self, num_layers: int) -> Naming:
        """The names in a model of so many layers, where a tail is counted behind them."""
        return replace(self.naming, num_layers=num_layers) if self.tail else self.naming

    def text_of(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The part of a ``config.json`` that describes the language model."""
        return dict((self.text_config and config.get(self.text_config)) or config)

    def with_text(self, config: Mapping[str, Any], text: dict[str, Any]) -> dict[str, Any]:
        """A ``config.json`` with another language model."""
        nested = self.text_config and config.get(self.text_config)
        return {**config, self.text_config: text} if nested else text

    @cached_property
    def expert_matrices(self) -> frozenset[str]:
        """The matrices that routed experts and their router have."""
        axes = {suffix: self.naming.axes_of(suffix) for suffix in self.axes}
        routed = [a for suffix, a in axes.items() if "{e}" in suffix or a.expert_dimension is not None]
        return frozenset(m for a in routed for m in a.matrices) & {"gate", "up", "down", "router"}

    def is_identity(self, config: Mapping[str, Any]) -> bool:
        """Whether a layer with zeroed outputs leaves the function as it was."""
        if self.identity_unless is None:
            return self.identity
        key, value = self.identity_unless
        listed = config.get(key)
        if listed is None and key in self.patterns:
            listed = self.patterns[key](config, config["num_hidden_layers"])
        return value not in (listed or ())

    def is_dense(self, config: Mapping[str, Any], layer: int) -> bool:
        """Whether a layer has a dense network instead of experts."""
        return self.dense.is_dense(config, layer)

    @property
    def has_balance_bias(self) -> bool:
        return any(text.startswith("balance:") for text in self.axes.values())

    @property
    def softmax_bias(self) -> bool:
        """A balancing bias is added to scores that a duplication divides."""
        return self.has_balance_bias and self.routing is not None and self.routing.kind == "softmax"
