"""A.X K2."""

from lit_recycle.hub.blocks import BALANCED, GROUPS, Axes
from lit_recycle.hub.dense_layers import Kinds
from lit_recycle.hub.family import Family, Routing


def gated_norm(at: str) -> Axes:
    """The network that gates a norm."""
    return {
        f"{at}.W_down.weight": f"{at}_down: rank D*",
        f"{at}.W_up.weight": f"{at}_up: D rank*",
        f"{at}.mlp.fc1.weight": f"{at}_down: rank D*",
        f"{at}.mlp.fc2.weight": f"{at}_up: D rank*",
    }


FAMILY = Family(
    {
        **BALANCED,
        **gated_norm("input_layernorm"),
        **gated_norm("post_attention_layernorm"),
        "self_attn.q_b_proj.weight": "query_and_gate: heads latent*",
        "self_attn.q_gate_proj.weight": "query_and_gate: heads latent*",
    },
    Routing("sigmoid", "norm_topk_prob", True, GROUPS),
    Kinds(),
)
