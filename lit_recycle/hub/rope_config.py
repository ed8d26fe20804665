"""Rotary positions in a ``config.json``: base, rotated share of a head, and scaling, read and written. No torch.

Since version 5 transformers has them all in ``rope_parameters``; before, they were ``rope_theta``, ``rope_scaling`` and
``partial_rotary_factor``. Both are read and written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lit_recycle.hub.family import Native
from lit_recycle.model.config import MoEConfig
from lit_recycle.model.rope_scaling import KEYS, RopeScaling, yarn_magnitude


def read_rope(config: Mapping[str, Any], native: Native) -> dict[str, Any]:
    """Keys of :class:`MoEConfig` that say what a config's rotary positions are; see :func:`rope_obstacle`."""
    rope = _rope(config)
    return {
        "rope_theta": float(rope.get("rope_theta", config.get("rope_theta", native.rope_theta))),
        "rope_fraction": _fraction(config, native),
        "rope_scaling": _scaling(config, rope),
    }


def rope_obstacle(config: Mapping[str, Any], native: Native) -> str:
    """What of a config's rotary positions our model lacks; empty where it has it all."""
    kind = _kind(_rope(config))
    if kind not in ("default", *KEYS):
        return f"rotary positions of type {kind} (rope_parameters, rope_scaling)"
    return "" if native.rope_fraction or _fraction(config, native) == 1 else "partial rotary positions"


def write_rope(config: MoEConfig, native: Native) -> dict[str, Any]:
    """The same in a ``config.json``."""
    scaling = config.rope_scaling.keys() if config.rope_scaling else {"rope_type": "default"}
    partial = {"partial_rotary_factor": config.rope_fraction} if native.rope_fraction else {}
    old = {"rope_scaling": scaling} if config.rope_scaling else {}
    return {
        "rope_parameters": {**scaling, "rope_theta": config.rope_theta, **partial},
        "rope_theta": config.rope_theta,
        **old,
        **partial,
    }


def _rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return config.get("rope_scaling") or config.get("rope_parameters") or {}


def _kind(rope: Mapping[str, Any]) -> str:
    return str(rope.get("rope_type", rope.get("type", "default")))


def _fraction(config: Mapping[str, Any], native: Native) -> float:
    said = _rope(config).get("partial_rotary_factor", config.get("partial_rotary_factor"))
    return float((native.rope_fraction or 1.0) if said is None else said)


def _scaling(config: Mapping[str, Any], rope: Mapping[str, Any]) -> RopeScaling | None:
    kind = _kind(rope)
    if kind == "default":
        return None
    values = {key: rope[key] for key in ("factor", *KEYS[kind]) if rope.get(key) is not None}
    if kind != "linear":
        longest = config.get("max_position_embeddings")
        original = config.get("original_max_position_embeddings") or rope.get(
            "original_max_position_embeddings", longest
        )
        values["original_max_position_embeddings"] = original
        if "factor" not in values and longest and original:
            values["factor"] = longest / original
    over, under = rope.get("mscale"), rope.get("mscale_all_dim")
    if kind == "yarn" and "attention_factor" not in values and over and under:
        values["attention_factor"] = yarn_magnitude(values["factor"], over) / yarn_magnitude(values["factor"], under)
    return RopeScaling(**{"rope_type": kind, **values})
