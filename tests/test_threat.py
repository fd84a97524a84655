"""Threat models: exact projections, steepest steps, uniform samples."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxrobust import threat

SHAPE = (2, 2, 2, 3)
PROPERTY = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
IMAGES = hnp.arrays(np.float32, SHAPE, elements=st.floats(0, 1, width=32))
MOVES = hnp.arrays(np.float32, SHAPE, elements=st.floats(-3, 3, width=32))
RADII = st.one_of(st.sampled_from([0.0, 1e-6, 1e4]), st.floats(0, 6, width=32))
every_norm = pytest.mark.parametrize("norm", threat.NORMS)


def rows(*values):
    return jnp.asarray(values, jnp.float32).reshape(len(values), -1, 1, 1)


def norm64(delta, norm):
    delta = np.asarray(delta, np.float64).reshape(len(delta), -1)
    return np.linalg.norm(delta, {"linf": np.inf, "l2": 2, "l1": 1}[norm], axis=1)


def jitted(norm, bounds=(0.0, 1.0)):
    return jax.jit(
        lambda x_adv, x, eps: threat.project(
            x_adv, x, eps=eps, norm=norm, bounds=bounds
        )
    )


PROJECT = {norm: jitted(norm) for norm in threat.NORMS}


def test_l1_anchor():
    """The value that AutoAttack's own L1_projection gave."""
    x, moved = rows([0.1, 0.5, 0.9, 0.3]), rows([0.5, -0.4, 0.3, 0.05])
    point = PROJECT["l1"](x + moved, x, 0.6)
    chex.assert_trees_all_close(
        (point - x).ravel(), np.asarray([0.3, -0.2, 0.1, 0]), rtol=0, atol=1e-6
    )


@every_norm
@PROPERTY
@given(x=IMAGES, moved=MOVES, eps=RADII)
def test_project_is_inside_and_idempotent(norm, x, moved, eps):
    once = np.asarray(PROJECT[norm](x + moved, x, eps))
    assert once.min() >= 0
    assert once.max() <= 1
    excess = norm64(once.astype(np.float64) - x, norm).max() - eps
    assert excess <= 1e-6 * max(1, eps)
    twice = np.asarray(PROJECT[norm](once, x, eps))
    chex.assert_trees_all_close(once, twice, rtol=0, atol=1e-6)


@every_norm
@PROPERTY
@given(x=IMAGES, moved=MOVES, eps=RADII)
def test_points_inside_stay(norm, x, moved, eps):
    inside = np.asarray(PROJECT[norm](x + moved, x, 0.5 * np.float32(eps)))
    kept = np.asarray(PROJECT[norm](inside, x, eps))
    chex.assert_trees_all_close(kept, inside, rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l1"])
@PROPERTY
@given(x=IMAGES, moved=MOVES, other=MOVES, eps=st.floats(0, 6, width=32))
def test_project_is_nearest(norm, x, moved, other, eps):
    """No other point of ball and box is nearer: the variational inequality."""
    target = x + moved
    point = np.asarray(PROJECT[norm](target, x, eps), np.float64)
    rival = np.asarray(PROJECT[norm](x + other, x, eps), np.float64)
    product = ((target - point) * (rival - point)).reshape(2, -1).sum(1)
    assert product.max() <= 2e-4


def test_wide_box_is_the_ball_alone():
    """Optax's projection, which knows no box, as an oracle."""
    x = jax.random.normal(jax.random.key(0), (3, 4, 4, 2))
    moved = jax.random.normal(jax.random.key(1), x.shape)
    project = jitted("l1", (-100.0, 100.0))
    point = project(x + moved, x, 2.5) - x
    for row, free in zip(point, moved, strict=True):
        expected = optax.projections.projection_l1_ball(free, 2.5)
        chex.assert_trees_all_close(row, expected, rtol=0, atol=1e-5)


def test_one_radius_per_row():
    x = jnp.full((3, 2, 2, 1), 0.5)
    eps = jnp.array([0.0, 0.1, 0.4])
    for norm in threat.NORMS:
        point = PROJECT[norm](x + 1, x, eps)
        chex.assert_trees_all_close(
            threat.distance(point, x, norm=norm), eps, rtol=0, atol=1e-6
        )


@every_norm
@pytest.mark.parametrize("bounds", [(0.0, 255.0), (-3.0, 2.0), (100.0, 101.0)])
def test_long_rows_keep_the_contract_in_float64(norm, bounds):
    """Rounding of sums over many pixels, and of pixels far from zero."""
    width = bounds[1] - bounds[0]
    rng = np.random.default_rng(0)
    x = rng.uniform(*bounds, (2, 96, 96, 3)).astype(np.float32).clip(*bounds)
    project = jitted(norm, bounds)
    for eps in (0.0, 1e-3, 0.5, 50.0):
        for scale in (0.01, 10.0):
            free = (x + scale * rng.normal(size=x.shape)).astype(np.float32)
            point = np.asarray(project(free, x, np.float32(eps)))
            assert point.min() >= bounds[0]
            assert point.max() <= bounds[1]
            excess = norm64(point.astype(np.float64) - x, norm).max() - eps
            assert excess <= 1e-6 * max(1, eps, width)


@every_norm
def test_steepest_step_ascends_most(norm):
    """No random step of the same length gains more on a linear function."""
    x = jnp.full((1, 3, 3, 2), 0.5)
    grad = jax.random.normal(jax.random.key(0), x.shape)
    moved = threat.steepest_step(x, grad, step_size=0.2, norm=norm) - x
    assert norm64(moved, norm)[0] == pytest.approx(0.2, rel=1e-5)
    best = float(jnp.sum(grad * moved))
    many = threat.sample(
        jnp.repeat(x, 500, 0), key=jax.random.key(1), eps=0.2, norm=norm
    )
    assert best >= float(jnp.max(jnp.sum(grad * (many - x), axis=(1, 2, 3))))


def test_l1_step_goes_where_the_box_lets_it():
    x = rows([0.9, 0.5, 0.2, 0.0])
    grad = rows([5.0, -4.0, 3.0, -9.0])
    step = threat.steepest_step(x, grad, step_size=0.8, norm="l1")
    # The last cannot move, the first moves 0.1, the second 0.5, the third the rest.
    chex.assert_trees_all_close(
        step.ravel(), np.asarray([1.0, 0.0, 0.4, 0.0]), rtol=0, atol=1e-6
    )


@every_norm
def test_steps_without_a_direction(norm, compiled):
    x = jnp.full((3, 2, 2, 1), 0.5)
    grad = jnp.zeros_like(x).at[1].set(jnp.nan).at[2, 0].set(jnp.inf)
    step = compiled(lambda g: threat.steepest_step(x, g, step_size=0.1, norm=norm))(
        grad
    )
    chex.assert_trees_all_equal(step[:2], x[:2])
    chex.assert_tree_all_finite(step)
    assert float(jnp.abs(step[2] - x[2]).max()) > 0


@every_norm
def test_tiny_and_huge_gradients_step_alike(norm):
    x = jnp.full((1, 2, 2, 1), 0.5)
    grad = jnp.array([1.0, -2.0, 3.0, -4.0]).reshape(x.shape)
    steps = [
        threat.steepest_step(x, grad * s, step_size=0.1, norm=norm)
        for s in (1e-30, 1.0, 1e30)
    ]
    chex.assert_trees_all_close(steps[0], steps[1], rtol=0, atol=1e-6)
    chex.assert_trees_all_close(steps[2], steps[1], rtol=0, atol=1e-6)


@every_norm
def test_samples_are_uniform_in_the_ball(norm):
    """(distance / eps)^d is uniform on [0, 1], and no direction is preferred."""
    x = jnp.zeros((4000, 2, 2, 1))
    points = threat.sample(
        x, key=jax.random.key(0), eps=0.7, norm=norm, bounds=(-1.0, 1.0)
    )
    share = np.sort((norm64(points, norm) / 0.7) ** 4)
    assert share.max() <= 1 + 1e-5
    gap = np.abs(share - (np.arange(4000) + 0.5) / 4000).max()
    assert gap < 1.63 / np.sqrt(4000)  # Kolmogorov-Smirnov at 1 %
    assert np.abs(np.mean(points, axis=0)).max() < 0.03


@every_norm
def test_samples_near_the_box_stay_in_it(norm):
    x = jnp.zeros((20, 3, 3, 1)).at[10:].set(1.0)
    points = threat.sample(x, key=jax.random.key(0), eps=0.9, norm=norm)
    assert float(points.min()) >= 0
    assert float(points.max()) <= 1


def test_row_keys():
    key = jax.random.key(3)
    keys = threat.row_keys(key, 4)
    chex.assert_shape(keys, (4,))
    assert bool((keys[2] == jax.random.fold_in(key, 2)).all())
    assert threat.row_keys(keys, 4) is keys


def test_row_keys_refuses():
    with pytest.raises(TypeError, match=r"`key`.*new-style.*uint32.*jax.random.key"):
        threat.row_keys(jax.random.PRNGKey(0), 2)
    with pytest.raises(TypeError, match=r"`key`.*int"):
        threat.row_keys(0, 2)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"`key`.*\(2,\).*\(3,\)"):
        threat.row_keys(jax.random.split(jax.random.key(0), 3), 2)


def test_unknown_norm_names_the_nearest():
    x = jnp.zeros((1, 1, 1, 1))
    with pytest.raises(ValueError, match=r"'Linf'.*Did you mean 'linf'"):
        threat.project(x, x, eps=1, norm="Linf")  # pyright: ignore
    with pytest.raises(ValueError, match="Did you mean 'l2'"):
        threat.distance(x, x, norm="L2")  # pyright: ignore


def test_distance():
    x = jnp.zeros((2, 2, 1, 1))
    x_adv = rows([3.0, -4.0], [0.0, 0.0])
    for norm, expected in {"linf": 4, "l2": 5, "l1": 7}.items():
        chex.assert_trees_all_close(
            threat.distance(x_adv, x, norm=norm), np.asarray([expected, 0]), rtol=1e-7
        )


def call(name, **changes):
    x = jnp.full((2, 2, 2, 1), 0.5)
    radius = "step_size" if name == "steepest_step" else "eps"
    given: dict = {"norm": "linf", radius: changes.pop("radius", 0.1)} | changes
    if name == "sample":
        return threat.sample(x, key=jax.random.key(0), **given)
    return getattr(threat, name)(x, x, **given)


@pytest.mark.parametrize("name", ["project", "sample", "steepest_step"])
def test_concrete_radii_and_bounds_are_checked(name):
    radius = "step_size" if name == "steepest_step" else "eps"
    for bad in (-0.1, float("nan"), np.array([0.1, -1.0])):
        with pytest.raises(ValueError, match=f"`{radius}` must be at least 0"):
            call(name, radius=bad)
    for bad in (None, "8/255"):
        with pytest.raises(TypeError, match=f"`{radius}` must be a number.*{bad!r}"):
            call(name, radius=bad)
    for bad in (1, (1.0, 0.0), (0.5, 0.5), (0.0, 0.5, 1.0), (float("nan"), 1.0)):
        with pytest.raises(ValueError, match=r"`bounds` must be \(low, high\)"):
            call(name, bounds=bad)


@pytest.mark.parametrize("name", ["project", "sample", "steepest_step"])
def test_traced_radii_and_bounds_pass(name):
    run = jax.jit(lambda radius, high: call(name, radius=radius, bounds=(0.0, high)))
    chex.assert_trees_all_close(run(0.1, 1.0), call(name), rtol=0, atol=1e-6)
    chex.assert_shape(run(-0.1, 1.0), (2, 2, 2, 1))
    jax.vmap(lambda radius: call(name, radius=radius))(jnp.array([-1.0, 0.1]))


@pytest.mark.parametrize(("norm", "order"), [("linf", np.inf), ("l2", 2), ("l1", 1)])
def test_covering_radius_is_the_diagonal_of_the_box(norm, order):
    want = np.linalg.norm(np.full(12, 2.0), order)
    assert threat.covering_radius(norm, 12, (-1.0, 1.0)) == pytest.approx(want)
