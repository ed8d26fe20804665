"""Batches of fixed-length samples, gathered from a memory-mapped split.

Sample i of a split holds the tokens i·S to i·S + S: S inputs and, shifted by one, S labels.

Axis suffixes: N samples, B batch, S sequence.
"""

import time
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info
from typing_extensions import override

from lit_recycle.data.blocks import VerifiedBlocks
from lit_recycle.data.corpus import Split
from lit_recycle.data.order import shuffled

Batch = dict[str, Tensor]


class Samples:
    """All samples of a split; the file is mapped on first use, in whichever process that is.

    Raises:
        ValueError: the split is shorter than one sample.
    """

    def __init__(self, split: Split, seq_len: int) -> None:
        if not split.samples(seq_len):
            raise ValueError(
                f"The {split.path.stem} split has {split.tokens} tokens, fewer than one sample of seq_len + 1 = "
                f"{seq_len + 1}; give more text, lower seq_len, or change val_fraction."
            )
        self.split, self.seq_len = split, seq_len

    def __len__(self) -> int:
        return self.split.samples(self.seq_len)

    def __getstate__(self) -> dict[str, Any]:
        return {"split": self.split, "seq_len": self.seq_len}

    @cached_property
    def _tokens_NS1(self) -> np.ndarray:
        """Every sample as a row of S + 1 tokens, a view: a row's last token is the next row's first."""
        tokens = np.asarray(np.memmap(self.split.path, dtype=self.split.dtype, mode="r"))
        shape = (len(self), self.seq_len + 1)
        strides = (self.seq_len * tokens.itemsize, tokens.itemsize)
        return np.lib.stride_tricks.as_strided(tokens, shape, strides, writeable=False)

    @cached_property
    def _blocks(self) -> VerifiedBlocks | None:
        return VerifiedBlocks(self.split.path, self.split.sums) if self.split.sums is not None else None

    def batch(self, samples: np.ndarray) -> Batch:
        """Gather samples.

        Args:
            samples: [B] indices below `len(self)`.

        Returns:
            "input_ids" and "labels", int64 of shape [B, S]; `labels[b, s]` is the token after `input_ids[b, s]`.

        Raises:
            ValueError: the file is damaged where the samples lie.
        """
        if (blocks := self._blocks) is not None:
            starts_B = samples.astype(np.int64) * (self.seq_len * self._tokens_NS1.itemsize)
            blocks.verify(starts_B, starts_B + (self.seq_len + 1) * self._tokens_NS1.itemsize)
        tokens_BS1 = self._tokens_NS1[samples]
        return {
            "input_ids": torch.from_numpy(tokens_BS1[:, :-1].astype(np.int64)),
            "labels": torch.from_numpy(tokens_BS1[:, 1:].astype(np.int64)),
        }


class TokenBatches(IterableDataset[Batch]):
    """The endless stream of training batches of one rank.

    The whole run walks through the positions 0, 1, 2, …; batch t of rank r among R holds the positions
    start + t·R·B + r·B and the B - 1 after it. `shuffled` says which sample a position is, so each epoch sees every
    sample once, whatever R and B were before `start`. With W loader processes the w-th gathers the batches w, w + W, …

    Args:
        samples: what to draw from.
        batch_size: B, of one rank.
        seed: of the order.
        start: positions that the whole run has behind it.
        rank: r.
        world_size: R.
    """

    def __init__(
        self, samples: Samples, batch_size: int, seed: int, start: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        self.samples, self.batch_size, self.seed = samples, batch_size, seed
        self.start, self.rank, self.world_size = start, rank, world_size

    @override
    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        step, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        while True:
            first = self.start + (step * self.world_size + self.rank) * self.batch_size
            positions_B = np.arange(first, first + self.batch_size)
            yield self.samples.batch(shuffled(positions_B, len(self.samples), self.seed))
            step += stride


class StreamLoader(DataLoader[Batch]):
    """Loads `TokenBatches` from wherever the run stands each time it is iterated.

    Lightning iterates anew at the start of each of its epochs (`limit_train_batches`), and has then fetched batches
    that were not trained on; asking for the position avoids both repeating and skipping.

    Args:
        stream: the batches; its `start` is set at each iteration.
        position: gives the number of positions that were trained on.
        kwargs: of `torch.utils.data.DataLoader`.

    Attributes:
        seconds_waited: time that was spent inside `next`, over all passes, while a training step could not begin.
    """

    def __init__(self, stream: TokenBatches, position: Callable[[], int], **kwargs: Any) -> None:
        super().__init__(stream, batch_size=None, **kwargs)
        self.position = position
        self.seconds_waited = 0.0

    @override
    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        self.dataset.start = self.position()  # type: ignore[attr-defined]
        return self._timed(super().__iter__())

    def _timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        while True:
            asked = time.perf_counter()
            batch = next(batches)
            self.seconds_waited += time.perf_counter() - asked
            yield batch


class EvalBatches(Dataset[Batch]):
    """A finite list of batches, the same in every run: whole batches only, so that all weigh the same in a mean.

    Their order is a fixed shuffle, so that the first few (`limit_val_batches`) come from everywhere in the split.
    """

    def __init__(self, samples: Samples, batch_size: int) -> None:
        self.samples, self.batch_size = samples, batch_size

    def __len__(self) -> int:
        return len(self.samples) // self.batch_size

    @override
    def __getitem__(self, index: int) -> Batch:
        positions_B = np.arange(index * self.batch_size, (index + 1) * self.batch_size)
        return self.samples.batch(shuffled(positions_B, len(self.samples), seed=0))
