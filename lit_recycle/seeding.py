"""Random numbers that belong to a name: no order of draws, no number of processes enters."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def generator_of(*key: object) -> torch.Generator:
    """A generator on the CPU, seeded by a key: names and numbers, joined."""
    return torch.Generator().manual_seed(seed_of(*key))


@contextmanager
def seeded(device: torch.device, *key: object) -> Iterator[None]:
    """Let torch's own generators be seeded by a key; afterwards they are as they were."""
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device], device_type=device.type):
        torch.manual_seed(seed_of(*key))
        yield


def seed_of(*key: object) -> int:
    """A number below 2**63."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
