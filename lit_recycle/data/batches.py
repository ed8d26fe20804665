"""Batches of rows of one length, gathered from memory-mapped tokens.

Sample i of a sequence of tokens holds the tokens i·S to i·S + S: S inputs and, shifted by one, S labels. A row is a
sample, or what `lit_recycle.data.cut` makes of samples.

Axis suffixes: N samples, B batch, S sequence.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info
from typing_extensions import override

from lit_recycle.data.cut import Cut, Piece
from lit_recycle.data.order import shuffled
from lit_recycle.data.stream import SampleOrder
from lit_recycle.data.tokens import Tokens

Batch = dict[str, Tensor]
"""``input_ids`` and ``labels``, each ``[B, S]``; a label is the token after its input, or -100 to leave it out.

``documents``, ``[B, S]``, has the numbers of documents that are kept apart, if they are. Where labels are left out,
``label_count`` says how many are not in this process's whole optimizer step: its loss is the mean over all of them.
"""
LEFT_OUT = -100
"""A label that is not predicted, as in torch."""
LABEL_COUNT = "label_count"
"""Key of a batch whose labels may be left out: how many are not, in this process's whole optimizer step."""
STRETCH = 1024
"""Positions whose samples are worked out together."""
ORIGIN = "origin"
"""Key of a batch that may have become obsolete: its first row, the rows of such batches, the `Reading`'s version."""


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

    def ids(self, sample: int, offset: int = 0, count: int | None = None) -> np.ndarray:
        """The S + 1 ids of a sample, or `count` + 1 of them; raises ValueError where one is not in the vocabulary."""
        count = self.seq_len if count is None else count
        return self.tokens.read(sample * self.seq_len + offset, count + 1)


def batch_of(rows_B: Sequence[np.ndarray], eos_id: int | None = None) -> Batch:
    """A batch of samples, each S + 1 ids; see `batch_of_pieces`."""
    return batch_of_pieces([[ids] for ids in rows_B], eos_id)


def batch_of_pieces(rows_B: Sequence[Sequence[np.ndarray]], eos_id: int | None = None) -> Batch:
    """A batch of rows, each made of pieces of samples.

    Args:
        rows_B: of each piece the ids and the one after it, S + 1 for a row of one piece; ~id for what is not to be
            predicted.
        eos_id: what documents end with, where they are to be kept apart.

    Returns:
        "input_ids" and "labels", int64 of shape [B, S]; `labels[b, s]` is the token after `input_ids[b, s]`, in its
        piece. Where documents are kept apart, "documents" has their numbers, which begin at 0 in each row, and the
        label after the end of a document is left out; pieces are documents of their own.
    """
    length = sum(len(piece) - 1 for piece in rows_B[0])
    ids_BS, labels_BS = (np.empty((len(rows_B), length), np.int64) for _ in range(2))
    seams: list[tuple[int, int]] = []
    for row, pieces in enumerate(rows_B):
        end = 0
        for piece in pieces:
            begin, end = end, end + len(piece) - 1
            ids_BS[row, begin:end], labels_BS[row, begin:end] = piece[:-1], piece[1:]
            if begin:
                seams.append((row, begin))
    np.invert(ids_BS, out=ids_BS, where=ids_BS < 0)
    labels_BS[labels_BS < 0] = LEFT_OUT
    batch = {"input_ids": torch.from_numpy(ids_BS), "labels": torch.from_numpy(labels_BS)}
    if eos_id is not None:
        ends_BS = batch["input_ids"] == eos_id
        batch["labels"][ends_BS] = LEFT_OUT
        begins_BS = torch.zeros_like(batch["input_ids"])
        begins_BS[:, 1:] = ends_BS[:, :-1]
        for row, begin in seams:
            begins_BS[row, begin] = 1
        batch["documents"] = begins_BS.cumsum(1)
    return batch


def label_count(batches: Iterable[Batch]) -> Tensor:
    """How many labels there are to predict."""
    return torch.stack([(batch["labels"] != LEFT_OUT).sum() for batch in batches]).sum()


@dataclass(frozen=True)
class Reading:
    """How batches are read, until that changes between two optimizer steps.

    Attributes:
        order: of the samples.
        cut: of them into rows.
        batch_size: rows of a batch of one rank.
        accumulate: batches of an optimizer step.
        version: its number in the run.
    """

    order: SampleOrder
    cut: Cut
    batch_size: int
    accumulate: int = 1
    version: int = 0


class TokenBatches(IterableDataset[Batch]):
    """The endless stream of training batches of one rank.

    The whole run walks through the rows 0, 1, 2, …; batch t of rank r among R holds the rows start + t·R·B + r·B and
    the B - 1 after it. `reading` says which tokens a row has, whatever R and B were before `start`. With W loader
    processes the w-th gathers the batches w, w + W, …

    Args:
        samples: what to draw from, by number of the source.
        reading: how; B is its batch size.
        start: rows that the whole run has behind it.
        rank: r.
        world_size: R.
        mark_origin: whether batches say where they come from, see `ORIGIN`.
        eos_id: what documents end with, where they are to be kept apart, see `batch_of_pieces`.
    """

    def __init__(
        self,
        samples: Sequence[Samples],
        reading: Reading,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
        mark_origin: bool = False,
        eos_id: int | None = None,
    ) -> None:
        self.samples, self.reading = samples, reading
        self.start, self.rank, self.world_size = start, rank, world_size
        self.mark_origin, self.eos_id = mark_origin, eos_id
        self._stretch: tuple[SampleOrder, int, np.ndarray, np.ndarray] | None = None

    @property
    def stride(self) -> int:
        """Rows of a batch of all ranks."""
        return self.world_size * self.reading.batch_size

    def batch(self, row: int) -> Batch:
        """This rank's batch among those of all ranks that begin at a row."""
        first, cut = row + self.rank * self.reading.batch_size, self.reading.cut
        cuts = [list(cut.pieces(r)) for r in range(first, first + self.reading.batch_size)]
        positions_N = np.array([piece.position for pieces in cuts for piece in pieces])
        drawn = zip(*(part.tolist() for part in self._drawn(positions_N)), strict=True)
        rows_B = [[self._ids(next(drawn), piece) for piece in pieces] for pieces in cuts]
        batch = batch_of_pieces(rows_B, self.eos_id)
        if self.mark_origin:
            batch[ORIGIN] = torch.tensor([row, self.stride, self.reading.version])
        return batch

    def _drawn(self, position_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`SampleOrder.at`, worked out for a stretch of positions at once: a thousand take little longer than eight."""
        order, first, last = self.reading.order, int(position_N.min()), int(position_N.max())
        if last - first >= STRETCH:
            return order.at(position_N)
        known = self._stretch
        if known is None or known[0] is not order or not known[1] <= first <= last < known[1] + STRETCH:
            known = self._stretch = order, first, *order.at(np.arange(first, first + STRETCH))
        _, begin, source_N, sample_N = known
        return source_N[position_N - begin], sample_N[position_N - begin]

    def _ids(self, drawn: tuple[int, int], piece: Piece) -> np.ndarray:
        source, sample = drawn
        return self.samples[source].ids(sample, piece.offset, piece.tokens)

    @property
    def leaves_out(self) -> bool:
        """Whether there may be labels that are not predicted."""
        return self.eos_id is not None or any(samples.tokens.leaves_out for samples in self.samples)

    def label_count(self, row: int, batches: int) -> Tensor:
        """How many labels this rank has to predict in so many batches from a row on."""
        return label_count(self.batch(row + i * self.stride) for i in range(batches))

    def renewed(self, batch: Batch, step: int) -> Batch:
        """A batch as it is, or gathered anew where it was gathered ahead of a change.

        Args:
            batch: one that says where it comes from.
            step: rows before the optimizer step that it is of.
        """
        row, stride, version = batch[ORIGIN].tolist()
        if version < self.reading.version:
            counted, batch = LABEL_COUNT in batch, self.batch(step + (row - step) // stride * self.stride)
            if counted:
                batch[LABEL_COUNT] = self.label_count(step, self.reading.accumulate)
        return {key: value for key, value in batch.items() if key != ORIGIN}

    @override
    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        step, steps = (worker.id, worker.num_workers) if worker else (0, 1)
        row = self.start + step * self.stride
        while True:
            yield self.batch(row)
            row += steps * self.stride


class EvalBatches(Dataset[Batch]):
    """Every sample once, the same in every run, in so many batches; the last of them may have one sample less.

    Their order is a fixed shuffle, so that the first few (`limit_val_batches`) come from everywhere in the split.
    """

    def __init__(self, samples: Samples, batches: int, eos_id: int | None = None) -> None:
        self.samples, self.batches, self.eos_id = samples, batches, eos_id

    def __len__(self) -> int:
        return self.batches

    @override
    def __getitem__(self, index: int) -> Batch:
        size, larger = divmod(len(self.samples), self.batches)
        start = index * size + min(index, larger)
        positions_B = np.arange(start, start + size + (index < larger))
        order_B = shuffled(positions_B, len(self.samples), seed=0)
        return batch_of([self.samples.ids(sample) for sample in order_B.tolist()], self.eos_id)
