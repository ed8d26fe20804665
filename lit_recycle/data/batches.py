"""Batches of fixed-length samples, gathered from memory-mapped tokens.

Sample i of a sequence of tokens holds the tokens i·S to i·S + S: S inputs and, shifted by one, S labels.

Axis suffixes: N samples, B batch, S sequence.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info
from typing_extensions import override

from lit_recycle.data.order import shuffled
from lit_recycle.data.stream import SampleOrder
from lit_recycle.data.tokens import Tokens

Batch = dict[str, Tensor]
LEFT_OUT = -100
"""A label that is not predicted, as in torch."""
LABEL_COUNT = "label_count"
"""Key of a batch whose labels may be left out: how many are not, in this process's whole optimizer step."""
ORIGIN = "origin"
"""Key of a batch that a growth may make obsolete: its first position, and the growths that were known."""


class Samples:
    """All samples of a sequence of tokens; neighbours share one token, the last label of the first.

    Args:
        tokens: where they are.
        seq_len: S.
        name: what messages call it.

    Raises:
        ValueError: there are too few tokens for one sample.
    """

    def __init__(self, tokens: Tokens, seq_len: int, name: str) -> None:
        self.tokens, self.seq_len, self.name = tokens, seq_len, name
        if not len(self):
            raise ValueError(
                f"{name} has {len(tokens)} tokens, fewer than one sample of seq_len + 1 = {seq_len + 1}; give more "
                "text, lower seq_len, or change val_fraction."
            )

    def __len__(self) -> int:
        return max(0, (len(self.tokens) - 1) // self.seq_len)

    def ids(self, sample: int) -> np.ndarray:
        """The S + 1 ids of a sample; raises ValueError where one is not in the vocabulary."""
        return self.tokens.read(sample * self.seq_len, self.seq_len + 1)


def batch_of(rows_B: Sequence[np.ndarray], eos_id: int | None = None) -> Batch:
    """A batch of samples.

    Args:
        rows_B: S + 1 ids each; ~id for what is not to be predicted.
        eos_id: what documents end with, where they are to be kept apart.

    Returns:
        "input_ids" and "labels", int64 of shape [B, S]; `labels[b, s]` is the token after `input_ids[b, s]`. Where
        documents are kept apart, "documents" has their numbers, which begin at 0 in each row, and the label after the
        end of a document is left out.
    """
    tokens_BS1 = np.empty((len(rows_B), len(rows_B[0])), np.int64)
    for row, ids in enumerate(rows_B):
        tokens_BS1[row] = ids
    left_out_BS1 = tokens_BS1 < 0
    np.invert(tokens_BS1, out=tokens_BS1, where=left_out_BS1)
    batch = {
        "input_ids": torch.from_numpy(tokens_BS1[:, :-1].copy()),
        "labels": torch.from_numpy(tokens_BS1[:, 1:].copy()),
    }
    batch["labels"][torch.from_numpy(left_out_BS1[:, 1:])] = LEFT_OUT
    if eos_id is not None:
        ends_BS = batch["input_ids"] == eos_id
        batch["labels"][ends_BS] = LEFT_OUT
        batch["documents"] = ends_BS.cumsum(1) - ends_BS.long()
    return batch


def label_count(batches: Iterable[Batch]) -> Tensor:
    """How many labels there are to predict."""
    return torch.stack([(batch["labels"] != LEFT_OUT).sum() for batch in batches]).sum()


class TokenBatches(IterableDataset[Batch]):
    """The endless stream of training batches of one rank.

    The whole run walks through the positions 0, 1, 2, …; batch t of rank r among R holds the positions
    start + t·R·B + r·B and the B - 1 after it. `order` says which sample a position is, whatever R and B were before
    `start`. With W loader processes the w-th gathers the batches w, w + W, …

    Args:
        samples: what to draw from, by number of the source.
        order: of the samples.
        batch_size: B, of one rank.
        start: positions that the whole run has behind it.
        rank: r.
        world_size: R.
        mark_origin: whether batches say where they come from, see `ORIGIN`.
        eos_id: what documents end with, where they are to be kept apart, see `batch_of`.
    """

    def __init__(
        self,
        samples: Sequence[Samples],
        order: SampleOrder,
        batch_size: int,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
        mark_origin: bool = False,
        eos_id: int | None = None,
    ) -> None:
        self.samples, self.order, self.batch_size = samples, order, batch_size
        self.start, self.rank, self.world_size = start, rank, world_size
        self.mark_origin, self.eos_id = mark_origin, eos_id

    @property
    def stride(self) -> int:
        """Positions of a batch of all ranks."""
        return self.world_size * self.batch_size

    def batch(self, position: int) -> Batch:
        """This rank's batch among those of all ranks that begin at a position."""
        positions_B = position + self.rank * self.batch_size + np.arange(self.batch_size)
        drawn = zip(*(part.tolist() for part in self.order.at(positions_B)), strict=True)
        batch = batch_of([self.samples[source].ids(sample) for source, sample in drawn], self.eos_id)
        if self.mark_origin:
            batch[ORIGIN] = torch.tensor([position, self.order.growths])
        return batch

    @property
    def leaves_out(self) -> bool:
        """Whether there may be labels that are not predicted."""
        return self.eos_id is not None or any(samples.tokens.leaves_out for samples in self.samples)

    def label_count(self, position: int, batches: int) -> Tensor:
        """How many labels this rank has to predict in so many batches from a position on."""
        return label_count(self.batch(position + i * self.stride) for i in range(batches))

    @override
    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        step, steps = (worker.id, worker.num_workers) if worker else (0, 1)
        position = self.start + step * self.stride
        while True:
            yield self.batch(position)
            position += steps * self.stride


class StreamLoader(DataLoader[Batch]):
    """Loads `TokenBatches` from wherever the run stands each time it is iterated.

    Lightning iterates anew at the start of each of its epochs (`limit_train_batches`), and has then fetched batches
    that were not trained on; asking for the position avoids both repeating and skipping. When the dataset is given
    another order, what was gathered ahead in the old one is dropped.

    Args:
        stream: the batches; its `start` is set at each iteration.
        position: gives the number of positions that were trained on.
        accumulate: batches of an optimizer step; where labels may be left out, batches say how many the step has.
        kwargs: of `torch.utils.data.DataLoader`.

    Attributes:
        stream: as given.
        seconds_waited: time that was spent inside `next`, over all passes, while a training step could not begin.
    """

    def __init__(self, stream: TokenBatches, position: Callable[[], int], accumulate: int = 1, **kwargs: Any) -> None:
        super().__init__(stream, batch_size=None, **kwargs)
        self.stream, self.position, self.accumulate = stream, position, accumulate
        self.seconds_waited = 0.0

    @override
    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        self.stream.start = self.position()
        return self._timed()

    def _timed(self) -> Iterator[Batch]:
        first = self.stream.start
        while True:
            order = self.stream.order
            batches: Iterator[Batch] = super().__iter__()
            if self.stream.leaves_out:
                batches = self._counted(batches, (self.stream.start - first) // self.stream.stride)
            while self.stream.order is order:
                asked = time.perf_counter()
                batch = next(batches)
                self.seconds_waited += time.perf_counter() - asked
                yield batch
                self.stream.start += self.stream.stride

    def _counted(self, batches: Iterator[Batch], number: int) -> Iterator[Batch]:
        """Add the label count of their optimizer step to batches, the first of which has a number within the epoch."""
        while True:
            behind = number % self.accumulate  # of this step, by another order: those of before a growth
            begin = self.stream.start - behind * self.stream.stride
            step = list(islice(batches, self.accumulate - behind))
            count = label_count(step)
            if behind:
                count = count + self.stream.label_count(begin, behind)
            for batch in step:
                yield batch | {LABEL_COUNT: count}
            number += len(step)


class EvalBatches(Dataset[Batch]):
    """A finite list of batches, the same in every run: whole batches only, so that all weigh the same in a mean.

    Their order is a fixed shuffle, so that the first few (`limit_val_batches`) come from everywhere in the split.
    """

    def __init__(self, samples: Samples, batch_size: int, eos_id: int | None = None) -> None:
        self.samples, self.batch_size, self.eos_id = samples, batch_size, eos_id

    def __len__(self) -> int:
        return len(self.samples) // self.batch_size

    @override
    def __getitem__(self, index: int) -> Batch:
        positions_B = np.arange(index * self.batch_size, (index + 1) * self.batch_size)
        order_B = shuffled(positions_B, len(self.samples), seed=0)
        return batch_of([self.samples.ids(sample) for sample in order_B.tolist()], self.eos_id)
