"""Random numbers that belong to a name: no order of draws, no number of processes enters."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def generator_of(*key: object) -> torch.Generator:
    """A generator on the CPU, seeded by a key: names and numbers, joined."""
    return torch.Generator().manual_seed(_seed(key))


@contextmanager
def seeded(device: torch.device, *key: object) -> Iterator[None]:
    """Let torch's own generators be seeded by a key; afterwards they are as they were."""
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device], device_type=device.type):
        torch.manual_seed(_seed(key))
        yield


def _seed(key: tuple[object, ...]) -> int:
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
