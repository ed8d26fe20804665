"""This project's own model as a growth sees it: the axes of its tensors, its sizes, its shape after a growth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lit_recycle.growth.axes import EXPERTS
from lit_recycle.growth.names import Naming, Place
from lit_recycle.growth.operator import Target
from lit_recycle.growth.shape import one_size
from lit_recycle.growth.sources import SourceMap
from lit_recycle.model.config import MoEConfig

if TYPE_CHECKING:
    from torch import Size, Tensor

    from lit_recycle.model.transformer import MoETransformer

LAYERS = r"(?:model\.)?layers"
OTHERS = {"embed.weight": "V D", "lm_head.weight": "V D*", "norm.weight": "D"}
AXES = {
    "attn_norm.weight": "D",
    "attn.q_proj.weight": "(H P) D*",
    "attn.k_proj.weight": "(G P) D*",
    "attn.v_proj.weight": "(G P) D*",
    "attn.q_proj.bias": "(H P)",
    "attn.k_proj.bias": "(G P)",
    "attn.v_proj.bias": "(G P)",
    "attn.o_proj.weight": "D+ (H P)*",
    "attn.q_norm.weight": "P",
    "attn.k_norm.weight": "P",
    "ffn_norm.weight": "D",
    "mlp.gate_up.weight": "([gate up] I) D*",
    "mlp.down.weight": "down: D+ I*",
    "moe.router.weight": "router: E D*",
    "moe.router.balance_bias": "balance: E",
    "moe.experts.gate_up": "E ([gate up] F) D*",
    "moe.experts.down": "down: E D+ F*",
    "moe.shared.gate_up.weight": "([gate up] S) D*",
    "moe.shared.down.weight": "down: D+ S*",
    "moe.shared_gate.weight": "one D*",
}
NATIVE = Naming(LAYERS, AXES, OTHERS)
"""The names of this project's own model, bare or inside its LightningModule."""
_FULL_NORM = Naming(LAYERS, AXES | {"attn.q_norm.weight": "(H P)", "attn.k_norm.weight": "(G P)"}, OTHERS)

SIZES = {
    "V": "vocab_size",
    "D": "hidden_size",
    "H": "num_heads",
    "G": "num_kv_heads",
    "P": "head_dim",
    "E": "num_experts",
    "F": "expert_size",
    "S": "shared_expert_size",
    "I": "dense_size",
}
"""The key of the config that an axis' size is."""
OF_EXPERTS = ("E", "F", "S")


@dataclass(frozen=True)
class NativeModel:
    """A :class:`lit_recycle.growth.shape.Shape`.

    Args:
        config: Its shape.
    """

    config: MoEConfig

    @property
    def naming(self) -> Naming:
        return _FULL_NORM if self.config.qk_norm == "full" else NATIVE

    @property
    def num_layers(self) -> int:
        return self.config.num_layers

    @property
    def num_tail_layers(self) -> int:
        return 0

    @property
    def top_k(self) -> int:
        return self.config.top_k

    @property
    def init_std(self) -> float:
        return self.config.init_std

    @cached_property
    def traits(self) -> frozenset[str]:
        config = self.config
        found = {
            "softmax bias": config.router_score == "softmax" and config.balance_bias,
            "tied embeddings": config.tie_embeddings,
            "full-width qk norm": config.qk_norm == "full",
            "weights of experts sum to one": config.normalize_top_k and config.routed_scaling == 1.0,
        }
        return frozenset(trait for trait, holds in found.items() if holds)

    def size(self, axis: str, layer: int | None = None) -> int:
        """See :class:`GrowableModel`. Outside of the layers the size that layers with the axis have."""
        if layer is not None and (axis in OF_EXPERTS if self.config.is_dense(layer) else axis == "I"):
            return 0
        return getattr(self.config, SIZES[axis])

    def resized(self, sources: SourceMap, top_k: int | None = None) -> NativeModel:
        """See :class:`GrowableModel`.

        Raises:
            ValueError: For layers that would have different numbers of experts or channels.
        """
        config = self.config
        dense = tuple(j for j, source in enumerate(sources.layers) if config.is_dense(source))
        changes: dict[str, Any] = {"num_layers": len(sources.layers), "dense_layers": dense}
        changes |= {SIZES[axis]: one_size(axis, maps) for axis, maps in sources.axes.items()}
        changes |= {} if dense else {"dense_size": 0}
        if top_k is not None:
            changes |= {"top_k": top_k}
            # Sigmoid scores that are not renormalised add up over duplicates; all other weights sum to what they did.
            if config.router_score == "sigmoid" and not config.normalize_top_k and EXPERTS in sources.axes:
                changes["routed_scaling"] = config.routed_scaling * config.top_k / top_k
        return replace(self, config=config.replace(**changes))

    def upcycled(self, layers: Sequence[int], num_experts: int, top_k: int, granularity: int) -> NativeModel:
        """See :class:`GrowableModel`. The first experts of a model have weights that sum to one."""
        config, size = self.config, self.config.dense_size // granularity
        wanted: dict[str, Any] = {
            "num_experts": num_experts,
            "top_k": top_k,
            "expert_size": size,
            "shared_expert_size": 0,
        }
        if config.num_moe_layers:
            other = [f"{key} {getattr(config, key)}" for key, value in wanted.items() if getattr(config, key) != value]
            if other:
                raise ValueError(f"layers with experts must be alike, and this model has some with {', '.join(other)}")
        else:
            wanted |= {"normalize_top_k": True, "routed_scaling": 1.0, "shared_expert_gate": False}
        dense = tuple(i for i in config.dense_layers if i not in layers)
        dense_size = config.dense_size if dense else 0
        return replace(self, config=config.replace(dense_layers=dense, dense_size=dense_size, **wanted))

    def with_rope_theta(self, theta: float) -> NativeModel:
        """See :class:`GrowableModel`."""
        return replace(self, config=self.config.replace(rope_theta=theta))

    def routed_targets(self, place: Place, after: NativeModel) -> Iterable[Target]:
        """See :class:`GrowableModel`."""
        experts, hidden = after.config.num_experts, after.config.hidden_size

        def named(suffix: str, *shape: int) -> Target:
            return Target(place.renamed(suffix, after.naming.axes_of(suffix)), shape or None)

        if place.suffix == "mlp.gate_up.weight":
            yield named("moe.router.weight", experts, hidden)
            if after.config.balance_bias:
                yield named("moe.router.balance_bias", experts)
            yield named("moe.experts.gate_up")
        elif place.suffix == "mlp.down.weight":
            yield named("moe.experts.down")
        else:
            yield Target(place)

    def num_params(self) -> int:
        """See :class:`Shape`."""
        return self.config.num_params()

    def num_active_params(self) -> int:
        """See :class:`Shape`."""
        return self.config.num_active_params()

    def num_flops_per_token(self, seq_len: int) -> int:
        """See :class:`Shape`."""
        return self.config.num_flops_per_token(seq_len)

    def to_dict(self) -> dict[str, Any]:
        """See :class:`Shape`."""
        return self.config.to_dict()

    # --- what a kind of shape does to the model besides its config ---------------------------------------------------

    def prepared(self, model: MoETransformer) -> MoETransformer:
        """A new model of the config as this kind of shape trains it: here as it is. Values are not drawn."""
        return model

    def initial_value(self, name: str, shape: Size, plain: Callable[[str, Size], Tensor], seed: int) -> Tensor:
        """A tensor at the start of a run, by its name in the model as prepared.

        Args:
            name: Its name.
            shape: Its shape.
            plain: Gives a tensor of the model of the config, by name and shape.
            seed: Seed of what is drawn besides.
        """
        return plain(name, shape)

    def merged(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights by name of the model of the config, from those of the model as prepared."""
        return dict(weights)
