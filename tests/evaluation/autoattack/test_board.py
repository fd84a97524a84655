"""The board of AutoAttack: which image and run sits where."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust.evaluation.autoattack.board import Board, balanced

POINTS = 5


def play(board, hit_step, points=POINTS, stop=None):
    """Runs a stage whose run r of image i hits at hit_step[i, r] (0 = never)."""
    steps = 0
    while True:
        board.fill()
        if not board.busy.any():
            return board
        if steps == stop:
            return board
        board.advanced(1)
        steps += 1
        at = hit_step[board.slot_image, board.slot_run]
        hits = np.flatnonzero(board.busy & (at > 0) & (at <= board.slot_step))
        board.hits(hits)
        board.release(board.ends(points))


def expected(hit_step):
    """The earliest run that hits, or the number of runs."""
    runs = hit_step.shape[1]
    return np.where((hit_step > 0).any(1), (hit_step > 0).argmax(1), runs)


tables = st.integers(1, 7).flatmap(
    lambda n: st.integers(1, 4).flatmap(
        lambda r: st.lists(
            st.lists(st.integers(0, POINTS), min_size=r, max_size=r),
            min_size=n,
            max_size=n,
        )
    )
)


@settings(deadline=None, max_examples=60)
@given(tables, st.integers(1, 9), st.integers(0, 12), st.integers(1, 9))
def test_result_depends_on_neither_slots_nor_interruption(table, slots, stop, others):
    hit_step = np.asarray(table)
    images, runs = np.arange(len(hit_step)), hit_step.shape[1]
    whole = play(Board.new(images, runs, slots), hit_step)
    np.testing.assert_array_equal(whole.first_hit, expected(hit_step))
    cut = play(Board.new(images, runs, slots), hit_step, stop=stop)
    again = Board.from_arrays(cut.to_arrays())
    np.testing.assert_array_equal(play(again, hit_step).first_hit, whole.first_hit)
    moved = Board.from_arrays(cut.to_arrays()).restart(others)
    np.testing.assert_array_equal(play(moved, hit_step).first_hit, whole.first_hit)


def test_runs_wait_in_order_and_a_hit_cancels_later_ones():
    board = Board.new(np.array([7, 8]), 3, 3)
    assert board.fill().tolist() == [0, 1, 2]
    assert list(zip(board.slot_image, board.slot_run, strict=True)) == [
        (0, 0),
        (1, 0),
        (0, 1),
    ]
    board.advanced(2)
    # Run 1 of image 0 is first; run 0 goes on, and will be the result if it hits.
    assert board.hits(np.array([2])).tolist() == [True]
    assert board.fill().tolist() == [2]
    assert (board.slot_image[2], board.slot_run[2], board.slot_step[2]) == (1, 1, 0)
    assert board.hits(np.array([0])).tolist() == [True]
    assert board.first_hit.tolist() == [0, 3]


def test_remaining_counts_steps():
    board = Board.new(np.arange(3), 2, 2)
    assert board.remaining(10) == 60
    board.fill()
    board.advanced(4)
    assert board.remaining(10) == 52
    board.hits(np.array([0]))
    assert board.remaining(10) == 6 + 10 + 20


@pytest.mark.parametrize(
    ("items", "most", "unit", "slots"),
    [
        (7, 4, 1, 4),
        (130, 128, 2, 66),
        (128, 128, 16, 128),
        (1, 64, 16, 16),
        (0, 8, 2, 8),
    ],
)
def test_slots_are_balanced(items, most, unit, slots):
    assert balanced(items, most, unit) == slots
