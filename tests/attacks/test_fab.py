"""FAB: projections, the reference's points, closed forms, and what it refuses."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust import attacks, threat
from jaxrobust.attacks._fab_projections import displacement
from jaxrobust.attacks._objective import Problem
from jaxrobust.attacks.fab import FAB
from tests.marks import full_but

CASES = ("aa_fab_u_Linf", "aa_fab_t_Linf", "aa_fab_t_L2", "aa_fab_t_L1")
EPS = {"linf": 8 / 255, "l2": 0.5, "l1": 8.0}
ORDER = {"linf": np.inf, "l2": 2, "l1": 1}


def lengths(x_adv, x, norm):
    delta = np.asarray(x_adv, np.float64) - np.asarray(x, np.float64)
    return np.linalg.norm(delta.reshape(len(delta), -1), ORDER[norm], axis=1)


def project(t, w, b, norm, bounds=(0.0, 1.0)):
    t, w, b = (jnp.asarray(v, jnp.result_type(float)) for v in (t, w, b))
    residual = jnp.sum(w * t, axis=1) - b
    return np.asarray(displacement(t, w, residual, norm=norm, bounds=bounds))


@pytest.mark.parametrize("norm", threat.NORMS)
@pytest.mark.parametrize("wide", [True, False], ids=["float64", "float32"])
def test_golden_projections(golden, norm, wide):
    data = golden.load("aa_fab_projections")
    with jax.enable_x64(wide):
        d = project(data["t"], data["w"], data["b"], norm)
    expected = data[norm + "64"] if wide else data[norm]
    chex.assert_trees_all_close(d, expected, rtol=1e-7, atol=1e-14 if wide else 5e-6)


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        ("linf", [0.3571, -0.3571, 0.3571]),
        ("l2", [0.2381, -0.4762, 0.1190]),
        ("l1", [0, -0.625, 0]),
    ],
)
def test_projection_by_hand(norm, expected):
    d = project([[0.2, 0.7, 0.5]], [[1, -2, 0.5]], [0.3], norm)
    chex.assert_trees_all_close(d, np.array([expected]), rtol=0, atol=5e-5)


@pytest.mark.parametrize("norm", full_but(threat.NORMS, ("linf", "l1")))
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 999),
    scale=st.sampled_from([1e-30, 1.0, 1e30]),
    reach=st.floats(-1.5, 1.5),
)
def test_projection_is_on_the_plane_in_the_box_and_nearest(norm, seed, scale, reach):
    rng = np.random.default_rng(seed)
    low, high = -1.0, 3.0
    t = rng.uniform(low, high, (1, 7))
    t[0, 0] = low
    w = rng.normal(size=(1, 7)) * scale
    w[0, 1] = 0
    corner = np.where(w * np.sign(reach) > 0, high, low)
    b = np.sum(w * (t + abs(reach) * (corner - t)), axis=1)
    with jax.enable_x64(True):
        d = project(t, w, b, norm, (low, high))
    z = t + d
    assert z.min() >= low - 1e-12
    assert z.max() <= high + 1e-12
    assert d[0, 1] == 0
    if abs(reach) > 1:  # out of reach: the corner that comes nearest
        chex.assert_trees_all_close(z[w != 0], corner[w != 0], rtol=1e-7, atol=1e-9)
        return
    chex.assert_trees_all_close(np.sum(w * z, axis=1), b, rtol=1e-7, atol=1e-9 * scale)
    length = np.linalg.norm(d[0], ORDER[norm])
    for _ in range(20):  # no other point of plane and box is nearer
        other = rng.uniform(low, high, (1, 7))
        gap = np.sum(w * (other - z))
        other = other - gap * w / np.sum((w / scale) ** 2) / scale**2
        if other.min() >= low and other.max() <= high:
            assert np.linalg.norm((other - t)[0], ORDER[norm]) >= length - 1e-9


@pytest.mark.parametrize("case", full_but(CASES, ("aa_fab_t_Linf",)))
def test_golden_points(golden, case):
    """The nearest point of one run, and the flags of all targets."""
    data, norm = golden.load(case), case.rsplit("_", 1)[1].lower()
    rows, targeted = slice(2, 6), "_t_" in case
    with jax.enable_x64(True):
        x = jnp.asarray(golden.nhwc(data["x"]), float)[rows]
        y = jnp.asarray(data["y"])[rows]
        net, few = golden.net(data), {"steps": 20, "norm": norm}
        single = attacks.fab(
            net, x, y, eps=None, targets=1 if targeted else None, **few
        )
        every = single
        if targeted:
            every = attacks.fab(net, x, y, eps=EPS[norm], targets=3, **few)
        fooled = np.asarray(jnp.argmax(net(every), axis=1) != y)
    assert data["single/adv_stable64"].all()
    theirs = golden.nhwc(data["single/adv"])[rows]
    chex.assert_trees_all_close(single, theirs, rtol=1e-7, atol=6e-8)
    found = lengths(single, x, norm)
    chex.assert_trees_all_close(
        found, data["single/norm64"][rows], rtol=1e-7, atol=1e-12
    )
    found = lengths(every, x, norm)
    chex.assert_trees_all_equal(fooled & (found <= EPS[norm]), data["fooled"][rows])
    # The reference keeps the first target's point inside eps, this the nearest.
    if targeted:
        theirs = golden.nhwc(data["adv"])[rows]
        assert (found <= lengths(theirs, x, norm) + 1e-6).all()


@pytest.mark.parametrize("case", full_but(CASES, ("aa_fab_t_Linf", "aa_fab_t_L1")))
def test_golden_lengths_in_float32(golden, case):
    """Rounding decides single steps, but hardly how near the point found is."""
    data, norm = golden.load(case), case.rsplit("_", 1)[1].lower()
    x, y = jnp.asarray(golden.nhwc(data["x"])), jnp.asarray(data["y"])
    targets = None if "_u_" in case else 1
    x_adv = attacks.fab(
        golden.net(data), x, y, eps=None, steps=20, norm=norm, targets=targets
    )
    stable = data["single/adv_stable32"]
    found, expected = lengths(x_adv, x, norm)[stable], data["single/norm64"][stable]
    chex.assert_trees_all_close(found, expected, rtol=2e-2)
    assert np.isclose(found, expected, rtol=1e-4).mean() >= 0.85


def linear(w, bias=None):
    """Logits of a linear model `[d, K]`."""

    def logits_fn(x):
        logits = x.reshape(x.shape[0], -1) @ w
        return logits if bias is None else logits + bias[None]

    return logits_fn


@pytest.mark.parametrize("targets", full_but([None, 2], [None]))
@pytest.mark.parametrize("norm", threat.NORMS)
def test_linear_model_gives_the_smallest_perturbation(norm, targets):
    """|z_j - z_y| over the dual norm of the weights' difference, for the nearest j.

    The overshoot ends .55 % past the boundary: 1.05 and .9 give no nearer point.
    """
    w = np.random.default_rng(0).normal(size=(32, 3))
    x = np.random.default_rng(1).uniform(0.4, 0.6, (12, 4, 4, 2))
    z = x.reshape(12, -1) @ w
    y = z.argmax(axis=1)
    dual = {"linf": 1, "l2": 2, "l1": np.inf}[norm]
    away = np.linalg.norm(w[:, None] - w[:, :, None], dual, axis=0)[y]
    gaps = np.where(
        away > 0, (z[range(12), y][:, None] - z) / np.maximum(away, 1e-9), 9
    )
    nearest = gaps.min(axis=1)
    if norm == "l1":  # one coordinate has to do it, and it hits the wall
        x = 0.5 + 0.1 * (x - 0.5)
        bounds = (-50.0, 50.0)
    else:
        bounds = (0.0, 1.0)
    z = x.reshape(12, -1) @ w
    y = z.argmax(axis=1)
    away = np.linalg.norm(w[:, None] - w[:, :, None], dual, axis=0)[y]
    gaps = np.where(
        away > 0, (z[range(12), y][:, None] - z) / np.maximum(away, 1e-9), 9
    )
    nearest = gaps.min(axis=1)
    fn = linear(jnp.asarray(w, jnp.float32))
    args = fn, jnp.asarray(x, jnp.float32), jnp.asarray(y)
    x_adv = attacks.fab(
        *args, eps=None, steps=20, norm=norm, targets=targets, bounds=bounds
    )
    ratio = lengths(x_adv, x, norm) / nearest
    assert ratio.min() >= 1 - 1e-4
    assert ratio.max() <= 1.0056
    # eps as a number keeps those within, and the image of the others.
    eps = float(np.median(nearest) * 1.0056)
    kept = attacks.fab(*args, eps=eps, steps=20, norm=norm, targets=targets,
                       bounds=bounds)  # fmt: skip
    inside = lengths(x_adv, x, norm) <= eps
    chex.assert_trees_all_equal(
        kept, np.where(inside[:, None, None, None], x_adv, args[1])
    )
    assert 0 < inside.sum() < 12


@pytest.mark.parametrize("classes", full_but([2, 3, 20], [2]))
def test_any_number_of_classes(classes):
    """More targets than wrong classes are all of them; 20 go in turns untargeted."""
    w = jax.random.normal(jax.random.key(0), (12, classes))
    x = jax.random.uniform(jax.random.key(1), (4, 2, 3, 2))
    fn = linear(w)
    y = jnp.argmax(fn(x), axis=1)
    every, nearest = (
        attacks.fab(fn, x, y, eps=None, steps=8, norm="l2", targets=t)
        for t in (classes + 3, None)
    )
    assert (jnp.argmax(fn(every), axis=1) != y).all()
    a, b = lengths(every, x, "l2"), lengths(nearest, x, "l2")
    chex.assert_trees_all_close(a, b, rtol=0.1)
    names = FAB(8, targets=classes + 3).for_classes(classes)
    assert names.runs() == classes - 1


def test_misclassified_images_and_broken_rows_stay():
    w = jax.random.normal(jax.random.key(0), (12, 3))
    x = jax.random.uniform(jax.random.key(1), (4, 2, 3, 2))
    y = jnp.argmax(linear(w)(x), axis=1).at[1].add(1) % 3
    broken = jnp.arange(4)[:, None] == 2

    def fn(z):
        """Row 2 turns NaN once it moves."""
        moved = jnp.any(z != x, axis=(1, 2, 3))[:, None]
        return jnp.where(broken & moved, jnp.nan, linear(w)(z))

    for targets in (None, 2):
        with pytest.warns(attacks.RobustnessWarning, match="not finite for 1 of 4"):
            x_adv = attacks.fab(fn, x, y, eps=None, steps=6, targets=targets)
        chex.assert_trees_all_equal(x_adv[1:3], x[1:3])
        assert (jnp.argmax(linear(w)(x_adv), axis=1) != y)[np.array([0, 3])].all()


@pytest.mark.full
def test_restarts_start_elsewhere_and_need_a_key(golden):
    data = golden.load("aa_fab_t_L2")
    net = golden.net(data)
    x, y = jnp.asarray(golden.nhwc(data["x"]))[:4], jnp.asarray(data["y"])[:4]
    few = {"eps": None, "steps": 5, "norm": "l2", "targets": 2}
    one = attacks.fab(net, x, y, **few)
    three = attacks.fab(net, x, y, key=jax.random.key(0), restarts=3, **few)
    assert (lengths(one, x, "l2") >= lengths(three, x, "l2")).all()
    method = FAB(5, 3, targets=2)
    problem = Problem(net, x, y, 0.4, 0.0, norm="l2")
    keys = jax.random.split(jax.random.key(1), 4)
    begin = method.start(problem, keys, jnp.array([0, 1, 3, 5])).x
    far = lengths(begin, x, "l2")
    chex.assert_trees_all_equal(far > 0, np.array([False, True, False, True]))
    assert far.max() <= 0.2 + 1e-6
    with pytest.raises(ValueError, match=r"`key` is missing and `restarts` > 1"):
        attacks.fab(net, x, y, restarts=3, **few)


def test_rows_may_be_at_runs_and_steps_of_their_own(golden):
    """What a scheduler does: targets are items of a queue."""
    data = golden.load("aa_fab_t_L2")
    x, y = jnp.asarray(golden.nhwc(data["x"]))[:3], jnp.asarray(data["y"])[:3]
    problem = Problem(golden.net(data), x, y, jnp.inf, 0.0, norm="l2")
    method = FAB(2, targets=3)

    @jax.jit
    def results(r, i):
        carry = method.start(problem, None, r)
        return method.step(problem, None, i, carry).x

    mixed = results(jnp.array([2, 0, 1]), jnp.array([0, 1, 0]))
    for row, r in enumerate((2, 0, 1)):
        alone = results(jnp.full(3, r), jnp.zeros(3, int))
        chex.assert_trees_all_equal(mixed[row], alone[row])


def test_stochastic_model():
    w = jax.random.normal(jax.random.key(0), (12, 3))
    x = jax.random.uniform(jax.random.key(1), (4, 2, 3, 2))
    y = jnp.argmax(linear(w)(x), axis=1)

    def noisy(z, keys):
        return linear(w)(z) + 1e-3 * jax.vmap(lambda k: jax.random.normal(k, (3,)))(
            keys
        )

    x_adv = attacks.fab(noisy, x, y, key=jax.random.key(2), eps=None, steps=5,
                        stochastic=True, eot_samples=2)  # fmt: skip
    assert (jnp.argmax(linear(w)(x_adv), axis=1) != y).mean() >= 0.75


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"targets": 0}, ValueError, "`targets` must be at least 1, got 0"),
        ({"targets": 1.5}, TypeError, "`targets` must be a Python int"),
        ({"beta": -1.0}, ValueError, "`beta` must be above 0 and at most 1"),
        ({"steps": -1}, ValueError, "`steps` must be at least 0"),
        ({"eps": float("nan")}, ValueError, "`eps` must be at least 0 and not NaN"),
        ({"norm": "l3"}, ValueError, "Unknown norm 'l3'. Did you mean"),
    ],
)
def test_wrong_hyperparameters(wrong, error, message):
    x = jnp.zeros((1, 2, 2, 1))
    with pytest.raises(error, match=message):
        attacks.fab(
            linear(jnp.ones((4, 2))), x, jnp.array([0]), **({"eps": 1.0} | wrong)
        )


def test_by_name_without_a_radius():
    w = jax.random.normal(jax.random.key(0), (12, 3))
    x = jax.random.uniform(jax.random.key(1), (4, 2, 3, 2))
    y = jnp.argmax(linear(w)(x), axis=1)
    x_adv = attacks.get("fab", eps=None, steps=3)(linear(w), x, y, None)
    chex.assert_trees_all_equal(x_adv, attacks.fab(linear(w), x, y, eps=None, steps=3))
    with pytest.raises(TypeError, match="`eps` must be a number"):
        attacks.get("square", eps=None)
