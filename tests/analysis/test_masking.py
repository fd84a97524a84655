"""Numbers of masked gradients, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


def test_saturation():
    logits = np.array([[0, 1, 0], [0, 0, 60], [60, 0, 0], [2, 59.99, 3]])
    found = masking.saturation(jnp.asarray(logits), jnp.asarray([1, 2, 1, 1]))
    np.testing.assert_array_equal(found.certain, [False, True, True, True])
    np.testing.assert_array_equal(found.no_loss, [False, True, False, True])
    np.testing.assert_array_equal(found.at_ceiling, [False, True, True, True])


def test_probabilities_are_told_from_logits():
    logits = np.random.default_rng(0).normal(size=(5, 3))
    assert masking.looks_like_probabilities(jax.nn.softmax(logits))
    assert not masking.looks_like_probabilities(logits)
    assert not masking.looks_like_probabilities(jax.nn.log_softmax(logits))


def test_log_odds_rise_with_the_loss_where_float32_is_blind():
    logits = np.array([[1.0, 2.0, 0.5], [1000.0, 0.0, 3.0]])
    y = np.array([2, 0])
    p = np.exp(logits[0]) / np.exp(logits[0]).sum()
    found = masking.log_odds(logits, y)
    np.testing.assert_allclose(found[0], np.log((1 - p[2]) / p[2]))
    np.testing.assert_allclose(found[1], -997 + np.log1p(np.exp(-3)))


def test_typical_lead():
    logits = [[0.0, 4.0, 1.0], [9.0, 2.0, 8.0], [0.0, 5.0, 0.0]]
    assert masking.typical_lead(np.asarray(logits)) == 3
    assert masking.typical_lead(np.ones((2, 3))) == 1


def test_relative_change():
    one = np.array([[1.0, -4.0], [2.0, 0.0]])
    assert masking.relative_change(one, one) == 0
    assert masking.relative_change(one, np.array([[1.0, -4.0], [2.0, 2.0]])) == 0.5
    assert masking.relative_change(one, one * np.nan) == np.inf
    assert masking.relative_change(0 * one, one) == 4


@pytest.mark.parametrize("n", [2, 5])
def test_only_a_network_of_single_images_is_the_same_among_others(n):
    x, logits_fn = images(n=n), linear([1.0, -2.0, 0.5])
    found = masking.among_others(logits_fn, x, BOUNDS)
    np.testing.assert_array_equal(found, logits_fn(x))

    def centred(x):
        return logits_fn(x - x.mean(0, keepdims=True))

    found = masking.among_others(centred, x, BOUNDS)
    assert np.abs(found - centred(x)).max() > 1e-2


def test_a_gradient_that_passes_straight_through_rounding_does_not_hold():
    x, y, sound = images(), jnp.zeros(6, jnp.int32), linear([1.0, -2.0, 0.5])

    def rounded(x):
        return sound(x + jax.lax.stop_gradient(jnp.round(255 * x) / 255 - x))

    for logits_fn, holds in ((sound, True), (rounded, False)):
        grad, _ = masking.input_gradient(logits_fn, x, y)
        rises, usable = masking.gradient_holds(logits_fn, x, y, grad, BOUNDS)
        assert usable.all()
        assert (rises == holds).all()


def test_nothing_is_said_of_gradients_that_lead_nowhere():
    x = jnp.asarray([[0.5, 0.5], [1.0, 0.0], [0.5, 0.5]]).reshape(3, 1, 2, 1)
    grad = jnp.asarray([[0.0, 0.0], [1.0, -1.0], [np.nan, 1.0]]).reshape(x.shape)
    y, logits_fn = jnp.zeros(3, jnp.int32), linear([1.0, 1.0])
    _, usable = masking.gradient_holds(logits_fn, x, y, grad, BOUNDS)
    assert not usable.any()


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
    assert masking.covering_radius(norm, 12, (-1.0, 1.0)) == pytest.approx(want)
