"""Rotary positions (Su et al. 2021), of whole heads or of their beginnings, scaled or not.

Axes: S positions, Q the pairs that are rotated: half of ``rotary_dim``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lit_recycle.model.config import MoEConfig
from lit_recycle.model.kernels.rotary import rotate_pairs
from lit_recycle.model.rope_scaling import RopeScaling


class Rotation(NamedTuple):
    """Cosines and sines of each position's angles; float32. With documents each row has its own, ``[B, 1, S, Q]``."""

    cos_SQ: Tensor
    sin_SQ: Tensor


def rotation_of(config: MoEConfig, positions_S: Tensor) -> Rotation:
    """The rotation of positions, of any shape: pair i of position s by ``s · frequencies[i]``."""
    angles_SQ = positions_S.float().unsqueeze(-1) * frequencies(config, positions_S.device)
    if config.rope_scaling is None or (magnitude := config.rope_scaling.magnitude) == 1:
        return Rotation(angles_SQ.cos(), angles_SQ.sin())
    return Rotation(angles_SQ.cos() * magnitude, angles_SQ.sin() * magnitude)


def frequencies(config: MoEConfig, device: torch.device | None = None) -> Tensor:
    """Angle of each pair per position, ``[Q]``: ``rope_theta**(-i / Q)``, scaled as :class:`RopeScaling` says."""
    dim, scaling = config.rotary_dim, config.rope_scaling
    exponents = torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim
    frequencies_Q = 1.0 / config.rope_theta**exponents
    if scaling is None:
        return frequencies_Q
    slowed_Q = frequencies_Q / scaling.factor
    if scaling.rope_type == "linear":
        return slowed_Q
    kept_Q = (_kept_by_turns if scaling.rope_type == "llama3" else _kept_by_pair)(config, scaling, frequencies_Q)
    return slowed_Q * (1 - kept_Q) + frequencies_Q * kept_Q


def _kept_by_turns(config: MoEConfig, scaling: RopeScaling, frequencies_Q: Tensor) -> Tensor:
    """How much of each pair's frequency stays as it was: by its turns within the length of pretraining (Llama 3.1)."""
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    return ((scaling.full_turns * frequencies_Q - low) / (high - low)).clamp(0, 1)


def _kept_by_pair(config: MoEConfig, scaling: RopeScaling, frequencies_Q: Tensor) -> Tensor:
    """The same as YaRN has it: by the pair's number, between the two pairs that turn ``beta`` times."""
    dim, base = config.rotary_dim, math.log(config.rope_theta)
    fast, slow = (
        dim * math.log(scaling.full_turns / beta) / (2 * base) for beta in (scaling.beta_fast, scaling.beta_slow)
    )
    if scaling.truncate:
        fast, slow = math.floor(fast), math.ceil(slow)
    fast, slow = max(fast, 0), min(slow, dim - 1)
    pairs_Q = torch.arange(dim // 2, device=frequencies_Q.device, dtype=torch.float32)
    return 1 - ((pairs_Q - fast) / (slow - fast if slow != fast else 1e-3)).clamp(0, 1)


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Rotate the pairs ``(i, i + Q)`` of the first ``2Q`` entries of the last axis, in float32 (float64 stays)."""
    return rotate_pairs(x, *by)
