"""Numbers of masked gradients, against closed forms."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import threat
from jaxrobust.analysis import masking

BOUNDS = (0.0, 1.0)


def linear(w):
    """Logits (0, w.x - sum(w) / 2) of images [N, 1, 3, 1]."""
    w = jnp.asarray(w, jnp.float32)

    def logits_fn(x):
        score = x.reshape(len(x), -1) @ w - w.sum() / 2
        return jnp.stack([jnp.zeros_like(score), score], -1)

    return logits_fn


def images(seed=0, n=6):
    levels = np.random.default_rng(seed).integers(64, 192, (n, 1, 3, 1))
    return jnp.asarray(levels / 255, jnp.float32)


def climb(logits_fn, x, y, **fields):
    return masking.ascend(
        logits_fn,
        lambda x, y: masking.input_gradient(logits_fn, x, y),
        x,
        y,
        start=x,
        **fields,
    )


def test_gradient_and_its_scale_are_the_closed_form():
    w, x = np.array([1.0, -2.0, 0.5]), images()
    logits_fn, y = linear(w), jnp.ones(6, jnp.int32)
    for scale in (1.0, 3.0):
        grad, logits = masking.input_gradient(logits_fn, x, y, scale)
        score = np.asarray(logits)[:, 1]
        want = -scale * w / (1 + np.exp(scale * score))[:, None]
        np.testing.assert_allclose(grad.reshape(6, 3), want, rtol=1e-5)
    np.testing.assert_array_equal(logits, logits_fn(x))


def test_health_of_gradients():
    grad = np.zeros((4, 1, 2, 1), np.float32)
    grad[1, 0, 1] = 2
    grad[2, 0] = [[3], [4]]
    grad[3, 0, 0] = np.nan
    health = masking.gradient_health(jnp.asarray(grad))
    np.testing.assert_array_equal(health.zero, [True, False, False, False])
    np.testing.assert_array_equal(health.finite, [True, True, True, False])
    np.testing.assert_allclose(health.length[:3], [0, 2, 5])


@pytest.mark.parametrize("n", [2, 5])
def test_only_a_network_of_single_images_is_the_same_among_others(n):
    x, logits_fn = images(n=n), linear([1.0, -2.0, 0.5])
    found = masking.among_others(logits_fn, x, BOUNDS)
    np.testing.assert_array_equal(found, logits_fn(x))

    def centred(x):
        return logits_fn(x - x.mean(0, keepdims=True))

    found = masking.among_others(centred, x, BOUNDS)
    assert np.abs(found - centred(x)).max() > 1e-2


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_climbing_finds_what_can_be_found(norm):
    w, eps = np.array([1.0, -2.0, 0.5]), 0.05
    x, logits_fn = images(n=30), linear(w)
    score = np.asarray(logits_fn(x))[:, 1]
    y = jnp.asarray(score > 0, jnp.int32)
    dual = {"linf": 3.5, "l2": np.sqrt(5.25), "l1": 2.0}[norm]
    found = climb(logits_fn, x, y, eps=eps, step_size=eps / 2, steps=4, norm=norm)
    assert found.correct.shape == (5, 30)
    assert found.zero.shape == (4, 30)
    assert not found.zero.any()
    assert found.resists(0).all()
    robust = np.abs(score) > eps * dual
    assert 0 < robust.sum() < 30
    np.testing.assert_array_equal(found.resists(), robust)


def test_logits_that_are_not_finite_are_no_success():
    logits = jnp.asarray([[np.nan, 1.0], [1.0, 0.0], [0.0, 1.0], [np.inf, 0.0]])
    correct = masking.is_correct(logits, jnp.ones(4, jnp.int32))
    np.testing.assert_array_equal(correct, [True, False, True, True])


@pytest.mark.parametrize(("norm", "order"), [("linf", np.inf), ("l2", 2), ("l1", 1)])
def test_covering_radius_is_the_diagonal_of_the_box(norm, order):
    want = np.linalg.norm(np.full(12, 2.0), order)
    assert threat.covering_radius(norm, 12, (-1.0, 1.0)) == pytest.approx(want)
