"""Dense families and the Mixture-of-Experts families that they become: names and config keys. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

from lit_recycle.growth.names import Naming, Place
from lit_recycle.growth.operator import Target as NewTensor
from lit_recycle.hub.families import FAMILIES, Family

Config = dict[str, Any]
SHARED_SIZE = 64
"""Inner width of the shared expert that Qwen2-MoE demands; it begins with an output of zero."""


class Target(NamedTuple):
    """What a dense family becomes."""

    model_type: str
    architecture: str
    moe: str
    names: Mapping[str, str]
    """An expert's matrices by the dense network's names."""


_QWEN_NAMES = {name: name for name in ("gate_proj", "up_proj", "down_proj")}
_MIXTRAL = Target(
    "mixtral", "MixtralForCausalLM", "block_sparse_moe", {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
)
TARGETS = {
    "llama": _MIXTRAL,
    "mistral": _MIXTRAL,
    "qwen2": Target("qwen2_moe", "Qwen2MoeForCausalLM", "mlp", _QWEN_NAMES),
    "qwen3": Target("qwen3_moe", "Qwen3MoeForCausalLM", "mlp", _QWEN_NAMES),
}


def upcycled_config(
    config: Config, layers: Sequence[int], num_experts: int, top_k: int, granularity: int
) -> tuple[Config, Family]:
    """The config of the Mixture-of-Experts model, and its family.

    Raises:
        ValueError: For a family that has no Mixture-of-Experts sibling, or a config that the sibling cannot express.
    """
    model_type = config.get("model_type")
    if model_type not in TARGETS:
        raise ValueError(f"{model_type!r} models cannot be upcycled; those that can are {', '.join(TARGETS)}")
    config, target = deepcopy(config), TARGETS[str(model_type)]
    for key in ("attention_bias", "mlp_bias", "quantization_config"):
        if config.get(key):
            raise ValueError(f"config.json sets {key}, which {target.model_type} models cannot have")
    if target.model_type == "qwen3_moe" and config.get("use_sliding_window"):
        raise ValueError("config.json has a sliding window per layer, which qwen3_moe cannot have")
    dense = [i for i in range(config["num_hidden_layers"]) if i not in layers]
    if dense and target.model_type == "mixtral":
        raise ValueError(f"all layers of a mixtral model have experts, and layers {dense} would be dense")
    heads, size = config["num_attention_heads"], config["intermediate_size"] // granularity
    # Defaults differ between the families: what the source leaves out is written out.
    config.setdefault("num_key_value_heads", heads)
    config.setdefault("rms_norm_eps", 1e-6)
    config.setdefault("tie_word_embeddings", False)
    if not config.get("head_dim"):
        config["head_dim"] = config["hidden_size"] // heads
    if not config.get("rope_parameters"):
        config.setdefault("rope_theta", 10_000.0)
    config |= {"model_type": target.model_type, "architectures": [target.architecture], "num_experts_per_tok": top_k}
    if target.model_type == "mixtral":
        config |= {"num_local_experts": num_experts, "intermediate_size": size}
        config["sliding_window"] = config.get("sliding_window")
    else:
        config |= {"num_experts": num_experts, "moe_intermediate_size": size, "norm_topk_prob": True}
        config |= {"decoder_sparse_step": 1, "mlp_only_layers": dense}
    if target.model_type == "qwen2_moe":
        config |= {"shared_expert_intermediate_size": SHARED_SIZE, "qkv_bias": True}
    return config, FAMILIES[target.model_type]


def routed_targets(
    place: Place, target: Target, config: Config, naming: Naming, experts: Sequence[int]
) -> Iterable[NewTensor]:
    """What a tensor of a dense layer becomes when the layer gets experts.

    Args:
        place: The tensor.
        target: What its family becomes.
        config: The config of the Mixture-of-Experts model.
        naming: The axes of its tensors.
        experts: Routed experts of each layer.
    """
    parts = place.suffix.split(".")
    if parts[0] != "mlp" or place.layer is None:
        yield NewTensor(place)
        return
    hidden, count = config["hidden_size"], experts[place.layer]

    def new(suffix: str, *shape: int) -> NewTensor:
        return NewTensor(place.renamed(suffix, naming.axes_of(suffix)), shape or None)

    _, matrix, kind = parts
    yield new(f"{target.moe}.experts.{{e}}.{target.names[matrix]}.{kind}")
    if matrix != "gate_proj":
        return
    yield new(f"{target.moe}.gate.weight", count, hidden)
    if target.model_type == "qwen2_moe":
        yield new("mlp.shared_expert.gate_proj.weight", SHARED_SIZE, hidden)
        yield new("mlp.shared_expert.up_proj.weight", SHARED_SIZE, hidden)
        yield new("mlp.shared_expert.down_proj.weight", hidden, SHARED_SIZE)
        yield new("mlp.shared_expert_gate.weight", 1, hidden)
