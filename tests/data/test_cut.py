"""Rows of any length go through whole samples token by token: nothing lost, nothing twice."""

from math import gcd

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_recycle.data.batches import batch_of_pieces
from lit_recycle.data.cut import Cut, Piece

FULL = 24
stretches = st.lists(st.tuples(st.integers(1, FULL), st.integers(1, 9)), min_size=1, max_size=6)


def tokens(cut: Cut, row: int) -> list[int]:
    """The places of a row's tokens."""
    return [p.position * FULL + p.offset + i for p in cut.pieces(row) for i in range(p.tokens)]


@given(stretches)
def test_rows_follow_each_other_and_leave_out_less_than_one_where_they_begin_to_divide_a_sample(lengths):
    cut, row, seen = Cut(FULL, FULL), 0, 0
    for length, rows in lengths:
        cut = cut.changed(length, row)
        begin = tokens(cut, row)[0]
        assert begin - seen < gcd(length, FULL) and begin % gcd(length, FULL) == 0
        for _ in range(rows):
            places = tokens(cut, row)
            assert len(places) == length and places == list(range(places[0], places[0] + length))
            assert places[0] == (begin if row == cut.row else seen)
            seen, row = places[-1] + 1, row + 1
        assert cut.place(row) == seen and cut.position(row) == -(-seen // FULL)


def test_a_length_that_divides_a_sample_never_crosses_one():
    for length in (1, 2, 3, 4, 6, 8, 12, 24):
        cut = Cut(FULL, FULL).changed(7, 3).changed(length, 8)
        assert all(len(list(cut.pieces(row))) == 1 for row in range(8, 50))


def test_pieces_know_their_samples():
    assert list(Cut(10, 7, row=3, token=25).pieces(4)) == [Piece(3, 2, 7)]
    assert list(Cut(10, 7, row=3, token=25).pieces(5)) == [Piece(3, 9, 1), Piece(4, 0, 6)]


def test_a_seam_keeps_the_labels_of_its_pieces_and_parts_documents():
    """The end of one sample (its label is its own next token) and the beginning of another; 9 ends a document."""
    rows = [[np.array([1, 2, 3]), np.array([5, 9, 6, 7])], [np.array([1, 9]), np.array([5, 6, ~7, 8, 4])]]
    batch = batch_of_pieces(rows, eos_id=9)
    assert batch["input_ids"].tolist() == [[1, 2, 5, 9, 6], [1, 5, 6, 7, 8]]
    assert batch["labels"].tolist() == [[2, 3, 9, -100, 7], [9, 6, -100, 8, 4]]
    assert batch["documents"].tolist() == [[0, 0, 1, 1, 2], [0, 1, 1, 1, 1]]
    assert torch.equal(batch_of_pieces(rows)["input_ids"], batch["input_ids"])
