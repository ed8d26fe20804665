"""The shape of a Mixture-of-Experts transformer, and what follows from it by arithmetic. No torch in here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from lit_recycle.model.rope_scaling import RopeScaling


@dataclass(frozen=True)
class MoEConfig:
    """Shape of a decoder-only Mixture-of-Experts transformer.

    Args:
        vocab_size: Size of the vocabulary, V.
        hidden_size: Width of the residual stream, D.
        num_layers: Number of transformer blocks, L.
        num_heads: Number of query heads, H.
        num_kv_heads: Number of key and value heads; as many as query heads when not given.
        head_dim: Size of one head; ``hidden_size / num_heads`` when not given.
        num_experts: Routed experts per layer, E.
        top_k: Routed experts that each token visits, k.
        expert_size: Inner width of one routed expert, F.
        shared_expert_size: Inner width of the shared expert that every token visits; 0 for none.
        shared_expert_gate: Scale the shared expert by a learned sigmoid gate (Qwen2-MoE).
        dense_layers: Indices of the layers that have one dense feed-forward network instead of experts.
        dense_size: Inner width of the dense layers; 0 where there are none.
        router_score: How router logits become scores: ``softmax`` over all experts, or ``sigmoid`` of each.
        normalize_top_k: Rescale the scores of the chosen experts so that they sum to one.
        routed_scaling: Factor on the output of the routed experts.
        balance_bias: Choose experts by score plus a bias that is updated without a loss (DeepSeek-V3).
        qk_norm: RMSNorm on queries and keys: ``none``, per ``head`` (Qwen3), or over the ``full`` width (OLMoE).
        qkv_bias: Biases on the query, key and value projections.
        tie_embeddings: Use the embedding matrix as the output layer.
        rope_theta: Base of the rotary position embedding.
        rope_fraction: Share of each head that is rotated, from its beginning on (GLM-4.5: a half).
        rope_scaling: Rotary angles scaled for longer texts, as in a ``config.json`` of Llama 3.1 or YaRN.
        norm_eps: Epsilon of every RMSNorm.
        init_std: Standard deviation of the initial weights.
    """

    vocab_size: int = 512
    hidden_size: int = 256
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int | None = None
    head_dim: int | None = None
    num_experts: int = 8
    top_k: int = 2
    expert_size: int = 256
    shared_expert_size: int = 0
    shared_expert_gate: bool = False
    dense_layers: Sequence[int] = ()
    dense_size: int = 0
    router_score: Literal["softmax", "sigmoid"] = "softmax"
    normalize_top_k: bool = True
    routed_scaling: float = 1.0
    balance_bias: bool = False
    qk_norm: Literal["none", "head", "full"] = "none"
    qkv_bias: bool = False
    tie_embeddings: bool = False
    rope_theta: float = 10_000.0
    rope_fraction: float = 1.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-6
    init_std: float = 0.02

    def __post_init__(self) -> None:
        for field in fields(self):
            _require(
                field.default is None or getattr(self, field.name) is not None,
                f"{field.name} cannot be null: give a value, or leave it out for {field.default}",
            )
        if self.num_kv_heads is None:
            object.__setattr__(self, "num_kv_heads", self.num_heads)
        if self.head_dim is None:
            _require(
                self.num_heads > 0 and self.hidden_size % self.num_heads == 0,
                f"hidden_size {self.hidden_size} does not divide into num_heads {self.num_heads}: "
                "change one of them, or set head_dim",
            )
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_heads)
        object.__setattr__(self, "dense_layers", tuple(sorted(set(self.dense_layers))))
        if isinstance(self.rope_scaling, Mapping):  # out of a checkpoint
            object.__setattr__(self, "rope_scaling", RopeScaling(**self.rope_scaling))
        self._validate()

    @property
    def _heads(self) -> tuple[int, int, int]:
        """Query heads, key and value heads, and the size of one, which are all known once the config is made."""
        assert self.num_kv_heads is not None and self.head_dim is not None
        return self.num_heads, self.num_kv_heads, self.head_dim

    @property
    def rotary_dim(self) -> int:
        """Entries of each head that are rotated."""
        return int(self._heads[2] * self.rope_fraction)

    def _validate(self) -> None:
        for name in ("vocab_size", "hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim"):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        _require(
            self._heads[0] % self._heads[1] == 0,
            f"num_heads {self.num_heads} must be a multiple of num_kv_heads {self.num_kv_heads}",
        )
        _require(0 < self.rope_fraction <= 1, f"rope_fraction must lie in 0..1, got {self.rope_fraction}")
        _require(
            self.rotary_dim >= 2 and self.rotary_dim % 2 == 0,
            f"head_dim {self.head_dim}, of which rope_fraction {self.rope_fraction:g} is rotated, must be even there",
        )
        scaled = self.rope_scaling is not None and self.rope_scaling.rope_type == "yarn"
        _require(
            not scaled or self.rope_theta > 1, f"rope_scaling yarn needs rope_theta above 1, got {self.rope_theta}"
        )
        _require(
            all(0 <= i < self.num_layers for i in self.dense_layers),
            f"dense_layers {list(self.dense_layers)} must lie in 0..{self.num_layers - 1} (num_layers - 1)",
        )
        if self.dense_layers:
            _require(self.dense_size >= 1, "dense_layers are given, so dense_size must be at least 1")
        _require(
            bool(self.dense_layers) or self.dense_size == 0,
            f"dense_size {self.dense_size} is of dense layers, and there are none: list them in dense_layers",
        )
        if self.num_moe_layers:
            _require(self.num_experts >= 1, f"num_experts must be at least 1, got {self.num_experts}")
            _require(
                1 <= self.top_k <= self.num_experts,
                f"top_k {self.top_k} must lie in 1..{self.num_experts} (num_experts)",
            )
            _require(self.expert_size >= 1, f"expert_size must be at least 1, got {self.expert_size}")
        _require(self.shared_expert_size >= 0, "shared_expert_size must not be negative")
        for name in ("rope_theta", "norm_eps", "routed_scaling"):
            _require(0 < getattr(self, name) < math.inf, f"{name} must be a positive number, got {getattr(self, name)}")
        _require(0 <= self.init_std < math.inf, f"init_std must be a number and not negative, got {self.init_std}")
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            _require(value in allowed, f"{name} must be one of {', '.join(allowed)}, got {value!r}")
        _require(
            not self.shared_expert_gate or self.shared_expert_size > 0,
            "shared_expert_gate needs a shared expert: set shared_expert_size",
        )

    @property
    def num_moe_layers(self) -> int:
        return self.num_layers - len(self.dense_layers)

    def is_dense(self, layer: int) -> bool:
        return layer in self.dense_layers

    def num_params(self) -> int:
        """Number of parameters, all experts counted."""
        return self._count(self.num_experts)

    def num_active_params(self) -> int:
        """Number of parameters that one token meets: ``top_k`` of the experts, everything else whole."""
        return self._count(self.top_k)

    def num_flops_per_token(self, seq_len: int) -> int:
        """FLOPs of one training token, forward and backward.

        Six per parameter of a matrix product (two forward, four backward: Kaplan et al. 2020) and
        ``12 · L · H · head_dim · seq_len`` for attention scores and values without discount for the causal mask
        (Chowdhery et al. 2022, appendix B). Embedding look-ups and norms are no matrix products.
        """
        matrices = self._matrices(self.top_k) + self.vocab_size * self.hidden_size
        heads, _, head_dim = self._heads
        return 6 * matrices + 12 * self.num_layers * heads * head_dim * seq_len

    def to_dict(self) -> dict[str, Any]:
        """Plain types, ready for YAML and JSON; ``MoEConfig(**config.to_dict())`` gives the config back."""
        return asdict(self) | {"dense_layers": list(self.dense_layers)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> MoEConfig:
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        _require(not unknown, f"unknown model config keys: {', '.join(unknown)}")
        return cls(**values)

    def replace(self, **changes: Any) -> MoEConfig:
        return replace(self, **changes)

    def _matrices(self, experts: int) -> int:
        """Weights of the matrix products in all blocks, with so many experts counted per layer."""
        heads, kv_heads, head_dim = self._heads
        attention = 2 * self.hidden_size * (heads + kv_heads) * head_dim
        width = experts * self.expert_size + self.shared_expert_size
        moe = 3 * self.hidden_size * width + self.num_experts * self.hidden_size  # the router scores every expert
        moe += self.hidden_size if self.shared_expert_gate else 0
        dense = 3 * self.hidden_size * self.dense_size
        return self.num_layers * attention + self.num_moe_layers * moe + len(self.dense_layers) * dense

    def _count(self, experts: int) -> int:
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_embeddings else 2)
        heads, kv_heads, head_dim = self._heads
        vectors = 2 * self.hidden_size  # the two norms of a block
        vectors += {"none": 0, "head": 2, "full": heads + kv_heads}[self.qk_norm] * head_dim
        vectors += (heads + 2 * kv_heads) * head_dim if self.qkv_bias else 0
        return embeddings + self._matrices(experts) + self.num_layers * vectors + self.hidden_size


_CHOICES = {
    "router_score": ("softmax", "sigmoid"),
    "qk_norm": ("none", "head", "full"),
}


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
