"""Sparse threats: what is counted, the nearest point, draws."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxrobust import threat

SHAPE = (2, 2, 2, 2)
SIZES = {"l0": (8, 1), "l0_pixels": (4, 2)}  # groups, values of one
# XLA on CPUs takes the smallest numbers for 0.
NUMBERS = st.floats(0, 1, width=32, allow_subnormal=False)
STEPS = st.floats(-3, 3, width=32, allow_subnormal=False)
IMAGES = hnp.arrays(np.float32, SHAPE, elements=NUMBERS)
MOVES = hnp.arrays(np.float32, SHAPE, elements=STEPS)
every_norm = pytest.mark.parametrize("norm", threat.SPARSE)
project = jax.jit(
    lambda point, x, eps, norm: threat.project(point, x, eps=eps, norm=norm),
    static_argnames="norm",
)


def groups(images, norm):
    return np.asarray(images, np.float64).reshape(SHAPE[0], *SIZES[norm])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    scores=hnp.arrays(
        np.float32,
        (2, 7),
        elements=st.sampled_from([-np.inf, -2.5, -1, -0.0, 0, 1e-30, 0.5, 3, np.inf]),
    ),
    count=st.floats(0, 9, width=32),
)
def test_the_largest_are_those_of_a_sort(scores, count):
    """Of equal ones the first, whatever their sign."""
    chosen = np.zeros_like(scores, bool)
    first = np.argsort(-scores, axis=1, kind="stable")[:, : int(count)]
    np.put_along_axis(chosen, first, True, axis=1)
    chex.assert_trees_all_equal(threat.largest(scores, jnp.float32(count)), chosen)


@every_norm
@settings(max_examples=25, deadline=None, derandomize=True)
@given(x=IMAGES, moved=MOVES, eps=st.floats(0, 9, width=32))
def test_project_is_the_nearest_of_all_choices(norm, x, moved, eps):
    """By going through all sets of groups; and a second projection changes nothing."""
    target, count = x + moved, SIZES[norm][0]
    point = np.asarray(project(target, x, eps, norm))
    want, clean = groups(target, norm), groups(x, norm)
    least = np.full(SHAPE[0], np.inf)
    for kept in itertools.combinations(range(count), min(int(eps), count)):
        rival = clean.copy()
        rival[:, kept] = np.clip(want, 0, 1)[:, kept]
        least = np.minimum(least, ((rival - want) ** 2).sum((1, 2)))
    got = ((groups(point, norm) - want) ** 2).sum((1, 2))
    chex.assert_trees_all_close(got, least, rtol=0, atol=1e-5)
    assert point.min() >= 0
    assert point.max() <= 1
    changed = (groups(point, norm) != clean).any(2).sum(1)
    assert changed.max() <= eps
    chex.assert_trees_all_equal(threat.distance(point, x, norm=norm), changed * 1.0)
    chex.assert_trees_all_equal(np.asarray(project(point, x, eps, norm)), point)


@every_norm
def test_draws_change_as_many_as_the_radius(norm):
    x = jnp.full((4, 5, 5, 3), 0.5)
    eps = jnp.array([0.0, 1.0, 7.9, 1e6])
    point = threat.sample(x, key=jax.random.key(0), eps=eps, norm=norm)
    most = 75 if norm == "l0" else 25
    told = threat.distance(point, x, norm=norm)
    chex.assert_trees_all_equal(told, jnp.array([0.0, 1.0, 7.0, most]))
    assert float(jnp.abs(point[3] - 0.5).max()) > 0.4


def test_a_step_has_no_length():
    x = jnp.zeros((1, 2, 2, 1))
    with pytest.raises(ValueError, match=r"`norm` must be 'linf' or 'l2' or 'l1' here"):
        threat.steepest_step(x, x, step_size=1.0, norm="l0")


def test_rows_without_channels_are_values():
    x, point = jnp.zeros((1, 6)), jnp.ones((1, 6)).at[0, 0].set(0)
    for norm in threat.SPARSE:
        assert threat.distance(point, x, norm=norm) == 5
