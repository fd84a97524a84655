"""Gradients that are the network's tell what small steps change; others do not."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.analysis import masking
from jaxrobust.evaluation import slopes, verify

N, SHAPE = 12, (4, 4, 1)
EPS32 = float(jnp.finfo(jnp.float32).eps)


def network(x):
    """Two smooth layers of fixed random weights."""
    keys = jax.random.split(jax.random.key(0))
    first, last = (
        jax.random.normal(keys[0], (16, 24)),
        jax.random.normal(keys[1], (24, 5)),
    )
    return jnp.tanh(x.reshape(len(x), -1) @ first) @ last


def images(n=N):
    levels = np.random.default_rng(0).integers(0, 256, (n, *SHAPE))
    return jnp.asarray(levels / 255, jnp.float32), jnp.arange(n, dtype=jnp.int32) % 5


def measure(fn, *, resolution=EPS32, eps=0.05, norm="linf", gradient_of=None, n=N):
    x, y = images(n)

    def slope(x, y):
        source = gradient_of or fn
        return masking.input_gradient(source, x, y, odds=True)[0], fn(x)

    keys = jax.random.split(jax.random.key(2), n)
    ball = verify.Ball(eps, norm)
    common = {"ball": ball, "resolution": resolution, "directions": 3}
    return slopes.measure(jax.jit(fn), slope, x, y, keys=keys, **common)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.05), ("l2", 0.3), ("l1", 1.0)])
def test_a_true_gradient_explains_the_change(norm, eps):
    found = measure(network, norm=norm, eps=eps)
    assert np.quantile(found.explained, 0.1) > 0.9
    assert (found.rises == 1).all()
    assert not found.zero.any()
    assert not found.changed.any()


def shifted(x):
    return network(x) + 1e7


def test_what_rounding_swallows_is_left_out():
    found = measure(shifted)
    assert np.isnan(found.explained).all()
    assert np.isnan(found.rises).all()


def test_half_precision_is_measured_with_steps_that_it_can_tell():
    coarse = float(jnp.finfo(jnp.bfloat16).eps)

    def half(x):
        return network(x.astype(jnp.bfloat16).astype(jnp.float32))

    found = measure(half, resolution=coarse, eps=0.1)
    known = found.explained[np.isfinite(found.explained)]
    assert len(known)
    assert np.median(known) > 0.9
    assert not found.changed.any()


WRONG = {
    "another network's": lambda x: network(x[:, ::-1]),
    "of half of the image": lambda x: network(
        x * jnp.tile(jnp.asarray([1.0, 0.0]), 2)[None, :, None, None]
    ),
    "turned around": lambda x: -network(x),
    "a millionth": lambda x: 1e-6 * network(x),
}


@pytest.mark.parametrize("name", WRONG)
def test_another_gradient_does_not(name):
    found = measure(network, gradient_of=WRONG[name])
    assert np.quantile(found.explained, 0.25, axis=-1).min() < 0.7


def test_a_gradient_that_is_wrong_in_the_ball_alone_is_seen():
    x, _ = images()
    inside = jnp.clip(x, 0.005, 0.995)

    def gradient_of(z):
        clean = (jnp.abs(z - inside) < 1e-6).all((1, 2, 3))
        return jnp.where(clean[:, None], network(z), network(z[:, ::-1]))

    found = measure(network, gradient_of=gradient_of)
    least = np.median(found.explained, -1)
    assert least[0].min() > 0.9
    assert least[1].max() < 0.7


def test_a_gradient_that_is_wrong_where_attacks_lead_is_seen():
    x, _ = images()
    least = 0.05  # between the distances of a random point and of where it leads

    def gradient_of(z):
        away = jnp.abs(z - x).mean((1, 2, 3)) > least
        return jnp.where(away[:, None], network(z[:, ::-1]), network(z))

    found = measure(network, gradient_of=gradient_of, eps=0.07)
    quarter = np.nanquantile(found.explained, 0.25, axis=-1)
    assert quarter[:2].min() > 0.9
    assert quarter[2].max() < 0.7


def test_zero_gradients_and_jumping_predictions():
    def jumps(x):
        sign = jnp.sign(jnp.sin(1e6 * x.sum((1, 2, 3))))[:, None]
        return jax.lax.stop_gradient(sign) * jnp.arange(5.0)[None]

    found = measure(jumps)
    assert found.zero.all()
    assert found.changed.mean() > 0.5
    assert np.isnan(found.rises).all()


def test_the_share_that_is_told():
    found, noise = np.array([[1.0, -2.0], [3.0, 0.5]]).T, np.zeros(2)
    share = slopes.share
    chex.assert_trees_all_close(share(found, found, noise), 1, rtol=1e-7)
    chex.assert_trees_all_close(share(found, 0 * found, noise), 0, rtol=0, atol=1e-9)
    chex.assert_trees_all_close(share(found, -found, noise), -3, rtol=1e-7)
    chex.assert_trees_all_close(share(found, 2 * found, noise), 0, rtol=0, atol=1e-9)
    chex.assert_trees_all_close(share(0 * found, found, noise), -9, rtol=1e-7)
    assert np.isnan(share(found, found, np.array([10.0, 10.0]))).all()
    assert np.isnan(share(0 * found, 0 * found, noise)).all()
    assert np.isnan(share(found, found * np.nan, noise)).all()


@pytest.mark.parametrize("resolution", [EPS32, 2.0**-10, 2.0**-7])
@pytest.mark.parametrize("eps", [1e-3, 8 / 255, 0.3, 1.0, 10.0])
def test_steps_stay_inside_the_box(eps, resolution):
    for norm in ("linf", "l2", "l1"):
        pair = slopes.reaches(eps, norm, 48, (-1.0, 1.0), resolution)
        assert min(pair) > 0
        assert max(pair) <= 0.5
