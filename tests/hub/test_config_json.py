"""What growth does to the keys of a config.json."""

import pytest

from lit_recycle.growth.event import Depth, Width
from lit_recycle.growth.plan import plan_growth
from lit_recycle.hub.families import FAMILIES
from lit_recycle.hub.model import HubModel


def grown(family, depth=None, width=None, **keys):
    sizes = {"hidden_size": 8, "num_attention_heads": 2}
    config = {"model_type": family, "num_hidden_layers": 3} | keys
    model = HubModel(sizes | config, FAMILIES[family], (4, 4, 4))
    return plan_growth(model, [form.operator for form in (depth, width) if form]).after.config


_JAMBA = {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1}


def test_all_names_of_a_key_are_rewritten():
    config = grown(
        "gpt_oss", width=Width(2), num_local_experts=4, num_experts_per_tok=2, experts_per_token=2, head_dim=4
    )
    assert (config["num_local_experts"], config["num_experts_per_tok"], config["experts_per_token"]) == (8, 4, 4)
    assert config["head_dim"] == 4 and "layer_types" not in config


def test_top_k_may_be_kept():
    assert (
        grown("olmoe", width=Width(2, top_k="keep"), num_experts=4, num_experts_per_tok=2)["num_experts_per_tok"] == 2
    )


@pytest.mark.parametrize(
    ("family", "depth", "before", "after"),
    [
        ("gpt_oss", Depth(2), {"layer_types": ["a", "b", "c"]}, {"layer_types": ["a", "a", "b", "b", "c", "c"]}),
        ("gpt_oss", Depth(layers=(0, 2, 1)), {}, {"layer_types": ["sliding_attention"] * 2 + ["full_attention"]}),
        ("minimax", Depth(2, method="stack"), {"attn_type_list": [0, 0, 1]}, {"attn_type_list": [0, 0, 1, 0, 0, 1]}),
        ("hunyuan_v1_moe", Depth(layers=(1, 2)), {"moe_topk": [1, 2, 3]}, {"moe_topk": [2, 3]}),
        ("smollm3", Depth(2), {"no_rope_layers": [1, 1, 0]}, {"no_rope_layers": [1, 1, 1, 1, 0, 0]}),
        ("deepseek_v3", Depth(2), {"first_k_dense_replace": 1}, {"first_k_dense_replace": 2}),
        ("deepseek_v3", Depth(2, keep_first=1), {"first_k_dense_replace": 1}, {"first_k_dense_replace": 1}),
        ("qwen3_moe", Depth(2, method="stack"), {"mlp_only_layers": [0]}, {"mlp_only_layers": [0, 3]}),
        (
            "qwen2_moe",
            Depth(2),
            {"decoder_sparse_step": 2, "mlp_only_layers": []},
            {"decoder_sparse_step": 1, "mlp_only_layers": [0, 1, 4, 5]},
        ),
        (
            "ernie4_5_moe",
            Depth(2),
            {"moe_layer_start_index": 1, "moe_layer_end_index": -1},
            {"moe_layer_start_index": 2, "moe_layer_end_index": 5, "moe_layer_interval": 1},
        ),
        ("qwen2", Depth(2), {"max_window_layers": 2, "use_sliding_window": True}, {"max_window_layers": 4}),
        # Lists that the config leaves out are written, unless a number says as much.
        ("deepseek_v32", Depth(2), {"first_k_dense_replace": 1}, {"first_k_dense_replace": 2}),
        (
            "glm4_moe_lite",
            Depth(2, method="stack"),
            {"first_k_dense_replace": 1},
            {"mlp_layer_types": ["dense", "sparse", "sparse"] * 2},
        ),
        (
            "mimo_v2_flash",
            Depth(2),
            {"moe_layer_freq": [0, 1, 1]},
            {
                "moe_layer_freq": [0, 0, 1, 1, 1, 1],
                "mlp_layer_types": ["dense"] * 2 + ["sparse"] * 4,
                "layer_types": ["full_attention"] * 2 + ["sliding_attention"] * 4,
            },
        ),
        ("smollm3", Depth(2), {"no_rope_layer_interval": 2}, {"no_rope_layers": [1, 1, 0, 0, 1, 1]}),
        (
            "glm_moe_dsa",
            Depth(2),
            {"first_k_dense_replace": 0, "index_topk_freq": 2, "index_skip_topk_offset": 1},
            {"indexer_types": ["full", "full", "shared", "shared", "full", "full"]},
        ),
        # Lists of indices, entries by index, letters.
        (
            "kimi_linear",
            Depth(2),
            {"linear_attn_config": {"full_attn_layers": [3], "kda_layers": [1, 2]}},
            {
                "linear_attn_config": {"full_attn_layers": [5, 6], "kda_layers": [1, 2, 3, 4]},
                "layer_types": ["linear_attention"] * 4 + ["full_attention"] * 2,
            },
        ),
        ("llama4_text", Depth(2), {"moe_layers": [1]}, {"moe_layers": [2, 3]}),
        ("llama4_text", Depth(2), {"interleave_moe_layer_step": 2}, {"moe_layers": [2, 3]}),
        (
            "gemma4_text",
            Depth(layers=(0, 2, 2)),
            {"layer_types": ["a", "a", "b"], "per_layer_config": {"2": {"head_dim": 8}}},
            {"layer_types": ["a", "b", "b"], "per_layer_config": {"1": {"head_dim": 8}, "2": {"head_dim": 8}}},
        ),
        ("nemotron_h", Depth(2), {"hybrid_override_pattern": "ME*"}, {"hybrid_override_pattern": "MMEE**"}),
        (
            "minimax_m3_vl_text",
            Depth(2),
            {"sparse_attention_config": {"sparse_attention_freq": [0, 1, 1]}, "moe_layer_freq": [1, 1, 1]},
            {"sparse_attention_config": {"sparse_attention_freq": [0, 0, 1, 1, 1, 1]}},
        ),
        ("jamba", Depth(layers=(0, 1, 0, 1, 2)), _JAMBA, {"num_hidden_layers": 5}),
    ],
)
def test_keys_about_layers(family, depth, before, after):
    config = grown(family, depth, **before)
    assert {key: config[key] for key in after} == after


@pytest.mark.parametrize(
    ("family", "keys", "message"),
    [
        ("deepseek_v3", {"first_k_dense_replace": 1}, "cannot express dense layers at \\[0, 3\\]"),
        ("ernie4_5_moe", {"moe_layer_start_index": 1}, "cannot express dense layers"),
        (
            "qwen2",
            {"max_window_layers": 2, "use_sliding_window": True, "sliding_window": 8},
            "add the list layer_types",
        ),
        ("gpt_oss", {"layer_types": ["a"]}, "layer_types has 1 entries for 3 layers"),
        ("jamba", _JAMBA, "cannot express layer_types linear_attention, full_attention, linear_attention, linear_"),
        ("gemma4_text", {"num_kv_shared_layers": 2}, "use keys and values of earlier ones, so the layers"),
        ("qwen4_exp_text", {"ple_layer_ids": [1]}, "n-grams has a size of its own, so the layers"),
    ],
)
def test_what_a_config_cannot_express_is_refused(family, keys, message):
    with pytest.raises(ValueError, match=message):
        grown(family, Depth(2, method="stack"), **keys)


def test_copies_are_no_identities_where_layers_go_by_earlier_ones():
    for kinds, holds in ((["full"] * 3, True), (["full", "shared", "full"], False)):
        config = {"num_hidden_layers": 3, "indexer_types": kinds}
        model = HubModel(config, FAMILIES["glm_moe_dsa"], (4, 4, 4))
        assert ("normalised residual" not in model.traits) == holds


def test_a_config_inside_of_another_is_found_and_put_back():
    whole = {"model_type": "llama4", "image": 1, "text_config": {"num_hidden_layers": 3}}
    family = FAMILIES["llama4"]
    assert family.text_of(whole) == {"num_hidden_layers": 3}
    assert family.with_text(whole, {"num_hidden_layers": 6}) == whole | {"text_config": {"num_hidden_layers": 6}}
    alone = {"model_type": "llama4", "num_hidden_layers": 3}
    assert family.text_of(alone) == alone and family.with_text(alone, {"a": 1}) == {"a": 1}


def test_groups_multiply_with_the_experts():
    keys = dict(n_routed_experts=8, num_experts_per_tok=2, norm_topk_prob=True, routed_scaling_factor=2.5)
    config = grown("deepseek_v3", width=Width(3), n_group=4, topk_group=2, **keys)
    assert (config["n_group"], config["topk_group"], config["routed_scaling_factor"]) == (12, 6, 2.5)
    config = grown("deepseek_v3", width=Width(3), n_group=1, topk_group=1, **keys)
    assert (config["n_group"], config["topk_group"]) == (1, 1)


def test_sigmoid_scores_that_add_up_are_scaled_down():
    keys = dict(n_routed_experts=8, num_experts_per_tok=2, norm_topk_prob=False)
    assert grown("dots1", width=Width(2), routed_scaling_factor=3.0, **keys)["routed_scaling_factor"] == 1.5
    kept = grown("dots1", width=Width(2, top_k="keep"), routed_scaling_factor=3.0, **keys)
    assert kept["routed_scaling_factor"] == 3.0
    with pytest.raises(ValueError, match="has no routed_scaling_factor"):
        grown("dots1", width=Width(2), **keys)
