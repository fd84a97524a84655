"""Layers whose values depend on windows: bounds are those of forms of the whole image.

From a vector that the network reshapes itself no windows are known, so each network is
bounded in both ways.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import certify
from tests.marks import full_but

SHAPE = (14, 12, 2)


class Strided(nn.Module):
    """Convolutions with strides, paddings and biases, scaled as by a normalisation."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), strides=2, padding=((1, 0), (2, 1)))(x))
        x = (x - 0.1) / jnp.linspace(0.5, 2.0, 4)[None, None, None]
        x = nn.relu(nn.Conv(3, (3, 2), padding="SAME")(x))
        return nn.Conv(2, (2, 2), strides=(1, 2), padding="VALID")(x)


class Residual(nn.Module):
    """Paths of different windows that meet, tanh, a dilated convolution."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (2, 2))(x)
        y = nn.tanh(nn.Conv(4, (3, 3), kernel_dilation=2)(x))
        x = nn.relu(x + 0.5 * y)
        x = -nn.Conv(4, (3, 3), feature_group_count=2)(x) + x
        return nn.leaky_relu(x)


class Pooled(nn.Module):
    """Means, maxima and zeros around."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(3, (3, 3), padding="VALID")(x))
        x = nn.avg_pool(x, (2, 2), (1, 2))
        x = jnp.pad(x, ((0, 0), (1, 0), (2, 2), (0, 0)))
        x = nn.max_pool(nn.relu(nn.Conv(3, (2, 2))(x)), (2, 2), (2, 2))
        return nn.Conv(2, (2, 2))(nn.relu(x - 0.2))


def network(module):
    """Returns a function of one image, with random weights."""
    variables = module.init(jax.random.key(3), jnp.zeros((1, *SHAPE)))
    noise = jax.random.normal(jax.random.key(4), (1000,))
    variables = jax.tree.map(
        lambda v: v + 0.3 * noise[: v.size].reshape(v.shape), variables
    )
    return lambda x: module.apply(variables, x[None])[0]


MODULES = (Strided(), Residual(), Pooled())
CASES = [(module, norm) for module in MODULES for norm in ("linf", "l2")]


@pytest.mark.parametrize(("module", "norm"), full_but(CASES, CASES[:1]))
def test_windows_bound_as_the_whole_image_does(module, norm):
    fn = network(module)
    x = jax.random.uniform(jax.random.key(0), SHAPE)
    eps = 0.05 if norm == "linf" else 0.3
    low, high = (jnp.full(SHAPE, end) for end in (0.0, 1.0))
    ball = {"eps": eps, "norm": norm}
    found = certify.bounds(fn, low, high, center=x, **ball)
    whole = certify.bounds(
        lambda z: fn(z.reshape(SHAPE)),
        low.ravel(),
        high.ravel(),
        center=x.ravel(),
        **ball,
    )
    for one, other in zip(found, whole, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5, rtol=2e-5)


@pytest.mark.full
@pytest.mark.parametrize("rows", [1, 8])
def test_fewer_rows_at_a_time_bound_the_same(rows):
    fn, x = network(Strided()), jax.random.uniform(jax.random.key(0), SHAPE)
    found = certify.bounds(fn, x - 0.05, x + 0.05, rows=rows)
    whole = certify.bounds(fn, x - 0.05, x + 0.05)
    for one, other in zip(found, whole, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
