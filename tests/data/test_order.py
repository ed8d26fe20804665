import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lit_recycle.data.order import shuffled

SIZES = st.integers(1, 3000)
SEEDS = st.integers(-(2**63), 2**64 - 1)


@given(n=SIZES, seed=SEEDS, epoch=st.integers(0, 2**20))
@example(n=1, seed=0, epoch=0)
@example(n=2, seed=0, epoch=0)
@example(n=2, seed=1, epoch=1)
@example(n=3, seed=0, epoch=0)
@example(n=997, seed=0, epoch=0)
@example(n=4096, seed=0, epoch=0)
def test_every_epoch_is_a_permutation(n, seed, epoch):
    order = shuffled(epoch * n + np.arange(n), n, seed)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(n))


@given(n=SIZES, seed=SEEDS, data=st.data())
def test_a_position_does_not_depend_on_what_is_asked_with_it(n, seed, data):
    positions = np.array(data.draw(st.lists(st.integers(0, 5 * n), min_size=1, max_size=20)))
    together = shuffled(positions, n, seed)
    assert [int(shuffled(position, n, seed)) for position in positions] == together.tolist()
    np.testing.assert_array_equal(shuffled(positions[None], n, seed), together[None])


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
