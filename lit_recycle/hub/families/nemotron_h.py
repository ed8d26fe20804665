"""Nemotron-H and Nemotron 3: Mamba, attention and networks as layers of their own."""

from lit_recycle.hub.blocks import GROUPS, MTP_NOTE, router
from lit_recycle.hub.dense_layers import Kinds
from lit_recycle.hub.family import Family, Routing

FAMILY = Family(
    {
        "mixer.out_proj.weight": "D+ mamba*",
        "mixer.out_proj.bias": "D+",
        "mixer.o_proj.weight": "D+ (H P)*",
        "mixer.o_proj.bias": "D+",
        "mixer.up_proj.weight": "up: I D*",
        "mixer.down_proj.weight": "down: D+ I*",
        "mixer.down_proj.bias": "D+",
        **router("mixer.gate.weight"),
        "mixer.gate.e_score_correction_bias": "balance: E",
        "mixer.experts.{e}.up_proj.weight": "up: F D*",
        "mixer.experts.{e}.down_proj.weight": "down: D+ F*",
        "mixer.experts.up_proj": "up: E F D*",
        "mixer.experts.down_proj": "down: E D+ F*",
        "mixer.shared_experts.up_proj.weight": "up: S D*",
        "mixer.shared_experts.down_proj.weight": "down: D+ S*",
        "mixer.shared_experts.down_proj.bias": "D+",
        "mixer.fc2_latent_proj.weight": "D+ latent*",
        "mixer.fc2_latent_proj.bias": "D+",
    },
    Routing("sigmoid", "norm_topk_prob", True, GROUPS),
    Kinds(("layers_block_type", "hybrid_override_pattern", "layer_types"), ("moe", "E")),
    others={"embeddings.weight": "V D", "lm_head.weight": "V D*", "norm_f.weight": "D"},
    tail=r"mtp\.layers",
    outputs=1,
    note=MTP_NOTE,
)
