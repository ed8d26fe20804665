"""Source maps of layers and experts, against maps written out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_recycle.growth.operators import DEPTH_METHODS, append, duplicate, interpose, stack


def test_the_maps_of_the_paper():
    assert interpose(3, 2) == (0, 0, 1, 1, 2, 2)
    assert stack(3, 2) == (0, 1, 2, 0, 1, 2)
    assert duplicate(4, 2) == (0, 0, 1, 1, 2, 2, 3, 3)
    assert append(2, 3) == (0, 1, 0, 1, 0, 1)


@pytest.mark.parametrize(
    ("method", "factor", "keep_first", "keep_last", "expected"),
    [
        (interpose, 3, 0, 0, (0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3)),
        (interpose, 2, 1, 0, (0, 1, 1, 2, 2, 3, 3)),
        (interpose, 2, 0, 1, (0, 0, 1, 1, 2, 2, 3)),
        (interpose, 3, 1, 2, (0, 1, 1, 1, 2, 3)),
        (stack, 3, 0, 0, (0, 1, 2, 3) * 3),
        (stack, 2, 1, 0, (0, 1, 2, 3, 1, 2, 3)),
        (stack, 2, 0, 1, (0, 1, 2, 0, 1, 2, 3)),
        (stack, 3, 1, 1, (0, 1, 2, 1, 2, 1, 2, 3)),
    ],
)
def test_kept_layers_stay_single(method, factor, keep_first, keep_last, expected):
    assert method(4, factor, keep_first, keep_last) == expected


def test_solar_grows_32_layers_to_48():
    layers = stack(32, 2, keep_first=8, keep_last=8)
    assert layers == (*range(24), *range(8, 32))
    assert len(layers) == 48


@given(st.integers(1, 40), st.integers(2, 5), st.data())
def test_kept_layers_once_all_others_as_often_as_the_factor(num_layers, factor, data):
    keep_first = data.draw(st.integers(0, num_layers - 1))
    keep_last = data.draw(st.integers(0, num_layers - 1 - keep_first))
    for method in DEPTH_METHODS.values():
        layers = method(num_layers, factor, keep_first, keep_last)
        for i in range(num_layers):
            kept = i < keep_first or i >= num_layers - keep_last
            assert layers.count(i) == (1 if kept else factor)
        assert layers[:keep_first] == tuple(range(keep_first))
        assert layers[len(layers) - keep_last :] == tuple(range(num_layers - keep_last, num_layers))


def twice(method, num_layers, first, second):
    once = method(num_layers, first)
    return tuple(once[i] for i in method(len(once), second))


@pytest.mark.parametrize("method", [interpose, stack, duplicate, append])
@given(size=st.integers(1, 9), first=st.integers(2, 3), second=st.integers(2, 3))
def test_growing_twice_is_growing_once_by_the_product(method, size, first, second):
    assert twice(method, size, first, second) == method(size, first * second)
