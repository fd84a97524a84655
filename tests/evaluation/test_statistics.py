"""Wilson's interval against its closed form."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxrobust.evaluation import wilson_interval


@given(st.integers(1, 5000), st.floats(0, 1))
def test_wilson_is_the_closed_form(n, share):
    k = round(share * n)
    z = 1.959963984540054
    p = k / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    np.testing.assert_allclose(
        wilson_interval(k, n),
        np.clip([centre - half, centre + half], 0, 1),
        atol=1e-12,
    )


@pytest.mark.parametrize(("k", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(k, n):
    with pytest.raises(ValueError, match=f"got {k} of {n}"):
        wilson_interval(k, n)
