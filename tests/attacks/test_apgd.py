"""APGD: schedule, closed forms, starts, few classes, draws, rows at other steps."""

import functools
import gc
import weakref

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxrobust import attacks, losses, threat
from jaxrobust.attacks import _method
from jaxrobust.attacks._apgd import Apgd
from jaxrobust.attacks._apgd_steps import _ranked, schedule
from jaxrobust.attacks._objective import Problem
from tests.marks import full_but

SHAPE = (6, 4, 4, 2)
EPS = {"linf": 0.1, "l2": 0.4, "l1": 1.5}
X = jax.random.uniform(jax.random.key(1), SHAPE)
W = jax.random.normal(jax.random.key(0), (32, 5))
KEY = jax.random.key(7)


def net(x, w=W):
    return jnp.tanh(x.reshape(x.shape[0], -1) - 0.5) @ w


Y = jnp.argmax(net(X), axis=1)


def apgd(**changes):
    arguments = {"logits_fn": net, "x": X, "y": Y, "key": KEY, "eps": 0.1, "steps": 3}
    return attacks.apgd(**(arguments | changes))


def fooled(x_adv, fn=net, y=Y):
    return np.asarray(jnp.argmax(fn(x_adv), axis=1) != y)


def test_checkpoints_of_the_paper():
    ticks = schedule(100, "linf", 0.75, large_radius=False)
    assert ticks.check.nonzero()[0].tolist() == [22, 41, 57, 70, 80, 87, 93, 99]
    # At most three quarters of the steps of the window.
    assert ticks.most[ticks.check].tolist() == [16, 14, 12, 9, 7, 5, 4, 4]
    assert ticks.first.nonzero()[0].tolist() == [0]
    assert not ticks.last.any()
    l1 = schedule(100, "l1", 0.75, large_radius=False)
    assert l1.check.nonzero()[0].tolist() == list(range(4, 100, 4))


@pytest.mark.parametrize(
    ("steps", "phases"),
    [
        (100, (30, 30, 40)),
        (20, (6, 6, 8)),
        (5, (2, 2, 1)),
        (1, (1, 0, 0)),
        (0, (0,) * 3),
    ],
)
def test_phases_of_large_radii(steps, phases):
    ticks = schedule(steps, "l1", 0.75, large_radius=True)
    assert len(ticks.first) == steps + 2
    for factor, count in zip((3, 2, 1), phases, strict=True):
        points = count + (factor > 1)  # the last point of all is left to the end
        assert (ticks.radius == factor).sum() == points
    starts = np.flatnonzero(ticks.last).tolist()
    assert starts == [phases[0], phases[0] + phases[1] + 1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_order_statistic(dtype):
    rng = np.random.default_rng(0)
    size = np.abs(rng.normal(size=(4, 37))) * 10.0 ** rng.integers(-30, 30, (4, 37))
    size[1] = 0
    size[2, 5:20] = size[2, 4]
    rank = np.array([0, 3, 17, 36])
    with jax.enable_x64(dtype == "float64"):
        found = _ranked(jnp.asarray(size, dtype), jnp.asarray(rank))
    expected = np.sort(size.astype(dtype), axis=1)[np.arange(4), rank]
    chex.assert_trees_all_equal(found, expected)


def linear(w):
    def logits_fn(x):
        score = jnp.sum(x * w[None], axis=(1, 2, 3))
        return jnp.stack([score, -score], axis=1)

    return logits_fn


@pytest.mark.parametrize("norm", threat.NORMS)
@pytest.mark.parametrize("loss", full_but(["ce", "dlr"], ["dlr"]))
def test_linear_model(norm, loss):
    """It fools a linear model exactly where the best point of the ball does."""
    w = jax.random.normal(jax.random.key(0), SHAPE[1:])
    x = jax.random.uniform(jax.random.key(1), (64, *SHAPE[1:]), minval=0.4, maxval=0.6)
    # Offsets on either side of what the ball can reach.
    score = jnp.sum(x * w[None], axis=(1, 2, 3))
    dual = {"linf": jnp.sum(jnp.abs(w)), "l2": jnp.sqrt(jnp.sum(w**2)),
            "l1": jnp.max(jnp.abs(w))}[norm]  # fmt: skip
    reach = EPS[norm] * dual
    away = reach * jnp.concatenate(
        [jnp.linspace(0.2, 0.95, 32), jnp.linspace(1.02, 2.0, 32)]
    )
    direction = (w / jnp.sqrt(jnp.sum(w**2)) ** 2)[None]
    x = x + direction * (away - score)[:, None, None, None]
    y = jnp.zeros(64, jnp.int32)
    low, high = float(x.min()) - 2, float(x.max()) + 2  # no wall in the way
    options = {"eps": EPS[norm], "norm": norm, "loss": loss, "bounds": (low, high)}
    steps = 100 if norm == "l1" else 30
    x_adv = attacks.apgd(linear(w), x, y, key=KEY, steps=steps, **options)
    success = fooled(x_adv, linear(w), y)
    chex.assert_trees_all_equal(success, np.arange(64) < 32)
    chex.assert_trees_all_equal(x_adv[32:], x[32:])


@pytest.mark.parametrize("norm", full_but(threat.NORMS, ["linf"]))
def test_best_loss(norm):
    """The point of the highest loss, also where it does not fool the model."""
    x_adv, trace = apgd(
        norm=norm, eps=EPS[norm] / 10, steps=8, best_loss=True, return_trace=True
    )
    chex.assert_trees_all_equal(x_adv, trace.x_best)
    loss = losses.cross_entropy(net(x_adv), Y)
    chex.assert_trees_all_close(loss, trace.losses.max(axis=0), rtol=1e-5)
    chex.assert_trees_all_close(loss, trace.loss_best, rtol=1e-5)
    assert (loss > losses.cross_entropy(net(X), Y)).all()
    assert not fooled(x_adv).all()
    chex.assert_trees_all_close(
        trace.losses, jax.vmap(lambda z: losses.cross_entropy(z, Y))(trace.logits),
        rtol=1e-5,
    )  # fmt: skip


def test_the_trace():
    _, trace = apgd(steps=10, eps=0.3, return_trace=True)
    chex.assert_shape(trace.logits, (11, 6, 5))
    sizes = np.asarray(trace.step_sizes)
    chex.assert_trees_all_close(sizes[0], 0.6, rtol=1e-6)  # twice the radius
    halvings = np.log2(sizes[:-1] / 0.6)
    chex.assert_trees_all_close(halvings, np.round(halvings), rtol=0, atol=1e-5)
    assert halvings.min() < 0
    wrong = (np.argmax(trace.logits, axis=2) != np.asarray(Y)[None]).any(0)
    chex.assert_trees_all_equal(trace.fooled, wrong)


def test_a_misclassified_image_comes_back():
    y = Y.at[2].set((Y[2] + 1) % 5)
    for attack in (attacks.apgd, attacks.apgd_targeted):
        x_adv = attack(net, X, y, key=KEY, eps=0.5, steps=3)
        chex.assert_trees_all_equal(x_adv[2], X[2])
        assert fooled(x_adv, y=y).all()


def test_restarts_keep_the_first_that_fools():
    eps, steps = 0.09, 1
    keys = threat.row_keys(KEY, 6)
    one = apgd(eps=eps, steps=steps, norm="l2")
    other = apgd(
        eps=eps,
        steps=steps,
        norm="l2",
        key=jax.vmap(jax.random.fold_in, (0, None))(keys, 1),
    )
    both = apgd(eps=eps, steps=steps, norm="l2", restarts=2)
    first = fooled(one)
    chex.assert_trees_all_close(both[first], one[first], rtol=0, atol=1e-6)
    chex.assert_trees_all_close(both[~first], other[~first], rtol=0, atol=1e-6)


def test_a_start_of_ones_own():
    far = X + 5.0  # moved into ball and box
    _, trace = apgd(x_init=far, steps=0, return_trace=True, key=None, eps=0.2)
    chex.assert_trees_all_close(
        trace.x_best, jnp.minimum(X + 0.2, 1), rtol=0, atol=1e-6
    )
    broken = far.at[0].set(jnp.nan)
    _, trace = apgd(x_init=broken, steps=0, return_trace=True, key=None, eps=0.2)
    chex.assert_trees_all_equal(trace.x_best[0], X[0])
    # Further restarts are random: they need a key.
    with pytest.raises(ValueError, match="`key` is missing"):
        apgd(x_init=far, key=None, restarts=2)
    assert fooled(apgd(x_init=far, restarts=2, eps=0.5)).all()


@pytest.mark.parametrize("classes", full_but([2, 3, 4], [2]))
def test_few_classes(classes):
    """Where a loss is undefined the margin stands in, and there are fewer targets."""

    def few(x):
        return net(x)[:, :classes]

    y = jnp.argmax(few(X), axis=1)
    options = {"key": KEY, "eps": 0.3, "steps": 4}
    assert fooled(attacks.apgd(few, X, y, loss="dlr", **options), few, y).all()
    assert fooled(attacks.apgd_targeted(few, X, y, **options), few, y).all()


def test_targets_are_tried_in_order_of_the_clean_logits():
    """Run r is the attack on the loss of rank r + 2; the first that fools counts."""
    ranked = jnp.argsort(-net(X), axis=1)
    options = {"eps": 0.04, "steps": 3}

    def alone(r):
        def loss(logits, y):
            return losses.dlr_targeted(logits, y, ranked[:, r + 1])

        keys = _method.restart_keys(threat.row_keys(KEY, 6), r)
        return apgd(loss=loss, key=keys, **options)

    runs = [alone(r) for r in range(3)]
    assert 0 < fooled(runs[0]).sum() < 6
    expected = X
    for x_adv in reversed(runs):
        expected = jnp.where(fooled(x_adv)[:, None, None, None], x_adv, expected)
    x_adv = attacks.apgd_targeted(net, X, Y, key=KEY, targets=3, **options)
    chex.assert_trees_all_close(x_adv, expected, rtol=0, atol=1e-6)


def test_targeted_descends_to_a_class():
    target = (Y + 2) % 5
    x_adv = apgd(y=target, targeted=True, eps=0.6, steps=8)
    chex.assert_trees_all_equal(jnp.argmax(net(x_adv), axis=1), target)


@pytest.mark.parametrize("steps", full_but([0, 1, 2, 12], [1, 12]))
def test_large_radius_ends_in_the_ball(steps):
    x_adv, trace = apgd(
        norm="l1", eps=1.5, steps=steps, large_radius=True, return_trace=True
    )
    assert float(threat.distance(trace.x_best, X, norm="l1").max()) <= 1.5 + 1e-6
    assert float(threat.distance(x_adv, X, norm="l1").max()) <= 1.5 + 1e-6
    chex.assert_shape(trace.losses, (steps + 3, 6))
    chex.assert_trees_all_close(
        losses.cross_entropy(net(trace.x_best), Y), trace.loss_best, rtol=1e-5
    )


def test_a_loss_of_the_images():
    """Ascended as it is; success is still a wrong class."""

    def bright(x, y):
        return jnp.sum(x, axis=(1, 2, 3))

    x_adv = apgd(loss=attacks.on_input(bright), eps=0.2, best_loss=True)
    chex.assert_trees_all_close(x_adv, jnp.minimum(X + 0.2, 1), rtol=0, atol=1e-6)
    x_adv = apgd(loss=attacks.on_input(bright), eps=0.2)
    moved = np.asarray(jnp.any(x_adv != X, axis=(1, 2, 3)))
    chex.assert_trees_all_equal(moved, fooled(x_adv))


def test_a_random_model():
    """Draws of its randomness are averaged, in gradients and in what counts."""

    def noisy(x, keys):
        noise = jax.vmap(lambda k: jax.random.normal(k, (5,)))(keys)
        return net(x) + 0.1 * noise

    options = {"logits_fn": noisy, "stochastic": True, "eot_samples": 4, "eps": 0.3}
    one, two = (apgd(**options) for _ in range(2))
    chex.assert_trees_all_equal(one, two)
    assert fooled(one).all()
    with pytest.raises(ValueError, match="`key` is missing and stochastic"):
        apgd(**options, x_init=X, key=None)


def test_nan_logits_are_no_success():
    def broken(x):
        return jnp.where(x.mean(axis=(1, 2, 3))[:, None] > 0.5, jnp.nan, net(x))

    x_adv = jax.jit(lambda x: apgd(logits_fn=broken, x=x, eps=0.5))(X)
    chex.assert_tree_all_finite(x_adv)
    logits = np.asarray(broken(x_adv))
    unmoved = np.asarray(jnp.all(x_adv == X, axis=(1, 2, 3)))
    assert (np.isfinite(logits).all(axis=1) | unmoved).all()


@pytest.mark.parametrize(("norm", "targets"), [("l2", 0), ("l1", 3)])
def test_rows_may_be_at_different_steps(norm, targets):
    """Steps and runs may be numbers per row, so that rows can come and go."""
    large = norm == "l1"
    method = Apgd(
        steps=8 if large else 6, random_start=True, targets=targets, large_radius=large
    )  # fmt: skip
    problem = Problem(net, X, Y, EPS[norm], EPS[norm], norm=norm, fall_back=True)
    keys = threat.row_keys(KEY, 6)
    run = jnp.array([0, 1, 2, 0, 1, 2]) if targets else jnp.zeros(6, jnp.int32)
    lag = jnp.array([0, 3, 1, 0, 2, 5])

    @functools.partial(jax.jit, static_argnums=0)
    def go(ticks, lag):
        row_keys = _method.restart_keys(keys, run)
        fresh = method.start(problem, row_keys, run)

        def body(t, carry):
            place = jnp.clip(t - lag, 0, method.steps - 1)
            moved = method.step(problem, row_keys, place, carry)
            on = (t >= lag) & (t - lag < method.steps)
            return jax.tree.map(
                lambda a, b: jnp.where(_method.like(on, a), a, b), moved, carry
            )

        return jax.lax.fori_loop(0, ticks, body, fresh)

    late = go(method.steps + 5, lag)
    together = go(method.steps, jnp.zeros_like(lag))
    chex.assert_trees_all_close(late, together, rtol=0, atol=1e-6)


@pytest.mark.parametrize("axes", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_sharded_inputs(axes, norm):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(axes,))
    x, y = jax.device_put((X, Y), NamedSharding(mesh, PartitionSpec("data")))
    options = {"norm": norm, "eps": EPS[norm]}
    x_adv = apgd(x=x, y=y, **options)
    assert len(x_adv.sharding.device_set) == 2
    chex.assert_trees_all_close(x_adv, apgd(**options), rtol=0, atol=1e-6)


def test_holds_no_model():
    w = jax.random.normal(jax.random.key(3), (32, 5))
    alive = weakref.ref(w)
    y = jnp.argmax(net(X, w), axis=1)
    attacks.apgd_targeted(lambda x: net(x, w), X, y, key=KEY, eps=0.1, steps=2)  # noqa: F821
    del w
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"rho": 1.5}, ValueError, r"`rho` must be in \[0, 1\], got 1\.5"),
        ({"rho": "a"}, TypeError, "`rho` must be a number, got 'a'"),
        ({"steps": 2.5}, TypeError, "`steps` must be a Python int, got 2.5"),
        ({"steps": -1}, ValueError, "`steps` must be at least 0, got -1"),
        ({"restarts": 0}, ValueError, "`restarts` must be at least 1, got 0"),
        ({"x_init": X[:2]}, ValueError, r"`x_init` must be like `x`.*\(2, 4, 4, 2\)"),
        ({"x_init": 1.0}, ValueError, "`x_init` must be like `x`.*got float"),
        ({"large_radius": True}, ValueError, "`large_radius` belongs to the L1"),
        ({"norm": "l3", "large_radius": True}, ValueError, "Unknown norm 'l3'"),
        ({"return_trace": True, "restarts": 2}, ValueError, "`restarts` must be 1"),
        ({"key": None}, ValueError, "`key` is missing and a random start"),
        ({"loss": "dlrr"}, ValueError, "Unknown loss 'dlrr'. Did you mean 'dlr'"),
        ({"eps": -1}, ValueError, "`eps` must be at least 0"),
        ({"x": X + 1}, ValueError, "`x` leaves `bounds`"),
    ],
)
def test_refuses(changes, error, message):
    with pytest.raises(error, match=message):
        apgd(**changes)


def test_targeted_refuses():
    with pytest.raises(ValueError, match="`targets` must be at least 1, got 0"):
        attacks.apgd_targeted(net, X, Y, key=KEY, eps=0.1, targets=0)
    with pytest.raises(TypeError, match="Attack apgd_targeted needs eps"):
        attacks.get("apgd_targeted", steps=3)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_ratios_over_classes_that_cannot_win(norm):
    """Two classes and two that are padding: the third largest is one of these."""
    w = jax.random.normal(jax.random.key(0), (12, 2))
    x = jax.random.uniform(jax.random.key(1), (8, 2, 3, 2), minval=0.4, maxval=0.6)

    def fn(z, value=-jnp.inf):
        logits = z.reshape(len(z), -1) @ w
        return jnp.pad(logits, ((0, 0), (0, 2)), constant_values=value)

    y = jnp.argmax(fn(x), axis=1)
    lead = np.abs(np.diff(np.asarray(fn(x)[:, :2]))[:, 0])
    dual = {"linf": 1, "l2": 2}[norm]
    nearest = lead / np.linalg.norm(np.diff(np.asarray(w))[:, 0], dual)
    eps = float(np.median(nearest))
    found = attacks.apgd(
        fn, x, y, key=jax.random.key(2), eps=eps, steps=20, norm=norm, loss="dlr",
        bounds=(-9.0, 9.0),
    )  # fmt: skip
    sure = np.abs(nearest - eps) > 0.02 * eps
    fooled = np.asarray(jnp.argmax(fn(found), axis=1) != y)
    chex.assert_trees_all_equal(fooled[sure], (nearest < eps)[sure])
