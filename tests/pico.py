"""Models of every family, small enough to build in milliseconds, with weights wild enough that routing matters."""

import functools
import json

import torch

SHAPE = dict(
    vocab_size=64,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
_LATENT = dict(
    q_lora_rank=8, kv_lora_rank=8, qk_nope_head_dim=4, qk_rope_head_dim=4, v_head_dim=4, num_key_value_heads=4
)
_MIXTRAL = dict(intermediate_size=8, num_local_experts=4, num_experts_per_tok=2)
_QWEN = dict(intermediate_size=24, moe_intermediate_size=8, num_experts=4, num_experts_per_tok=2)
_DEEPSEEK = dict(
    intermediate_size=24,
    moe_intermediate_size=8,
    n_routed_experts=8,
    num_experts_per_tok=2,
    n_shared_experts=1,
    first_k_dense_replace=1,
)
_DENSE = dict(intermediate_size=24)

FAMILIES = {
    "mixtral": _MIXTRAL,
    "olmoe": _MIXTRAL | dict(num_experts=4),
    "qwen2_moe": _QWEN | dict(shared_expert_intermediate_size=8, mlp_only_layers=[0]),
    "qwen3_moe": _QWEN | dict(head_dim=8, decoder_sparse_step=2),
    "deepseek_v2": _DEEPSEEK
    | _LATENT
    | dict(num_experts_per_tok=3, n_group=4, topk_group=2, topk_method="group_limited_greedy"),
    "deepseek_v3": _DEEPSEEK | _LATENT | dict(num_experts_per_tok=3, n_group=4, topk_group=2),
    "glm4_moe": _DEEPSEEK | dict(head_dim=4),
    "dots1": _DEEPSEEK | dict(norm_topk_prob=False, routed_scaling_factor=1.5),
    "gpt_oss": _MIXTRAL | dict(head_dim=4, sliding_window=4),
    "phimoe": _MIXTRAL,
    "granitemoe": _MIXTRAL | dict(residual_multiplier=0.5),
    "granitemoeshared": _MIXTRAL | dict(shared_intermediate_size=8),
    "ernie4_5_moe": dict(
        intermediate_size=24,
        moe_intermediate_size=8,
        moe_num_experts=4,
        moe_k=2,
        moe_num_shared_experts=1,
        moe_layer_start_index=1,
    ),
    "minimax": _MIXTRAL | dict(head_dim=4, block_size=8),
    "minimax_m2": _MIXTRAL | dict(head_dim=4),
    "hunyuan_v1_moe": dict(intermediate_size=8, num_experts=4, moe_topk=2, head_dim=4),
    "llama": _DENSE,
    "mistral": _DENSE,
    "qwen2": _DENSE,
    "qwen3": _DENSE | dict(head_dim=8),
    "ernie4_5": _DENSE | dict(head_dim=4),
    "granite": _DENSE,
    "hunyuan_v1_dense": _DENSE | dict(head_dim=4),
    "olmo2": _DENSE,
    "olmo3": _DENSE | dict(sliding_window=4),
    "phi3": _DENSE,
    "seed_oss": _DENSE | dict(head_dim=4),
    "smollm3": _DENSE | dict(no_rope_layers=[1, 0]),
}
DENSE = ("llama", "mistral", "qwen2", "qwen3", "ernie4_5", "granite", "hunyuan_v1_dense", "olmo2", "olmo3", "phi3")
DENSE += ("seed_oss", "smollm3")


def build(family, seed=0, **changes):
    """A model with weights of order one in float32."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **(SHAPE | FAMILIES[family] | changes)))
    generator = torch.Generator().manual_seed(seed)
    decays = ("slope_rate", "query_decay", "key_decay", "diagonal_decay")
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if "correction_bias" in name:
                tensor.normal_(0, 0.3, generator=generator)
            elif name.endswith("norm.weight"):
                tensor.normal_(1, 0.1, generator=generator)
            elif "rotary" not in name and "inv_freq" not in name and not name.endswith(decays):
                tensor.normal_(0, 0.3, generator=generator)
    return model.eval()


@functools.cache
def tokens(vocab_size=64):
    return torch.randint(3, vocab_size, (2, 12), generator=torch.Generator().manual_seed(1))


def logits(model):
    ids = tokens()  # not in inference mode: the cached tensor may be trained on elsewhere
    with torch.inference_mode():
        return model(ids, use_cache=False).logits


def load(folder):
    """The model in a folder; every key must be in its place."""
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind], (kind, info[kind])
    return model.eval()


def config_of(folder):
    return json.loads((folder / "config.json").read_text())
