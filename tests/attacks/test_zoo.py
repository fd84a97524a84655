"""ZOO: its quotients against derivatives, the nearest point, the search for c."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import attacks, losses, threat
from jaxrobust.attacks._carlini import Weight
from jaxrobust.attacks._objective import Problem
from jaxrobust.attacks.zoo import ZOO

SHAPE = (4, 3, 3, 2)
SIZE = 18
WEIGHTS = jax.random.normal(jax.random.key(5), (SIZE,))
KEY = jax.random.key(0)


def linear(x):
    """Two classes with a hyperplane through the middle of the box."""
    z = (x.reshape(x.shape[0], -1) - 0.5) @ WEIGHTS
    return jnp.stack([-z, z], axis=1)


def images():
    x = jax.random.uniform(jax.random.key(1), SHAPE, minval=0.4, maxval=0.6)
    return x, jnp.argmax(linear(x), axis=1)


def distance_to_plane(x):
    return jnp.abs(linear(x)[:, 1]) / jnp.linalg.norm(WEIGHTS)


def visits(descent):
    """How often Adam has moved each value."""
    return optax.tree_utils.tree_get(descent.adam, "count")


def test_quotients_are_derivatives():
    with jax.enable_x64(True):
        w = jax.random.normal(jax.random.key(2), (SIZE, 3), "float64")
        x = jax.random.uniform(jax.random.key(1), SHAPE, "float64")
        y = jnp.array([0, 1, 2, 0])

        def model(z):
            return jnp.tanh(z.reshape(z.shape[0], -1) @ w)

        problem = Problem(model, x, y, jnp.inf, 0.01, norm="l2", loss="margin")
        method, keys = ZOO(1, coordinates=5), jax.random.split(KEY, 4)
        places = method._coordinates(keys, 3, x)
        chex.assert_shape(places, (4, 5))
        assert all(len(set(row.tolist())) == 5 for row in places)
        found = method._slopes(problem, keys, 3, x, places)
        gradient = jax.grad(lambda z: losses.margin(model(z), y).sum())(x)
        expected = jnp.take_along_axis(gradient.reshape(4, -1), places, axis=1)
        chex.assert_trees_all_close(found, expected, rtol=1e-7, atol=1e-7)


def test_a_step_moves_its_coordinates_alone_by_adams_first_step():
    """Adam's first step is `lr` against the sign of 2 (x - x_0) - c dmargin."""
    x, y = images()
    problem = Problem(linear, x, y, jnp.inf, 0.01, norm="l2", loss="margin")
    method, keys = ZOO(2, per_descent=2, coordinates=7), jax.random.split(KEY, 4)
    carry = jax.jit(
        lambda: method.step(problem, keys, 0, method.start(problem, keys, 0))
    )()
    after = carry.descent
    places = method._coordinates(keys, 0, x)
    moved = np.asarray(after.x - x).reshape(4, -1)
    way = jnp.sign(WEIGHTS)[None] * jnp.where(y == 0, 1, -1)[:, None]
    expected = np.zeros((4, SIZE))
    rows = np.arange(4)[:, None]
    expected[rows, places] = 0.01 * np.asarray(way)[rows, places]
    chex.assert_trees_all_close(moved, expected, rtol=0, atol=1e-6)
    chex.assert_trees_all_equal(visits(after) > 0, expected != 0)


def test_ends_near_the_hyperplane_and_keeps_what_it_must():
    """Row 1 is misclassified as it is, row 3 turns NaN once it moves."""
    x, y = images()
    y = y.at[1].set(1 - y[1])

    def broken(z):
        moved = jnp.any(z != x, axis=(1, 2, 3))[:, None]
        return jnp.where((jnp.arange(4)[:, None] == 3) & moved, jnp.nan, linear(z))

    def attack(eps):
        return attacks.zoo(broken, x, y, key=KEY, eps=eps, steps=80, binary_steps=3,
                           coordinates=9, lr=0.002, const=0.01)  # fmt: skip

    x_adv = attack(None)
    chex.assert_trees_all_equal(x_adv[1::2], x[1::2])
    least = distance_to_plane(x)
    length = threat.distance(x_adv, x, norm="l2")
    for row in (0, 2):
        assert jnp.argmax(linear(x_adv)[row]) != y[row]
        assert 1 <= length[row] / least[row] < 1.1
    # Within a radius the same point, or none.
    eps = float(length.max()) * 0.999
    within = attack(eps)
    chex.assert_trees_all_equal(
        within, jnp.where((length <= eps)[:, None, None, None], x_adv, x)
    )


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_scale_of_the_logits_does_not_count(scale):
    x, y = images()
    options = {"eps": None, "steps": 60, "binary_steps": 2, "coordinates": SIZE}
    x_adv = attacks.zoo(lambda x: scale * linear(x), x, y, key=KEY, **options)
    assert (jnp.argmax(linear(x_adv), 1) != y).all()


def test_targeted_with_a_margin():
    x, y = images()
    x_adv = attacks.zoo(linear, x, 1 - y, key=KEY, eps=None, steps=60, coordinates=30,
                        kappa=0.5, targeted=True)  # fmt: skip
    assert (losses.margin(linear(x_adv), y) >= 0.5).all()
    # A margin of kappa is kappa / (2 |w|) beyond the hyperplane.
    least = distance_to_plane(x) + 0.25 / jnp.linalg.norm(WEIGHTS)
    ratio = threat.distance(x_adv, x, norm="l2") / least
    assert (ratio >= 1 - 1e-4).all()
    assert (ratio < 1.15).all()


def test_the_weight_is_searched_for_per_example():
    start = Weight(jnp.array([1.0, 1.0]), jnp.zeros(2), jnp.full(2, jnp.inf))
    first = start.next(jnp.array([True, False]))
    chex.assert_trees_all_equal(first.c, np.array([0.5, 10.0]))
    second = first.next(jnp.array([False, True]))
    chex.assert_trees_all_equal(second.c, np.array([0.75, 5.5]))
    chex.assert_trees_all_equal(second.low, np.array([0.5, 1.0]))
    chex.assert_trees_all_equal(second.high, np.array([1.0, 10.0]))


def test_a_new_search_starts_at_the_image_row_by_row():
    x, y = images()
    problem = Problem(linear, x, y, jnp.inf, 0.01, norm="l2", loss="margin")
    method, keys = ZOO(6, per_descent=3, coordinates=20), jax.random.split(KEY, 4)
    step = jax.jit(lambda i, carry: method.step(problem, keys, i, carry))
    carry = method.start(problem, keys, 0)
    for i in range(3):
        carry = step(jnp.full(4, i), carry)
    mixed = step(jnp.array([3, 2, 3, 2]), carry)
    chex.assert_trees_all_equal(visits(mixed.descent).max(1), np.array([1, 4, 1, 4]))
    found = np.asarray(carry.descent.hit)
    chex.assert_trees_all_equal(mixed.weight.c[0::2], np.where(found, 0.5, 10)[0::2])
    chex.assert_trees_all_equal(mixed.weight.c[1::2], np.array([1, 1]))
    chex.assert_trees_all_close(
        jnp.abs(mixed.descent.x - x)[0::2].max((1, 2, 3)),
        np.array([0.01, 0.01]),
        rtol=1e-4,
    )


def test_counts_of_calls():
    x, y = images()
    calls = []

    def counted(z):
        calls.append(z.shape)
        return linear(z)

    problem = Problem(counted, x, y, jnp.inf, 0.01, norm="l2", loss="margin")
    method, keys = ZOO(1, per_descent=1, coordinates=1), jax.random.split(KEY, 4)
    carry = jax.eval_shape(lambda: method.start(problem, keys, 0))
    assert calls == [SHAPE]
    jax.eval_shape(lambda carry: method.step(problem, keys, 0, carry), carry)
    assert calls == [SHAPE] * (1 + 2 * 1 + 1)


def test_no_steps_are_the_image():
    x, y = images()
    x_adv = attacks.zoo(linear, x, y, key=KEY, eps=None, steps=0)
    chex.assert_trees_all_equal(x_adv, x)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"key": None}, ValueError, "`key` is missing and ZOO needs one"),
        ({"steps": -1}, ValueError, "`steps` must be at least 0, got -1"),
        ({"binary_steps": 0}, ValueError, "`binary_steps` must be at least 1, got 0"),
        ({"coordinates": 0}, ValueError, "`coordinates` must be at least 1, got 0"),
        ({"h": 0.0}, ValueError, "`h` must be finite and above 0, got 0.0"),
        ({"const": -1.0}, ValueError, "`const` must be finite and above 0"),
        ({"kappa": -1.0}, ValueError, "`kappa` must be at least 0"),
        ({"lr": "fast"}, TypeError, "`lr` must be a number"),
        ({"norm": "linf"}, ValueError, "`norm` of zoo must be 'l2'.* got 'linf'"),
        ({"norm": "max"}, ValueError, "Unknown norm 'max'. Did you mean"),
        ({"eps": -0.1}, ValueError, "`eps` must be at least 0"),
    ],
)
def test_wrong_arguments(wrong, error, message):
    with pytest.raises(error, match=message):
        attacks.zoo(linear, *images(), **({"key": KEY, "eps": None} | wrong))
