"""Loader of the endless stream of training batches, which begins wherever the run stands."""

import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader
from typing_extensions import override

from lit_recycle.data.batches import LABEL_COUNT, Batch, TokenBatches, label_count


class StreamLoader(DataLoader[Batch]):
    """Loads `TokenBatches` from wherever the run stands each time it is iterated.

    Lightning iterates anew at the start of each of its epochs (`limit_train_batches`), and has then fetched batches
    that were not trained on; asking for the row avoids both repeating and skipping. When the dataset is given another
    reading, what was gathered ahead in the old one is dropped.

    Args:
        stream: the batches; its `start` is set at each iteration.
        row: gives the number of rows that were trained on in whole optimizer steps.
        kwargs: of `torch.utils.data.DataLoader`.

    Attributes:
        stream: as given.
        seconds_waited: time that was spent inside `next`, over all passes, while a training step could not begin.
    """

    def __init__(self, stream: TokenBatches, row: Callable[[], int], **kwargs: Any) -> None:
        super().__init__(stream, batch_size=None, **kwargs)
        self.stream, self.row = stream, row
        self.seconds_waited = 0.0

    @override
    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        self.stream.start = self.row()
        return self._timed()

    def _timed(self) -> Iterator[Batch]:
        begun = 0  # batches of the optimizer step at hand that were gathered in another reading
        while True:
            reading, stride = self.stream.reading, self.stream.stride
            batches: Iterator[Batch] = super().__iter__()
            if self.stream.leaves_out:
                batches = self._counted(batches, begun)
            while self.stream.reading is reading:
                asked = time.perf_counter()
                batch = next(batches)
                self.seconds_waited += time.perf_counter() - asked
                yield batch
                self.stream.start += stride
            step = self.row()
            begun = (self.stream.start - step) // stride
            self.stream.start = step + begun * self.stream.stride

    def _counted(self, batches: Iterator[Batch], begun: int) -> Iterator[Batch]:
        """Add the label count of their optimizer step to batches, the first of which comes after `begun` of a step."""
        accumulate = self.stream.reading.accumulate
        behind = begun % accumulate
        while True:
            begin = self.stream.start - behind * self.stream.stride
            step = list(islice(batches, accumulate - behind))
            count = label_count(step)
            if behind:
                count = count + self.stream.label_count(begin, behind)
            for batch in step:
                yield batch | {LABEL_COUNT: count}
            behind = 0
