"""Bounds are those of auto_LiRPA."""

import jax
import numpy as np
import pytest

from jaxrobust import certify
from tests.certify import networks
from tests.marks import full_but

NAMES = ("mlp", "cnn", "residual", "curved")


@pytest.fixture(scope="module")
def golden():
    return networks.load()


PAIRS = [(n, m) for n in NAMES for m in ("ibp", "crown_ibp", "crown")]
QUICK = [(n, m) for n, m in PAIRS if m != "crown_ibp" and n != "residual"]


@pytest.mark.parametrize(("name", "method"), full_but(PAIRS, QUICK))
def test_bounds_and_margins_are_those_of_auto_lirpa(name, method, golden):
    """Within 1e-4, in float32; of curved planes ours touch a little closer."""
    found = golden[name]
    fn, x, y = networks.network(name, found), found["x"], found["y"]
    eps = found["eps"]

    def one(row):
        return certify.bounds(lambda z: fn(z[None])[0], row - eps, row + eps, method)

    low, high = jax.jit(jax.vmap(one))(x)
    margins = certify.margin(fn, x, y, eps=eps, method=method, bounds=(-10.0, 10.0))
    theirs = (found[f"{method}/{k}"] for k in ("lower", "upper", "margins"))
    least, most, forms = theirs
    # They look tangents up in a table with steps of .01, which counts in wide
    # intervals; ours are nearer.
    coarse = 20 if name == "curved" and method == "crown_ibp" else 1
    gains = [low - least, most - high, margins - forms.min(1)]
    assert max(np.abs(gain).max() for gain in gains) < 1e-4 * coarse
