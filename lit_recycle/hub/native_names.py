"""Where each tensor of our model is kept in a Hugging Face folder: names and how parts are put together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from lit_recycle.hub.families import FAMILIES
from lit_recycle.hub.joined import Joined, Value, whole
from lit_recycle.model.config import MoEConfig
from lit_recycle.model.transformer import MoETransformer

_TOP = {"embed.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight"}
_LAYER = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}


@dataclass(frozen=True)
class Parts:
    """The tensors of the hub that one tensor of ours is made of.

    Args:
        names: For each expert (one entry where there are none) the tensors that are stacked along rows.
        stacked: Experts have an axis of their own.
        fused: The one tensor that holds all of it in a fused layout.
    """

    names: tuple[tuple[str, ...], ...]
    stacked: bool = False
    fused: str | None = None

    def join(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Our tensor, from the hub's."""
        return whole(self.joined(tensors))

    def joined(self, tensors: Mapping[str, Tensor]) -> Value:
        """Our tensor, whose pieces are read when they are needed."""
        if self.fused is not None and self.fused in tensors:
            return tensors[self.fused]
        rows = [partial(_rows, tensors, names) for names in self.names]
        return Joined(rows, stacked=True) if self.stacked else rows[0]()

    def split(self, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The hub's tensors, from ours; views of it."""
        # A scalar, as an optimizer keeps, belongs to each part.
        experts = tensor if self.stacked and tensor.dim() else (tensor,) * len(self.names)
        for names, rows in zip(self.names, experts, strict=True):
            parts = rows.chunk(len(names)) if rows.dim() else (rows,) * len(names)
            yield from zip(names, parts, strict=True)


def _rows(tensors: Mapping[str, Tensor], names: tuple[str, ...]) -> Value:
    return Joined([partial(tensors.__getitem__, name) for name in names]) if len(names) > 1 else tensors[names[0]]


def hub_parts(config: MoEConfig, family: str) -> dict[str, Parts]:
    """For each entry of our model's ``state_dict`` its parts on the hub."""
    return {
        name: _parts(name, config, family)
        for name in native_shapes(config)
        if not (config.tie_embeddings and name == "lm_head.weight")
    }


def native_shapes(config: MoEConfig) -> dict[str, torch.Size]:
    """Names and shapes of our model's ``state_dict``; nothing is allocated."""
    with torch.device("meta"):
        model: nn.Module = MoETransformer(config)
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _parts(name: str, config: MoEConfig, family: str) -> Parts:
    if not name.startswith("layers."):
        return Parts(((_TOP.get(name, name),),))
    _, layer, suffix = name.split(".", 2)
    at, native = f"model.layers.{layer}", FAMILIES[family].native
    assert native is not None
    moe, (gate, up, down) = f"{at}.{native.moe}", native.expert
    experts = range(config.num_experts)
    match suffix.split("."):
        case ["attn_norm" | "ffn_norm" as norm, kind]:
            return Parts(((f"{at}.{_LAYER[norm]}.{kind}",),))
        case ["attn", *rest]:
            return Parts(((".".join([at, "self_attn", *rest]),),))
        case ["mlp", "gate_up", "weight"]:
            return Parts(((f"{at}.mlp.gate_proj.weight", f"{at}.mlp.up_proj.weight"),))
        case ["mlp", "down", "weight"]:
            return Parts(((f"{at}.mlp.down_proj.weight",),))
        case ["moe", "router", "weight"]:
            return Parts(((f"{moe}.gate.weight",),))
        case ["moe", "router", "balance_bias"]:
            return Parts(((f"{moe}.gate.e_score_correction_bias",),))
        case ["moe", "experts", "gate_up"]:
            names = tuple((f"{moe}.experts.{e}.{gate}.weight", f"{moe}.experts.{e}.{up}.weight") for e in experts)
            return Parts(names, stacked=True, fused=f"{at}.mlp.experts.gate_up_proj")
        case ["moe", "experts", "down"]:
            return Parts(
                tuple((f"{moe}.experts.{e}.{down}.weight",) for e in experts),
                stacked=True,
                fused=f"{at}.mlp.experts.down_proj",
            )
        case ["moe", "shared", matrix, "weight"]:
            shared = f"{moe}.{native.shared}"
            matrices = (f"{shared}.gate_proj.weight", f"{shared}.up_proj.weight")
            return Parts((matrices if matrix == "gate_up" else (f"{shared}.down_proj.weight",),))
        case ["moe", "shared_gate", "weight"]:
            return Parts(((f"{moe}.shared_expert_gate.weight",),))
    raise AssertionError(f"no name on the hub for {name}")
