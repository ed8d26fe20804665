import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_recycle.data.mixture import Mixture, Segment, assign, counts
from lit_recycle.data.weights import proportions

PROPORTIONS = st.lists(st.integers(0, 50), min_size=1, max_size=6).filter(any)


@given(parts=PROPORTIONS, start=st.integers(0, 10**13), length=st.integers(1, 300))
def test_a_source_gives_its_samples_in_order_without_a_gap(parts, start, length):
    source, before = assign(start + np.arange(length), parts)
    drawn = counts(start, parts)
    for s, b in zip(source.tolist(), before.tolist(), strict=True):
        assert b == drawn[s]
        drawn[s] += 1
    assert drawn == counts(start + length, parts)


@given(parts=PROPORTIONS, length=st.integers(0, 10**15))
def test_shares_of_every_prefix_are_exact_but_for_a_few_samples(parts, length):
    counted = counts(length, parts)
    assert sum(counted) == length
    for count, part in zip(counted, parts, strict=True):
        assert abs(count * sum(parts) - length * part) < len(parts) * sum(parts)
    assert counts(length // sum(parts) * sum(parts), parts) == [length // sum(parts) * part for part in parts]


@given(parts=PROPORTIONS, length=st.integers(1, 500))
def test_every_stretch_is_mixed(parts, length):
    """Not first all of one source and then all of another: in a window each has its share but for some samples."""
    source, _ = assign(12_345 + np.arange(length), parts)
    for number, part in enumerate(parts):
        assert abs((source == number).sum() - length * part / sum(parts)) < 2 * len(parts)


def test_large_proportions_do_not_overflow():
    parts = [2**30, 2**30 - 1]
    source, before = assign(np.array([10**15, 10**15 + 1]), parts)
    for s, b, k in zip(source.tolist(), before.tolist(), (10**15, 10**15 + 1), strict=True):
        assert b == counts(k, parts)[s] and counts(k + 1, parts)[s] == b + 1


@st.composite
def mixtures(draw):
    """Segments as a stream makes them: each goes on where those before it ended."""
    size = draw(st.integers(1, 5))
    start, drawn, segments = draw(st.integers(0, 50)), (0,) * size, []
    for length in draw(st.lists(st.integers(0, 40), min_size=1, max_size=4)):
        parts = draw(st.lists(st.integers(0, 9), min_size=size, max_size=size).filter(any))
        segments.append(Segment(start, drawn, tuple(parts)))
        start, drawn = start + length, segments[-1].drawn_by(start + length)
    return Mixture(tuple(segments))


@given(mixture=mixtures())
def test_samples_go_on_over_the_borders_of_segments(mixture):
    start = mixture.segments[0].start
    positions = start + np.arange(200)
    source, before = mixture.at(positions)
    seen = [0] * len(mixture.segments[0].drawn_M)
    for k, s, b in zip(positions.tolist(), source.tolist(), before.tolist(), strict=True):
        assert mixture.drawn_by(k) == tuple(seen)
        assert b == seen[s]
        segment = next(part for part in reversed(mixture.segments) if part.start <= k)
        assert segment.proportions_M[s]
        seen[s] += 1
    shuffled = np.random.default_rng(0).permutation(positions)
    again = mixture.at(shuffled)
    for one, other in zip((source, before), again, strict=True):
        np.testing.assert_array_equal(one[shuffled - start], other)


def test_the_rule_is_frozen():
    """A resumed run must find the order of the version that began it."""
    source, before = assign(np.arange(12), [3, 2, 1])
    assert source.tolist() == [0, 1, 0, 1, 0, 2, 0, 1, 0, 1, 0, 2]
    assert before.tolist() == [0, 0, 1, 1, 2, 0, 3, 2, 4, 3, 5, 1]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [([0.7, 0.2, 0.1], (7, 2, 1)), ([1, 1], (1, 1)), ([0.5, 0], (1, 0)), ([2.5, 1e-3], (2500, 1)), ([30, 60], (1, 2))],
)
def test_weights_as_whole_numbers(weights, expected):
    assert proportions(weights) == expected


@pytest.mark.parametrize(
    ("weights", "message"),
    [([0.0, 0], "above zero"), ([1, -1], "negative"), ([1, float("nan")], "negative"), ([1 / 3, 1], "too many digits")],
)
def test_weights_without_a_ratio(weights, message):
    with pytest.raises(ValueError, match=message):
        proportions(weights)
