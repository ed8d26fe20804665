import pickle
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_recycle.data import loader as loader_module
from lit_recycle.data.batches import EvalBatches, Reading, Samples, TokenBatches, batch_of
from lit_recycle.data.cut import Cut
from lit_recycle.data.loader import StreamLoader
from lit_recycle.data.mixture import Mixture, Segment
from lit_recycle.data.stream import SampleOrder
from lit_recycle.data.tokens import Piece, Tokens
from lit_recycle.data.validation import ValidationSet


def counted(folder: Path, tokens: int) -> Tokens:
    """A sequence whose token number i is i."""
    path = folder / f"{tokens}.bin"
    np.arange(tokens, dtype=np.uint16).tofile(path)
    return Tokens.of((Piece(path, "uint16", tokens),), below=tokens)


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> Samples:
    """23 samples of 4 tokens; sample i begins with token 4·i."""
    return Samples(counted(tmp_path_factory.mktemp("split"), 4 * 23 + 1), 4, "the split")


@pytest.fixture(scope="module")
def numbers(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("numbers")


def stream(samples: Samples, batch_size: int, seed: int, **where: int) -> TokenBatches:
    """Of a single source."""
    return TokenBatches([samples], reading(samples, batch_size, seed), **where)


def reading(samples: Samples, batch_size: int, seed: int, length: int = 4) -> Reading:
    order = SampleOrder(Mixture((Segment(0, (0,), (1,)),)), (len(samples),), (seed,))
    return Reading(order, Cut(4, length), batch_size)


def seen(batches) -> list[int]:
    return [first // 4 for batch in batches for first in batch["input_ids"][:, 0].tolist()]


def test_labels_are_the_tokens_after(samples):
    batch = batch_of([samples.ids(i) for i in (0, 22, 5)])
    assert batch["input_ids"].tolist() == [[0, 1, 2, 3], [88, 89, 90, 91], [20, 21, 22, 23]]
    assert batch["labels"].tolist() == [[1, 2, 3, 4], [89, 90, 91, 92], [21, 22, 23, 24]]
    for tensor in batch.values():
        assert tensor.dtype == torch.int64 and tensor.is_contiguous()


def test_tokens_that_do_not_fill_a_sample_are_left_out(tmp_path):
    lengths = [len(Samples(counted(tmp_path, tokens), 4, "it")) for tokens in (5, 8, 9, 12, 13)]
    assert lengths == [1, 1, 2, 2, 3]
    with pytest.raises(ValueError, match="The val split has 4 tokens, fewer than one sample of seq_len \\+ 1 = 5"):
        Samples(counted(tmp_path, 4), 4, "The val split")
    with pytest.raises(ValueError, match="has 0 tokens"):
        Samples(counted(tmp_path, 0), 4, "The val split")


@st.composite
def runs(draw):
    """Stretches of a run: (ranks, batch size, micro-steps) each, as when it is resumed elsewhere."""
    return draw(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 7), st.integers(0, 6)), min_size=1, max_size=5))


@given(stretches=runs(), seed=st.integers(0, 9))
def test_every_sample_once_per_epoch_however_the_world_changes(samples, stretches, seed):
    n, position, order = len(samples), 0, []
    for ranks, batch_size, steps in [*stretches, (1, n, 2)]:
        streams = [
            iter(stream(samples, batch_size, seed, start=position, rank=rank, world_size=ranks))
            for rank in range(ranks)
        ]
        order += [sample for _ in range(steps) for batches in streams for sample in seen([next(batches)])]
        position += ranks * batch_size * steps
    assert order == seen(islice(stream(samples, 1, seed), len(order)))
    for epoch in range(len(order) // n):
        assert sorted(order[epoch * n : (epoch + 1) * n]) == list(range(n))


@pytest.mark.parametrize("workers", [1, 2])
def test_loader_processes_keep_the_order(samples, workers):
    loader = StreamLoader(stream(samples, 3, seed=1, rank=1, world_size=2), lambda: 5, num_workers=workers)
    expected = stream(samples, 3, seed=1, start=5, rank=1, world_size=2)
    assert seen(islice(loader, 11)) == seen(islice(expected, 11))


def test_the_loader_asks_for_the_position_at_each_pass(samples):
    position = 0
    loader = StreamLoader(stream(samples, 2, seed=0), lambda: position)
    first = seen(islice(loader, 4))
    position = 4
    assert seen(islice(loader, 2)) == first[4:]


@pytest.mark.parametrize("workers", [0, 2])
def test_another_order_comes_with_the_next_batch_whatever_was_gathered_ahead(samples, workers):
    loader = StreamLoader(stream(samples, 2, seed=0, world_size=3), lambda: 6, num_workers=workers)
    batches = iter(loader)
    before = seen(islice(batches, 2))
    loader.stream.reading = reading(samples, 2, seed=1)
    after = seen(islice(batches, 2))
    assert before == seen(islice(stream(samples, 2, seed=0, start=6, world_size=3), 2))
    assert after == seen(islice(stream(samples, 2, seed=1, start=18, world_size=3), 2))


def test_the_loader_counts_the_time_waited_over_all_passes(samples, monkeypatch):
    now = iter(range(1000))
    monkeypatch.setattr(loader_module, "time", SimpleNamespace(perf_counter=lambda: float(next(now))))
    loader = StreamLoader(stream(samples, 2, seed=0), lambda: 0)
    assert loader.seconds_waited == 0
    list(islice(loader, 3))
    assert loader.seconds_waited == 3
    list(islice(loader, 4))
    assert loader.seconds_waited == 7


def test_the_map_does_not_travel_between_processes(tmp_path):
    samples = Samples(counted(tmp_path, 10_000), 4, "it")
    expected = samples.ids(3)
    state = pickle.dumps(samples)
    assert len(state) < 1000
    assert pickle.loads(state).ids(3).tolist() == expected.tolist()


def test_eval_batches_hold_every_sample_once_in_a_fixed_order(samples):
    batches = EvalBatches(samples, 5)
    found = seen(batches[i] for i in range(len(batches)))
    assert sorted(found) == list(range(len(samples))) != found
    assert found == seen(EvalBatches(samples, 5)[i] for i in range(5))


@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 9))
def test_processes_share_a_validation_set_evenly_and_leave_nothing_out(numbers, count, processes, batch_size):
    part = ValidationSet(samples=Samples(counted(numbers, 4 * count + 1), 4, "the split"))
    if count < processes:
        with pytest.raises(ValueError, match=f"has {count} samples for {processes} processes"):
            part.loader(batch_size, None, {"num_replicas": processes, "rank": 0})
        return
    shares = [list(part.loader(batch_size, None, {"num_replicas": processes, "rank": r})) for r in range(processes)]
    assert len({len(share) for share in shares}) == 1
    in_turn = [batch["input_ids"] for batches in zip(*shares, strict=True) for batch in batches]
    sizes = [len(ids) for ids in in_turn]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] - sizes[-1] <= 1 and sizes[-1] > 0
    assert sizes[0] <= batch_size + (batch_size == 1)  # one by one there may be a rest, and no batch is empty
    assert sorted(torch.cat(in_turn)[:, 0].tolist()) == list(range(0, 4 * count, 4))
