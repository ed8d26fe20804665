"""Seeded generators that belong to a name: no order of draws, no number of processes enters."""

from __future__ import annotations

import hashlib

import torch


def generator_of(*key: object) -> torch.Generator:
    """A generator on the CPU, seeded by a key: names and numbers, joined."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
