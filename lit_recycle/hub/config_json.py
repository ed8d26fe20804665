"""What a growth does to a Hugging Face ``config.json``: numbers of experts, widths, and copied layers. No torch.

Tried against all families of ``families/``; keys that a config does not have are not added.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

from lit_recycle.growth.axes import EXPERTS
from lit_recycle.growth.sources import AXIS_NAMES, AxisMap, SourceMap
from lit_recycle.hub.config_keys import Config, is_grouped, keys_of, num_layers
from lit_recycle.hub.config_layers import grow_layers
from lit_recycle.hub.family import Family


def grown_config(
    config: Config, family: Family, sources: SourceMap, tail: int, before: Sequence[int], after: Sequence[int]
) -> Config:
    """The config of the grown model, experts per token aside.

    Args:
        config: The source's.
        family: Its family.
        sources: The map of all layers, the ``tail`` multi-token-prediction layers at the end among them.
        tail: How many those are.
        before: Routed experts of each layer of the source.
        after: Routed experts of each grown layer.

    Raises:
        ValueError: For a pattern of dense layers, attention windows or sizes that the family's config cannot express.
    """
    grown = deepcopy(config)
    grow_layers(grown, config, family, sources, tail)
    for axis in sources.axes:
        if axis == EXPERTS:
            _grow_experts(grown, family, [before[i] for i in sources.layers], after)
        else:
            _widen(grown, family, axis, sources)
    return grown


def _grow_experts(grown: Config, family: Family, before: Sequence[int], after: Sequence[int]) -> None:
    """Numbers of experts: one for all layers, or one for each where the config has a list."""
    layers = num_layers(grown, family)
    changes = {(old, new) for old, new in zip(before, after, strict=True) if new}
    for key in keys_of(family, "num_experts"):
        value = grown.get(key)
        if isinstance(value, list):
            grown[key] = [after[j] or n for j, n in enumerate(value)]
        elif value is not None:
            if len({new for _, new in changes}) > 1:
                raise ValueError(f"config.json has one {key} for all {layers} layers, and they would have {changes}")
            grown[key] = next(new for _, new in changes)
    if is_grouped(grown, family):
        assert family.routing is not None and family.routing.groups is not None
        old, new = next(iter(changes))
        key = family.routing.groups[0]
        grown[key] = grown[key] * new // old


def _widen(grown: Config, family: Family, axis: str, sources: SourceMap) -> None:
    """The size of another axis."""
    if axis not in family.sizes:
        raise ValueError(
            f"{AXIS_NAMES.get(axis, axis)} of a {grown['model_type']} folder cannot grow: not all tensors that have "
            "them are known by name; add their axes and sizes to the family"
        )
    maps = sources.axes[axis]
    sizes = {m.grown_size for m in ((maps,) if isinstance(maps, AxisMap) else maps) if m is not None}
    if len(sizes) > 1:
        raise ValueError(
            f"config.json has one {family.sizes[axis]} for all layers, and they would have {sorted(sizes)}"
        )
    head_dim = grown.get("head_dim") or grown["hidden_size"] // grown["num_attention_heads"]
    if axis == "H" and grown.get("num_key_value_heads") is None:
        grown["num_key_value_heads"] = grown["num_attention_heads"]
    grown[family.sizes[axis]] = sizes.pop()
    if axis in ("D", "H") and family.free_head_dim:
        grown["head_dim"] = head_dim


def check_heads(config: Config, family: Family, head_dim: int) -> None:
    """Raises ``ValueError`` for a config whose hidden size and heads say another size of a head than the weights."""
    if not family.free_head_dim and config["hidden_size"] != head_dim * config["num_attention_heads"]:
        raise ValueError(
            f"the config of a {config['model_type']} model has no head_dim: hidden size and heads grow together there "
            "(WidenHidden and WidenHeads with the same factor)"
        )


def with_rope_theta(config: Config, theta: float) -> Config:
    """The config with another base of the rotary positions, where it has a single one; their scaling stays.

    In every place where it stands: transformers has it in ``rope_parameters`` since version 5, beside it before.
    """
    rope = config.get("rope_parameters")
    changes: Config = {}
    if isinstance(rope, dict) and "rope_theta" in rope:
        changes = {"rope_parameters": {**rope, "rope_theta": theta}}
    if (rope is None or changes) and "rope_theta" in config and "rope_local_base_freq" not in config:
        changes |= {"rope_theta": theta}
    if not changes:
        raise ValueError(f"the config of a {config['model_type']} model has no single rope_theta")
    return {**config, **changes}
