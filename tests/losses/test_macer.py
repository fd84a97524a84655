"""MACER's loss, by hand and by the closed form of a linear network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from jaxrobust import losses

Z = jax.random.normal(jax.random.key(0), (5, 6, 4))
Y = jnp.array([0, 1, 2, 3, 0, 1])


def test_by_hand():
    found = losses.macer(Z, Y, 0.5, 3.0, 2.0, 1.5)
    p = np.asarray(jax.nn.softmax(Z)).mean(0)
    q = np.asarray(jax.nn.softmax(1.5 * Z)).mean(0)
    assert {True, False} == {*(q.argmax(1) == Y).tolist()}
    for i, y in enumerate(Y.tolist()):
        want = -np.log(p[i, y])
        others = np.delete(q[i], y).max()
        radius = norm.ppf(q[i, y]) - norm.ppf(others)
        if q[i].argmax() == y and radius <= 2.0:
            want += 3.0 * 0.25 * (2.0 - radius)
        np.testing.assert_allclose(found[i], want, rtol=2e-4)


def test_what_is_certain_or_beyond_the_hinge_is_cross_entropy():
    sure = jnp.zeros((2, 1, 3)).at[..., 0].set(200.0)
    of_mean = lambda z: -jax.nn.log_softmax(z)[..., 0].mean()  # noqa: E731
    for z in (sure, sure / 100):
        found = losses.macer(z, jnp.array([0]), hinge=0.1)
        np.testing.assert_allclose(found[0], of_mean(z), atol=1e-5)
    slope = jax.grad(lambda z: losses.macer(z, jnp.array([0])).sum())(sure)
    assert jnp.isfinite(slope).all()


def test_the_radius_grows_along_the_gradient():
    z = jnp.tile(jnp.array([[[0.1, 0.0]]]), (3, 1, 1))
    z = z + 0.05 * jax.random.normal(jax.random.key(1), z.shape)
    slope = jax.grad(lambda z: losses.macer(z, jnp.array([0])).sum())(z)
    assert (slope[..., 0] < 0).all()
    assert (slope[..., 1] > 0).all()


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"logits": Z[0]}, ValueError, r"`logits` must have shape \[D, B, K\]"),
        ({"y": Y[:2]}, ValueError, "y"),
        ({"hinge": -1.0}, ValueError, "`hinge`"),
        ({"y": Y * 1.0}, TypeError, "`y`"),
    ],
)
def test_what_does_not_fit_is_refused(changes, error, said):
    given = {"logits": Z, "y": Y, **changes}
    with pytest.raises(error, match=said):
        losses.macer(**given)
