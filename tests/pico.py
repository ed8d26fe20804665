"""Models of every family, small enough to build in milliseconds, with weights wild enough that routing matters."""

import functools
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from lit_recycle.growth.event import Depth, Width
from lit_recycle.hub import families as models

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
_DEEPSEEK_SIZES = dict(intermediate_size=24, moe_intermediate_size=8, num_experts_per_tok=2)
_INDEXER = dict(index_head_dim=8, index_n_heads=2, index_topk=64)
_MIXTRAL_SIZES = dict(intermediate_size=8, num_experts_per_tok=2)
_QWEN_NEXT = dict(
    moe_intermediate_size=8,
    shared_expert_intermediate_size=8,
    num_experts=4,
    num_experts_per_tok=2,
    head_dim=8,
    linear_num_key_heads=2,
    linear_num_value_heads=4,
    linear_key_head_dim=4,
    linear_value_head_dim=4,
    layer_types=["linear_attention", "full_attention"],
)
_QWEN4 = _QWEN_NEXT | dict(
    hc_lowrank=4,
    hc_count=2,
    indexer_n_heads=2,
    indexer_kv_heads=1,
    indexer_head_dim=8,
    indexer_budget=64,
    indexer_compress_ratio=2,
    layer_types=["linear_attention", "indexed_attention"],
)
_GEMMA4 = dict(
    intermediate_size=24,
    moe_intermediate_size=8,
    num_experts=4,
    top_k_experts=2,
    enable_moe_block=True,
    head_dim=4,
    global_head_dim=8,
    hidden_size_per_layer_input=0,
    vocab_size_per_layer_input=64,
    sliding_window=4,
    layer_types=["sliding_attention", "full_attention"],
)
_LLAMA4 = _MIXTRAL | dict(intermediate_size_mlp=24, head_dim=4, interleave_moe_layer_step=2, no_rope_layer_interval=2)
_DENSE = dict(intermediate_size=24)
_GEMMA3 = dict(intermediate_size=24, head_dim=4, sliding_window=4, layer_types=["sliding_attention", "full_attention"])
_VISION = dict(
    hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
)

_ARIA = dict(intermediate_size=8, moe_num_experts=4, moe_topk=2, moe_num_shared_experts=1, head_dim=4)
_MINIMAX_M3 = dict(intermediate_size=8, dense_intermediate_size=24, shared_intermediate_size=8) | dict(
    num_local_experts=4, num_experts_per_tok=2, head_dim=4, rotary_dim=4, mlp_layer_types=["dense", "sparse"]
)
_DOTS3 = (
    _DEEPSEEK
    | _LATENT
    | _INDEXER
    | dict(layer_types=["indexed_attention"] * 2, head_dim=8)
    | dict(shared_experts_intermediate_size=8, n_group=1, topk_group=1)
)

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
    "afmoe": _DEEPSEEK_SIZES | dict(num_experts=4, num_dense_layers=1, head_dim=4, sliding_window=4),
    "aria": dict(text_config=_ARIA, vision_config=_VISION),
    "aria_text": _ARIA,
    "axk1": _DEEPSEEK | _LATENT | dict(num_experts_per_tok=3, n_group=4, topk_group=2),
    "axk2": _DEEPSEEK | _LATENT | _INDEXER | dict(gated_norm_rank=2),
    "bailing_hybrid": _DEEPSEEK_SIZES
    | _LATENT
    | dict(num_local_experts=4, n_group=1, topk_group=1, first_k_dense_replace=1, head_dim=4, layer_group_size=2)
    | dict(num_mtp_layers=0),
    "beam": _QWEN | dict(head_dim=4, n_group=1, topk_group=1, mlp_layer_types=["dense", "sparse"], sliding_window=4),
    "cohere2_moe": dict(intermediate_size=8, num_experts=4, num_experts_per_tok=2, head_dim=4, num_shared_experts=1)
    | dict(expert_selection_fn="sigmoid", norm_topk_prob=False, logit_scale=1.0, sliding_window=4),
    "deepseek_v32": _DEEPSEEK | _LATENT | _INDEXER | dict(num_experts_per_tok=3, n_group=4, topk_group=2),
    "dots3_note": _DOTS3,
    "dots3_note_text": _DOTS3,
    "exaone_moe": _DEEPSEEK_SIZES
    | dict(num_experts=4, num_shared_experts=1, first_k_dense_replace=1, sliding_window=4),
    "flex_olmo": _MIXTRAL_SIZES | dict(num_experts=4),
    "flint": _QWEN
    | dict(shared_expert_intermediate_size=8, head_dim=4, mlp_only_layers=[0], norm_topk_prob=False, sliding_window=4),
    "gemma4": dict(text_config=_GEMMA4),
    "gemma4_text": _GEMMA4,
    "glm4_moe_lite": _DEEPSEEK | _LATENT,
    "glm_moe_dsa": _DEEPSEEK | _LATENT | _INDEXER,
    "granitemoe_swa": _MIXTRAL | dict(shared_intermediate_size=8, sliding_window=4, residual_multiplier=0.5),
    "granitemoehybrid": _MIXTRAL
    | dict(shared_intermediate_size=8, layer_types=["linear_attention", "full_attention"], mamba_n_heads=4)
    | dict(mamba_d_state=4, mamba_chunk_size=4),
    "hy_v3": _QWEN | dict(num_shared_experts=1, head_dim=4),
    "hy_v4": _DEEPSEEK_SIZES | _LATENT | _INDEXER | dict(n_routed_experts=4, n_shared_experts=1, head_dim=4),
    "jamba": dict(intermediate_size=24, num_experts=4, attn_layer_period=2, attn_layer_offset=1)
    | dict(mamba_d_state=4, use_mamba_kernels=False),
    "jetmoe": dict(intermediate_size=8, num_local_experts=4, num_experts_per_tok=2, kv_channels=4),
    "kimi_k2": _DEEPSEEK | _LATENT | dict(n_group=1, topk_group=1),
    "kimi_linear": _DEEPSEEK_SIZES
    | _LATENT
    | dict(q_lora_rank=None, num_local_experts=4, n_group=1, topk_group=1, linear_head_dim=4, linear_num_heads=4)
    | dict(layer_types=["linear_attention", "full_attention"]),
    "kolibri1": dict(moe_intermediate_size=8, shared_expert_intermediate_size=8, num_local_experts=4)
    | dict(num_experts_per_tok=2, head_dim=4, sliding_window=4),
    "laguna": _QWEN | dict(shared_expert_intermediate_size=8, head_dim=4),
    "lfm2_moe": _QWEN | dict(num_dense_layers=1, layer_types=["conv", "full_attention"]),
    "llama4": _LLAMA4,
    "llama4_text": _LLAMA4,
    "mellum": _DEEPSEEK_SIZES | dict(head_dim=4, num_local_experts=4),
    "mimo_v2_flash": _DEEPSEEK_SIZES
    | dict(n_routed_experts=4, head_dim=8, v_head_dim=4, sliding_window=4, n_group=1, topk_group=1)
    | dict(layer_types=["full_attention", "sliding_attention"]),
    "minimax_m3_vl": dict(text_config=_MINIMAX_M3, vision_config=_VISION),
    "minimax_m3_vl_text": _MINIMAX_M3,
    "mistral4": _DEEPSEEK | _LATENT,
    "nemotron_h": _DEEPSEEK_SIZES
    | dict(layers_block_type=["moe", "full_attention"], n_routed_experts=4, moe_shared_expert_intermediate_size=8)
    | dict(head_dim=4, mamba_num_heads=4, mamba_head_dim=8, n_groups=2, ssm_state_size=4, chunk_size=4),
    "qwen3_5_moe": _QWEN_NEXT,
    "qwen3_5_moe_text": _QWEN_NEXT,
    "qwen3_next": _QWEN_NEXT | dict(intermediate_size=24, mlp_only_layers=[0]),
    "qwen4_exp": _QWEN4,
    "qwen4_exp_text": _QWEN4,
    "solar_open": _DEEPSEEK_SIZES | dict(n_routed_experts=4, head_dim=4),
    "llama": _DENSE,
    "mistral": _DENSE,
    "qwen2": _DENSE,
    "qwen3": _DENSE | dict(head_dim=8),
    "ernie4_5": _DENSE | dict(head_dim=4, tie_word_embeddings=False),
    "granite": _DENSE,
    "hunyuan_v1_dense": _DENSE | dict(head_dim=4),
    "olmo2": _DENSE,
    "olmo3": _DENSE | dict(sliding_window=4),
    "phi3": _DENSE,
    "seed_oss": _DENSE | dict(head_dim=4),
    "smollm3": _DENSE | dict(no_rope_layers=[1, 0]),
    "apertus": _DENSE,
    "arcee": _DENSE,
    "cohere2": _DENSE | dict(head_dim=4, sliding_window=4, logit_scale=1.0),
    "exaone4": _DENSE | dict(sliding_window=4, sliding_window_pattern=2),
    "gemma2": _DENSE | dict(head_dim=4, sliding_window=4),
    "gemma3": dict(text_config=_GEMMA3, vision_config=_VISION),
    "gemma3_text": _GEMMA3,
    "glm4": _DENSE | dict(head_dim=4),
    "nemotron": _DENSE | dict(head_dim=4),
    "olmo": _DENSE,
    "starcoder2": _DENSE,
    "cohere": _DENSE | dict(logit_scale=1.0),
    "gemma": _DENSE | dict(head_dim=4),
    "gpt_neox": _DENSE,
    "phi": _DENSE,
    "stablelm": _DENSE,
}
DENSE = [name for name in FAMILIES if models.FAMILIES[name].routing is None]
UPCYCLED = {name: models.FAMILIES[name].becomes for name in DENSE if models.FAMILIES[name].becomes}
"""Dense families, and the one that each becomes when it gets experts."""
WITHOUT_WINDOWS = {"olmo3": dict(layer_types=["full_attention"] * 2)}
"""What a dense model must have besides to get experts."""
AS = {"kimi_k2": "deepseek_v3"}
"""Types that transformers does not know, and the type whose code they are loaded with."""
INSIDE = {
    "dots3_note": (
        "dots3_note_text",
        "model.",
        dict(vision_config=dict(adapter_out_dim=16), audio_config=dict(adapter_out_dim=16)),
    ),
    "llama4": ("llama4_text", "language_model.model.", {}),
    "qwen3_5_moe": ("qwen3_5_moe_text", "model.language_model.", {}),
    "qwen4_exp": ("qwen4_exp_text", "model.language_model.", {}),
}
"""Models of more than text: the language model, which is built alone, the prefix that its tensors get, other keys."""


def build(family, seed=0, **changes):
    """A model with weights of order one in float32."""
    from transformers import AutoConfig

    torch.manual_seed(seed)
    values = FAMILIES[family]
    if "text_config" in values:
        text = SHAPE | values["text_config"] | changes
        config = AutoConfig.for_model(family, **(values | {"text_config": text}))
    else:
        name = INSIDE[family][0] if family in INSIDE else AS.get(family, family)
        config = AutoConfig.for_model(name, **(SHAPE | values | changes))
    return wild(auto_class(config).from_config(config), seed)


def wild(model, seed=0):
    """A model with weights of order one."""
    generator = torch.Generator().manual_seed(seed)
    decays = ("slope_rate", "query_decay", "key_decay", "diagonal_decay")
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if "correction_bias" in name or "expert_bias" in name:
                tensor.normal_(0, 0.3, generator=generator)
            elif name.endswith("norm.weight"):
                tensor.normal_(1, 0.1, generator=generator)
            elif (
                tensor.is_floating_point()
                and "rotary" not in name
                and "inv_freq" not in name
                and "embed_scale" not in name
                and not name.endswith(decays)
            ):
                tensor.normal_(0, 0.3, generator=generator)
    return model.eval()


BY_PERIODS = ("jamba",)
"""Families whose config repeats one pattern, and whose layers are copied by whole periods."""
QUICK = ("mixtral", "deepseek_v3", "gpt_oss", "nemotron_h", "qwen3_5_moe", "llama")
"""Families, each of another structure, that every run of the tests tries; ``make families`` tries all."""


def each(names):
    """Parameters of a test of families."""
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.families) for name in names]


def depth(family, **options):
    """Each layer twice, in a way that the family's config can say."""
    return Depth(2, **{"method": "stack" if family in BY_PERIODS else "interposition"} | options)


def width(family, noise):
    """Each expert twice, in a way that the family's router allows."""
    return Width(2, noise=noise, top_k="keep" if family == "phimoe" else "scale")


@functools.cache
def tokens(vocab_size=64):
    return torch.randint(3, vocab_size, (2, 12), generator=torch.Generator().manual_seed(1))


def logits(model):
    ids = tokens()  # not in inference mode: the cached tensor may be trained on elsewhere
    with torch.inference_mode():
        return model(ids, use_cache=False).logits


def auto_class(config):
    """The class of transformers that loads a model of text."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    return AutoModelForCausalLM if type(config) in AutoModelForCausalLM._model_mapping else AutoModelForImageTextToText


def save(model, family, folder, **options):
    """Write a model as the hub has it."""
    model.save_pretrained(folder, **options)
    config = config_of(folder)
    if family in AS:
        (folder / "config.json").write_text(json.dumps(config | {"model_type": family}))
    if family in INSIDE:
        _, prefix, more = INSIDE[family]
        (folder / "config.json").write_text(json.dumps({"model_type": family, "text_config": config, **more}))
        tensors = load_file(folder / "model.safetensors")
        renamed = {name.replace("model.", prefix, 1): t for name, t in tensors.items()}
        save_file(renamed, folder / "model.safetensors", {"format": "pt"})


def load(folder):
    """The model in a folder; every key must be in its place."""
    from transformers import AutoConfig

    values = config_of(folder)
    if values["model_type"] in AS:
        config = AutoConfig.for_model(AS[values.pop("model_type")], **values)
    else:
        config = AutoConfig.from_pretrained(folder)
    loaded = auto_class(config).from_pretrained(folder, config=config, dtype=torch.float32, output_loading_info=True)
    model, info = loaded
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind], (kind, info[kind])
    return model.eval()


def config_of(folder):
    return json.loads((folder / "config.json").read_text())
