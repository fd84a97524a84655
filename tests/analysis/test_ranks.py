"""Ranks of the classes that attacks end in, by hand and as invariants."""

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxrobust import analysis


def test_rank_by_hand(compiled):
    logits = jnp.asarray([[3.0, 1, 2], [0, 0, 5], [0, 0, 5]])
    rank = compiled(analysis.class_rank)(logits, jnp.asarray([2, 0, 1]))
    chex.assert_trees_all_equal(rank, np.asarray([2, 2, 3]))


@settings(max_examples=30, deadline=None)
@given(hnp.arrays(np.float32, (4, 6), elements=st.integers(-3, 3)))
def test_the_argmax_is_first_and_every_rank_is_taken_once(logits):
    ranks = np.stack(
        [analysis.class_rank(jnp.asarray(logits), jnp.full(4, k)) for k in range(6)], -1
    )
    chex.assert_trees_all_equal(np.sort(ranks, -1), np.tile(np.arange(1, 7), (4, 1)))
    chex.assert_trees_all_equal(ranks.argmin(-1), logits.argmax(-1))


CLEAN = np.asarray([True, True, True, False, True])
CORRECT = np.asarray(
    [
        [True, True, False],  # falls at the third radius
        [False, False, False],  # at the first, once
        [True, False, True],  # comes back
        [False, True, False],  # was wrong before any attack
        [True, True, True],
    ]
)


def test_newly_successful_by_hand():
    want = np.zeros((5, 3), bool)
    want[0, 2] = want[1, 0] = want[2, 1] = True
    chex.assert_trees_all_equal(analysis.newly_successful(CORRECT, CLEAN), want)


def test_shares_by_hand():
    newly = np.asarray([[1, 0, 0], [1, 0, 1], [1, 0, 0], [1, 0, 0]], bool)
    ranks = np.asarray([[2, 9, 1], [2, 9, 7], [3, 9, 1], [6, 9, 1]])
    found = analysis.rank_shares(ranks, newly)
    chex.assert_trees_all_equal(found.number, np.asarray([4, 0, 1]))
    chex.assert_trees_all_close(
        found.share[0], np.asarray([0.5, 0.25, 0, 0]), rtol=1e-7
    )
    assert np.isnan(found.share[1]).all()
    chex.assert_trees_all_close(found.share[2], 0, rtol=1e-7)


def test_mismatched_arrays_are_refused():
    with pytest.raises(ValueError, match=r"`clean_correct` \[N\], got \(5, 3\)"):
        analysis.newly_successful(CORRECT, CLEAN[:4])
    with pytest.raises(ValueError, match=r"alike, got \(2, 2\) and \(2, 3\)"):
        analysis.rank_shares(np.zeros((2, 2), int), np.zeros((2, 3), bool))
