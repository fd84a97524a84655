"""The queue of AutoAttack: which image and run sits where."""

import chex
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust.evaluation.autoattack.queue import Queue, balanced

POINTS = 5


def play(queue, hit_step, points=POINTS, stop=None):
    """Runs a stage whose run r of image i hits at hit_step[i, r] (0 = never)."""
    steps = 0
    while True:
        queue, _ = queue.fill()
        if not queue.busy.any():
            return queue
        if steps == stop:
            return queue
        queue = queue.advanced(1)
        steps += 1
        at = hit_step[queue.slot_image, queue.slot_run]
        queue, _ = queue.hits(
            np.flatnonzero(queue.busy & (at > 0) & (at <= queue.slot_step))
        )
        queue = queue.release(queue.ends(points))


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
    whole = play(Queue.new(images, runs, slots), hit_step)
    chex.assert_trees_all_equal(whole.first_hit, expected(hit_step))
    cut = play(Queue.new(images, runs, slots), hit_step, stop=stop)
    again = Queue.from_arrays(cut.to_arrays())
    chex.assert_trees_all_equal(play(again, hit_step).first_hit, whole.first_hit)
    moved = Queue.from_arrays(cut.to_arrays()).restart(others)
    chex.assert_trees_all_equal(play(moved, hit_step).first_hit, whole.first_hit)


def test_runs_wait_in_order_and_a_hit_cancels_later_ones():
    begun, filled = Queue.new(np.array([7, 8]), 3, 3).fill()
    assert filled.tolist() == [0, 1, 2]
    assert list(zip(begun.slot_image, begun.slot_run, strict=True)) == [
        (0, 0),
        (1, 0),
        (0, 1),
    ]
    # Run 1 of image 0 is first; run 0 goes on, and will be the result if it hits.
    hit, best = begun.advanced(2).hits(np.array([2]))
    assert best.tolist() == [True]
    queue, filled = hit.fill()
    assert filled.tolist() == [2]
    assert (queue.slot_image[2], queue.slot_run[2], queue.slot_step[2]) == (1, 1, 0)
    queue, best = queue.hits(np.array([0]))
    assert best.tolist() == [True]
    assert queue.first_hit.tolist() == [0, 3]
    # What was handed in is as it was.
    assert begun.busy.all()
    assert begun.first_hit.tolist() == [3, 3]


def test_remaining_counts_steps():
    queue = Queue.new(np.arange(3), 2, 2)
    assert queue.remaining(10) == 60
    queue = queue.fill()[0].advanced(4)
    assert queue.remaining(10) == 52
    assert queue.hits(np.array([0]))[0].remaining(10) == 6 + 10 + 20


@pytest.mark.parametrize(
    ("items", "most", "unit", "slots"),
    [
        (7, 4, 1, 4),
        (130, 128, 2, 80),
        (195, 64, 2, 56),
        (198, 64, 2, 56),
        (3, 64, 2, 8),
        (128, 128, 16, 128),
        (1, 64, 16, 16),
        (0, 8, 2, 8),
    ],
)
def test_slots_are_balanced(items, most, unit, slots):
    assert balanced(items, most, unit) == slots
