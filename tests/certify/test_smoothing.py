"""Randomised smoothing against the closed form of a linear classifier."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxrobust import certify
from jaxrobust.certify import smoothing

SLOPE = jnp.array([3.0, 4.0])


def linear(x):
    """Class 1 at a distance of (x . slope - 5) / 5 from the plane."""
    score = x @ SLOPE - 5
    return jnp.stack([jnp.zeros_like(score), score], 1)


@pytest.mark.parametrize(
    ("hits", "n", "alpha"),
    [(1, 10, 0.05), (90, 100, 0.001), (100, 100, 0.001), (99_000, 100_000, 0.001)],
)
def test_the_lower_bound_is_that_of_the_beta_distribution(hits, n, alpha):
    want = stats.beta.ppf(alpha, hits, n - hits + 1)
    np.testing.assert_allclose(smoothing.lower_share(hits, n, alpha), want, rtol=1e-9)
    assert smoothing.lower_share(0, n, alpha) == 0


def test_a_linear_classifier_is_certified_to_its_distance():
    """Whose smoothed radius is the distance; the estimate stays below and near."""
    x = jnp.array([[1.0, 1.0], [0.2, 0.4], [0.6, 0.8]])
    distance = np.abs(np.asarray(x @ SLOPE) - 5) / 5
    found = certify.smooth(
        linear, x, key=jax.random.key(0), sigma=0.5, n=5000, draws=1000
    )
    assert found.classes.tolist() == [1, 0, certify.ABSTAINED]
    assert (found.radii <= distance + 1e-6).all()
    assert (found.radii[:2] > 0.8 * distance[:2]).all()
    assert found.radii[2] == 0


def test_an_image_depends_on_its_key_alone():
    x, keys = jnp.array([[0.8, 0.9], [0.2, 0.4]]), jax.random.split(jax.random.key(1))
    options = {"sigma": 0.5, "n0": 10, "n": 130, "alpha": 0.01}
    both = certify.smooth(linear, x, key=keys, **options)
    alone = certify.smooth(linear, x[1:], key=keys[1:], draws=7, **options)
    assert alone.classes[0] == both.classes[1]
    assert alone.radii[0] == both.radii[1]


def test_all_draws_are_counted():
    keys = jax.random.split(jax.random.key(0), 1)
    found = smoothing.counts(linear, jnp.array([[0.6, 0.8]]), keys, 0.5, 130, 50)
    assert found.sum() == 130


@pytest.mark.parametrize(
    "wrong",
    [
        {"n": 2**31},
        {"sigma": 0},
        {"sigma": np.inf},
        {"n": 0},
        {"alpha": 1.0},
        {"n0": -1},
    ],
)
def test_mistakes_are_told(wrong):
    given = {"sigma": 0.1, **wrong}
    with pytest.raises(ValueError, match=next(iter(wrong))):
        certify.smooth(linear, jnp.ones((1, 2)), key=jax.random.key(0), **given)


@pytest.mark.parametrize("fn", [lambda z: z[:, 0], lambda z: z[:, :1]])
def test_logits_are_of_several_classes(fn):
    with pytest.raises(ValueError, match="must return logits"):
        certify.smooth(fn, jnp.ones((1, 2)), key=jax.random.key(0), sigma=0.1)


def test_it_is_not_for_jit():
    smooth = jax.jit(
        lambda x: certify.smooth(linear, x, key=jax.random.key(0), sigma=0.1)
    )
    with pytest.raises(ValueError, match=r"not for jax\.jit"):
        smooth(jnp.ones((1, 2)))


def test_images_lie_in_the_bounds():
    given = {"key": jax.random.key(0), "sigma": 60.0, "n": 20}
    x = jnp.full((1, 2), 200.0)
    with pytest.raises(ValueError, match=r"`x` leaves `bounds` \(0.0, 1.0\)"):
        certify.smooth(linear, x, **given)
    assert certify.smooth(linear, x, bounds=(0, 255), **given).classes.shape == (1,)
    with pytest.raises(ValueError, match="`bounds` must be"):
        certify.smooth(linear, x, bounds=(1, 0), **given)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_of_no_class(value):
    x, options = jnp.array([[1.0, 1.0]]), {"sigma": 0.1, "n0": 10, "n": 200}
    found = certify.smooth(
        lambda z: linear(z) + value, x, key=jax.random.key(0), **options
    )
    assert found.classes.tolist() == [certify.ABSTAINED]
    assert found.radii.tolist() == [0]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_has_the_same_noise(dtype):
    """In half precision itself noise of 3 standard deviations would hardly be there."""
    x = jnp.array([[1.0, 0.5 + 2.75 * 0.25]], dtype)  # 2.75 sigma from a plane

    def fn(z):
        ahead = z.astype(jnp.float32)[:, 1] - 0.5
        return jnp.stack([jnp.zeros_like(ahead), ahead], 1)

    keys = jax.random.split(jax.random.key(0), 1)
    given = (keys, 0.25, 100_000, 10_000)
    counted = [
        smoothing.counts(fn, images, *given)[0, 1] / 100_000
        for images in (x, x.astype(jnp.float32))
    ]
    np.testing.assert_allclose(counted, stats.norm.cdf(2.75), atol=5e-4)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_it_runs_where_jax_computes_in_float64(dtype):
    with jax.enable_x64(True):
        x = jnp.asarray([[1.0, 1.0]], dtype)
        slope = SLOPE.astype(dtype)

        def fn(z):
            score = z @ slope - 5
            return jnp.stack([jnp.zeros_like(score), score], 1)

        found = certify.smooth(fn, x, key=jax.random.key(0), sigma=0.5, n=500)
    assert found.classes.tolist() == [1]
