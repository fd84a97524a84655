"""Intervals against their closed forms and published values."""

import math

import chex
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize

from jaxrobust.evaluation import wilson_interval
from jaxrobust.evaluation.statistics import mcnemar, paired_interval


@given(st.integers(1, 5000), st.floats(0, 1))
def test_wilson_is_the_closed_form(n, share):
    k = round(share * n)
    z = 1.959963984540054
    p = k / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    chex.assert_trees_all_close(
        np.asarray(wilson_interval(k, n)),
        np.clip([centre - half, centre + half], 0, 1),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize(("k", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(k, n):
    with pytest.raises(ValueError, match=f"got {k} of {n}"):
        wilson_interval(k, n)


def likelihood_of(only_a, only_b, n, difference):
    """The share of `only_b` that makes the data likeliest, by search."""

    def loss(q):
        p = q + difference
        rest = 1 - p - q
        parts = ((only_a, p), (only_b, q), (n - only_a - only_b, rest))
        return -sum(k * math.log(max(share, 1e-300)) for k, share in parts if k)

    bounds = max(0.0, -difference), (1 - difference) / 2
    found = optimize.minimize_scalar(
        loss, bounds=bounds, method="bounded", options={"xatol": 1e-12}
    )
    return found.x


@given(st.integers(2, 300), st.floats(0, 1), st.floats(0, 1))
def test_the_ends_of_the_paired_interval_solve_the_score_equation(n, one, two):
    only_a = round(one * n)
    only_b = round(two * (n - only_a))
    ends = paired_interval(only_a, only_b, n)
    observed = (only_a - only_b) / n
    assert -1 <= ends[0] <= observed <= ends[1] <= 1
    mirrored = paired_interval(only_b, only_a, n)
    chex.assert_trees_all_close(mirrored, (-ends[1], -ends[0]), rtol=0, atol=1e-9)
    for end, side in zip(ends, (1, -1), strict=True):
        if abs(end) < 1:
            q = likelihood_of(only_a, only_b, n, end)
            spread = math.sqrt(n * (2 * q + end * (1 - end)))
            score = (only_a - only_b - n * end) / spread
            assert score == pytest.approx(side * 1.959963984540054, rel=1e-3)


def test_the_paired_interval_is_the_published_one():
    """R's PropCIs on 25 and 28 of 618; Fagerland et al. 2014 on 1 and 7 of 21."""
    got = paired_interval(28, 25, 618, confidence=0.9)
    chex.assert_trees_all_close(got, (-0.0148, 0.0247), rtol=0, atol=5e-5)
    chex.assert_trees_all_close(
        paired_interval(1, 7, 21), (-0.517, -0.026), rtol=0, atol=5e-4
    )


def test_the_paired_interval_where_no_example_differs_or_all_do():
    z2 = 1.959963984540054**2
    end = z2 / (50 + z2)
    assert paired_interval(0, 0, 50) == pytest.approx((-end, end))
    assert paired_interval(50, 0, 50) == pytest.approx((1 - 2 * end, 1))
    assert paired_interval(0, 50, 50) == pytest.approx((-1, 2 * end - 1))


@pytest.mark.parametrize("counts", [(-1, 0, 5), (3, 3, 5), (0, 0, 0)])
def test_impossible_paired_counts_are_refused(counts):
    with pytest.raises(ValueError, match=f"got {counts[0]}, {counts[1]} and"):
        paired_interval(*counts)


def test_mcnemar_is_a_fair_coin():
    assert mcnemar(0, 0) == 1
    assert mcnemar(3, 3) == pytest.approx(1)
    assert mcnemar(8, 1) == pytest.approx(2 * (1 + 9) / 2**9)
    assert mcnemar(8, 1) == mcnemar(1, 8)
