import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lit_recycle.data.order import STRETCHES, shuffled

SIZES = st.integers(1, 3000)
SEEDS = st.integers(-(2**63), 2**64 - 1)
WINDOWS = st.none() | st.integers(1, 4000)


@given(n=SIZES, seed=SEEDS, epoch=st.integers(0, 2**20), window=WINDOWS)
@example(n=1, seed=0, epoch=0, window=None)
@example(n=2, seed=0, epoch=0, window=1)
@example(n=2, seed=1, epoch=1, window=None)
@example(n=3, seed=0, epoch=0, window=2)
@example(n=997, seed=0, epoch=0, window=200)
@example(n=4096, seed=0, epoch=0, window=1024)
def test_every_epoch_is_a_permutation(n, seed, epoch, window):
    order = shuffled(epoch * n + np.arange(n), n, seed, window)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(n))


@given(n=SIZES, seed=SEEDS, window=WINDOWS, data=st.data())
def test_a_position_does_not_depend_on_what_is_asked_with_it(n, seed, window, data):
    positions = np.array(data.draw(st.lists(st.integers(0, 5 * n), min_size=1, max_size=20)))
    together = shuffled(positions, n, seed, window)
    assert [int(shuffled(position, n, seed, window)) for position in positions] == together.tolist()
    np.testing.assert_array_equal(shuffled(positions[None], n, seed, window), together[None])


@pytest.mark.parametrize("n", [10_000, 10_240, 10_017])
def test_a_window_reads_a_few_stretches_from_everywhere(n):
    window, length = 640, 10
    order = shuffled(np.arange(n), n, seed=0, window=window)
    for start in range(0, n, window):
        stretches = np.unique(order[start : start + window] // length)
        assert len(stretches) <= STRETCHES
        assert start + window > n or stretches.max() - stretches.min() > n / 2 / length
    inside = order[:window]
    assert (np.diff(inside) == 1).sum() < 10  # neighbours do not follow each other


def test_windows_and_epochs_have_unrelated_orders():
    n, window = 64_000, 640
    first, second = (shuffled(epoch * n + np.arange(n), n, seed=0, window=window) for epoch in (0, 1))
    assert (first == second).sum() < 10
    a, b = (np.unique(first[start : start + window] // 10, return_inverse=True)[1] for start in (0, window))
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(window)


def test_a_window_as_large_as_the_data_is_none():
    np.testing.assert_array_equal(shuffled(np.arange(50), 50, 0, 50), shuffled(np.arange(50), 50, 0))


@pytest.mark.parametrize("n", [50, 1009, 30_000])
def test_seeds_and_epochs_give_unrelated_orders(n):
    epochs = [shuffled(epoch * n + np.arange(n), n, seed) for seed in (0, 1, -1) for epoch in (0, 1, 2)]
    epochs.append(np.arange(n))
    for i, one in enumerate(epochs):
        for other in epochs[:i]:
            assert (one == other).sum() < 10  # a random pair agrees in one place on average
            assert abs(np.corrcoef(one, other)[0, 1]) < 5 / np.sqrt(n)


def test_neighbours_are_scattered():
    """The distance of successive samples is that of random pairs: n / 3 on average."""
    n = 100_000
    order = shuffled(np.arange(n), n, seed=0)
    assert abs(np.abs(np.diff(order)).mean() / (n / 3) - 1) < 0.02


def test_every_sample_is_equally_likely_at_a_position():
    """Chi-squared over the sample that comes first, 7 samples, 7000 epochs; 22.5 is the 0.1 % point of 6 degrees."""
    n, epochs = 7, 7000
    counts = np.bincount(shuffled(np.arange(epochs) * n, n, seed=3), minlength=n)
    assert ((counts - epochs / n) ** 2 / (epochs / n)).sum() < 22.5


def test_huge_corpora_need_no_memory():
    n = 10**12 + 39
    order = shuffled(np.arange(7 * n, 7 * n + 1000), n, seed=0)
    assert len(set(order.tolist())) == 1000 and order.min() >= 0 and order.max() < n


def test_the_order_is_frozen():
    """A resumed run must find the order of the version that began it."""
    two_epochs = shuffled(np.arange(20), n=10, seed=0).tolist()
    assert two_epochs == [9, 4, 2, 6, 7, 8, 5, 3, 1, 0, 9, 0, 3, 2, 1, 6, 5, 7, 4, 8]
    assert shuffled(np.arange(10), n=300, seed=0, window=128).tolist() == [218, 138, 16, 62, 23, 292, 29, 144, 244, 180]
