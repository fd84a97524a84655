"""DeepFool: linear models in closed form, the reference's points, what it refuses."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import attacks

ORDER = {"linf": np.inf, "l2": 2}
DUAL = {"linf": 1, "l2": 2}


def lengths(x_adv, x, norm):
    delta = np.asarray(x_adv, np.float64) - np.asarray(x, np.float64)
    return np.linalg.norm(delta.reshape(len(delta), -1), ORDER[norm], axis=1)


def linear(w):
    """Logits of a linear model `[d, K]`."""
    return lambda x: x.reshape(x.shape[0], -1) @ w


def problem(classes):
    """A linear model, images away from the walls, and what it says of them."""
    w = jax.random.normal(jax.random.key(0), (32, classes))
    x = jax.random.uniform(jax.random.key(1), (12, 4, 4, 2), minval=0.4, maxval=0.6)
    return w, x, jnp.argmax(linear(w)(x), axis=1)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize(("classes", "overshoot"), [(2, 0.02), (5, 0.3), (20, 0.02)])
def test_linear_model_is_one_projection(norm, classes, overshoot):
    """1 + overshoot times |z_k - z_y| / |w_k - w_y|_q, for the nearest class k."""
    w, x, y = problem(classes)
    x_adv = attacks.deepfool(linear(w), x, y, steps=1, overshoot=overshoot, norm=norm)
    z = np.asarray(linear(w)(x), np.float64)
    for row, own in enumerate(np.asarray(y)):
        others = [k for k in range(classes) if k != own]
        away = np.asarray(w)[:, others] - np.asarray(w)[:, [own]]
        ways = (z[row, own] - z[row, others]) / np.linalg.norm(away, DUAL[norm], axis=0)
        found = lengths(x_adv, x, norm)[row]
        chex.assert_trees_all_close(
            found, (1 + overshoot) * ways.min(), rtol=1e-4, atol=1e-7
        )
    assert (jnp.argmax(linear(w)(x_adv), axis=1) != y).all()
    # eps as a number keeps those within, and the image of the others.
    eps = float(np.median(lengths(x_adv, x, norm)))
    kept = attacks.deepfool(linear(w), x, y, eps=eps, steps=1, overshoot=overshoot,
                            norm=norm)  # fmt: skip
    inside = lengths(x_adv, x, norm) <= eps
    chex.assert_trees_all_equal(kept, np.where(inside[:, None, None, None], x_adv, x))
    assert 0 < inside.sum() < 12


def test_golden_points(golden):
    """Overshooting every step or the sum of them is one thing inside the box."""
    data = golden.load("ta_deepfool")
    x = jnp.asarray(golden.nhwc(data["x"]))
    x_adv = attacks.deepfool(golden.net(data), x, jnp.asarray(data["y"]), steps=15)
    assert data["fooled"].all()
    assert data["adv_stable32"].all()
    chex.assert_trees_all_close(x_adv, golden.nhwc(data["adv"]), rtol=1e-7, atol=5e-7)
    chex.assert_trees_all_close(
        lengths(x_adv, x, "l2"), data["l2_64"], rtol=0, atol=1e-6
    )


def test_linf_steps_are_shorter_in_linf(golden):
    data = golden.load("ta_deepfool")
    x, y = jnp.asarray(golden.nhwc(data["x"])), jnp.asarray(data["y"])
    net = golden.net(data)
    flat = attacks.deepfool(net, x, y, norm="linf", steps=20)
    round_ = golden.nhwc(data["adv"])
    wrong = np.asarray(jnp.argmax(net(x), axis=1) != y)
    assert (jnp.argmax(net(flat), axis=1) != y).all()
    assert (lengths(flat, x, "linf") < lengths(round_, x, "linf"))[~wrong].all()
    assert (lengths(flat, x, "l2") > lengths(round_, x, "l2"))[~wrong].all()


def test_a_tie_at_a_black_image_is_left():
    """All logits are 0 there, and no step to the boundary would be any."""
    w, _, _ = problem(4)
    x, y = jnp.zeros((1, 4, 4, 2)), jnp.array([0])
    x_adv = attacks.deepfool(linear(w), x, y, steps=5)
    assert int(jnp.argmax(linear(w)(x_adv), axis=1)[0]) != 0
    assert lengths(x_adv, x, "l2")[0] < 1e-4


def test_other_bounds_are_kept():
    """Images at the walls of another box: what is cut off is made up for."""
    w, x, _ = problem(3)
    x = jnp.where(x > 0.5, 3.0, -2.0)
    y = jnp.argmax(linear(w)(x), axis=1)
    x_adv = attacks.deepfool(linear(w), x, y, bounds=(-2.0, 3.0))
    assert float(x_adv.min()) >= -2
    assert float(x_adv.max()) <= 3
    assert (jnp.argmax(linear(w)(x_adv), axis=1) != y).all()


def test_misclassified_images_and_broken_rows_stay():
    w, x, y = problem(3)
    y = y.at[1].set((y[1] + 1) % 3)
    broken = jnp.arange(12)[:, None] == 2

    def fn(z):
        """Row 2 turns NaN once it moves."""
        moved = jnp.any(z != x, axis=(1, 2, 3))[:, None]
        return jnp.where(broken & moved, jnp.nan, linear(w)(z))

    with pytest.warns(attacks.RobustnessWarning, match="not finite for 1 of 12"):
        x_adv = attacks.deepfool(fn, x, y, steps=4)
    chex.assert_trees_all_equal(x_adv[1:3], x[1:3])
    wrong = jnp.argmax(linear(w)(x_adv), axis=1) != y
    assert wrong[0]
    assert wrong[3:].all()


def test_stochastic_model():
    w, x, y = problem(3)

    def noisy(z, keys):
        return linear(w)(z) + 1e-3 * jax.vmap(lambda k: jax.random.normal(k, (3,)))(
            keys
        )

    x_adv = attacks.deepfool(noisy, x, y, key=jax.random.key(2), steps=5,
                             stochastic=True, eot_samples=2)  # fmt: skip
    assert (jnp.argmax(linear(w)(x_adv), axis=1) != y).mean() >= 0.75
    with pytest.raises(ValueError, match=r"`key` is missing and stochastic=True"):
        attacks.deepfool(noisy, x, y, stochastic=True)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"norm": "l1"}, "deepfool has `norm` 'l2' or 'linf', got 'l1'.*use fab"),
        ({"norm": "l3"}, "Unknown norm 'l3'. Did you mean"),
        ({"overshoot": -0.1}, "`overshoot` must be at least 0"),
        ({"steps": -1}, "`steps` must be at least 0"),
        ({"eps": -1.0}, "`eps` must be at least 0"),
    ],
)
def test_wrong_hyperparameters(wrong, message):
    x = jnp.zeros((1, 2, 2, 1))
    with pytest.raises(ValueError, match=message):
        attacks.deepfool(linear(jnp.ones((4, 2))), x, jnp.array([0]), **wrong)
