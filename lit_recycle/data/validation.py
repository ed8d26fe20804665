"""Validation sets: what losses are measured on, and what one is called."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, DistributedSampler

from lit_recycle.data.batches import Batch, EvalBatches, Samples
from lit_recycle.data.opened import Part


def _one() -> float:
    return 1.0


@dataclass(frozen=True)
class ValidationSet:
    """One of the sets that are validated on, in the order of the loaders.

    Attributes:
        name: what logs call it; empty for the split of the only source.
        tokens: how many it has, in all.
        bytes_per_token: gives the mean length of a token in bytes of text.
        is_split: whether it was split off from what is trained on; the others were named for validation only.
        samples: of it.
    """

    name: str = ""
    tokens: int = 1
    bytes_per_token: Callable[[], float] = _one
    is_split: bool = True
    samples: Samples | None = None

    @classmethod
    def of(cls, name: str, part: Part, seq_len: int, title: str, *, is_split: bool) -> ValidationSet:
        """Raises ValueError where there are too few tokens for one sample."""
        samples = Samples(part.tokens, seq_len, title)
        return cls(name, len(part.tokens), part.bytes_per_token, is_split, samples)

    def loader(
        self, batch_size: int, eos_id: int | None, replicas: dict[str, int], **options: Any
    ) -> DataLoader[Batch]:
        """Every sample once, in as many batches on each process as on the others.

        Args:
            batch_size: samples of a batch at the most. They are shared out evenly, so that a batch may have fewer; only
                where samples go one by one some batches may have two, for none can be empty.
            eos_id: what documents end with, where they are kept apart.
            replicas: how many processes there are, and which of them this is, as `DistributedSampler` takes it.
            options: of the `DataLoader`.

        Raises:
            ValueError: there are fewer samples than processes.
        """
        assert self.samples is not None
        processes, samples = replicas["num_replicas"], len(self.samples)
        if samples < processes:
            raise ValueError(
                f"{self.samples.name} has {samples} samples for {processes} processes; raise "
                "val_fraction, give more text or lower seq_len."
            )
        each = min(math.ceil(samples / (processes * batch_size)), samples // processes)
        batches = EvalBatches(self.samples, each * processes, eos_id)
        # A sampler of our own: Lightning puts one here only where trainer.use_distributed_sampler is true.
        sampler: DistributedSampler[Batch] = DistributedSampler(batches, processes, replicas["rank"], shuffle=False)
        keep = options.get("num_workers", 0) > 0
        return DataLoader(batches, batch_size=None, sampler=sampler, persistent_workers=keep, **options)
