"""C&W in L2 and Linf: linear models in closed form, schedules, what they refuse."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import attacks, threat
from jaxrobust.attacks import _carlini
from jaxrobust.attacks._objective import Problem
from jaxrobust.attacks.cw_l2 import CarliniL2
from jaxrobust.attacks.cw_linf import CarliniLinf

NORM = {"cw_l2": "l2", "cw_linf": "linf"}
FEW = {
    "cw_l2": {"binary_steps": 6, "steps": 120, "initial_const": 0.01},
    "cw_linf": {"rounds": 6, "steps": 80, "lr": 0.004, "initial_const": 0.1},
}
DUAL = {"cw_l2": 2, "cw_linf": 1}
W = jax.random.normal(jax.random.key(0), (32, 2))
X = jax.random.uniform(jax.random.key(1), (8, 4, 4, 2), minval=0.3, maxval=0.7)

both = pytest.mark.parametrize("name", ["cw_l2", "cw_linf"])


def net(x, shift=0.0):
    return x.reshape(x.shape[0], -1) @ W + shift


Y = jnp.argmax(net(X), axis=1)


def attack(name, fn=net, x=X, y=Y, **options):
    return getattr(attacks, name)(fn, x, y, **(FEW[name] | options))


def lengths(x_adv, x, name):
    delta = np.asarray(x_adv, np.float64) - np.asarray(x, np.float64)
    order = {"cw_l2": 2, "cw_linf": np.inf}[name]
    return np.linalg.norm(delta.reshape(len(delta), -1), order, axis=1)


def to_the_boundary(name, margin=0.0):
    """(|z_0 - z_1| + margin) / |w_0 - w_1|_q."""
    gap = np.abs(np.diff(np.asarray(net(X), np.float64), axis=1))[:, 0]
    return (gap + margin) / np.linalg.norm(np.diff(np.asarray(W)), DUAL[name])


@both
@pytest.mark.parametrize("kappa", [0.0, 0.5])
def test_linear_model_gives_the_distance_to_the_boundary(name, kappa):
    x_adv = attack(name, kappa=kappa)
    ratio = lengths(x_adv, X, name) / to_the_boundary(name, kappa)
    assert ratio.min() >= 1 - 1e-4
    # tau goes down by a tenth at a time, and there it ends.
    assert ratio.max() <= {"cw_l2": 1.05, "cw_linf": 1.13}[name]
    z = net(x_adv)
    margin = jnp.take_along_axis(z, 1 - Y[:, None], 1) - jnp.take_along_axis(
        z, Y[:, None], 1
    )
    assert (margin >= kappa - 1e-6).all()


@both
@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e6, 1e12])
def test_the_scale_of_the_logits_does_not_count(name, scale):
    """As far as float32 goes: the constants follow the lead at each image."""
    x_adv = attack(name, lambda x: scale * net(x))
    assert (jnp.argmax(net(x_adv), 1) != Y).all()
    ratio = lengths(x_adv, X, name) / to_the_boundary(name)
    assert 1 - 1e-4 <= ratio.min() <= ratio.max() <= 1.13


@both
def test_only_differences_of_logits_count(name):
    """With all logits below 0, no masked 0 is taken for the largest of the others."""
    x_adv = attack(name, fn=lambda x: net(x, -40.0))
    chex.assert_trees_all_close(
        lengths(x_adv, X, name), lengths(attack(name), X, name), rtol=0.03
    )


@both
def test_targeted_with_eps(name):
    """Images of the target class stay, so do those beyond eps."""
    target = jnp.zeros_like(Y)
    eps = float(np.median(to_the_boundary(name)[np.asarray(Y) == 1]))
    x_adv = attack(name, y=target, targeted=True, eps=eps)
    found = lengths(x_adv, X, name)
    near = to_the_boundary(name)
    own = np.asarray(Y) == 0
    assert 0 < own.sum() < len(Y)
    assert (found[own] == 0).all()
    assert found.max() <= eps
    moved = found > 0
    assert (near[moved] <= eps).all()
    assert moved[~own & (near < eps / 1.15)].all()
    assert (jnp.argmax(net(x_adv), axis=1) == 0)[moved].all()


@both
def test_images_at_the_walls(name):
    """Arctanh of a value at the wall is not infinite, and the value can move."""
    x = jnp.round(X)
    w = _carlini.from_images(x * 5 - 2, (-2.0, 3.0))
    chex.assert_tree_all_finite(w)
    back, slope = _carlini.to_images(w, (-2.0, 3.0))
    chex.assert_trees_all_close(back, x * 5 - 2, rtol=0, atol=5e-6)
    assert (slope > 0).all()
    y = jnp.argmax(net(x), axis=1)
    options = {"lr": 0.2} if name == "cw_l2" else {"lr": 0.2, "steps": 80}
    x_adv = attack(name, x=x, y=y, **options)
    chex.assert_tree_all_finite(x_adv)
    assert float(x_adv.min()) >= 0
    assert float(x_adv.max()) <= 1
    assert (jnp.argmax(net(x_adv), axis=1) != y).all()


@both
def test_misclassified_images_and_broken_rows_stay(name):
    y = Y.at[1].set(1 - Y[1])
    broken = jnp.arange(8)[:, None] == 2

    def fn(z):
        """Row 2 turns NaN once it moves."""
        moved = jnp.any(jnp.abs(z - X) > 1e-5, axis=(1, 2, 3))[:, None]
        return jnp.where(broken & moved, jnp.nan, net(z))

    with pytest.warns(attacks.RobustnessWarning, match="not finite for 1 of 8 images"):
        x_adv = attack(name, fn=fn, y=y)
    chex.assert_trees_all_equal(x_adv[1:3], X[1:3])
    wrong = jnp.argmax(net(x_adv), axis=1) != y
    assert wrong[0]
    assert wrong[3:].all()


def test_no_further_than_the_reference(golden):
    """Torchattacks' CW has one constant for all images; so only lengths compare."""
    data = golden.load("ta_cw_strong")
    x, y = jnp.asarray(golden.nhwc(data["x"])), jnp.asarray(data["y"])
    net = golden.net(data)
    x_adv = attack("cw_l2", net, x, y, steps=60)
    assert data["fooled"].all()
    assert (jnp.argmax(net(x_adv), axis=1) != y).all()
    found = lengths(x_adv, x, "cw_l2")
    assert (found <= data["l2_64"]).all()
    assert found.sum() <= 0.85 * data["l2_64"].sum()


def carries(method, fn, steps, norm):
    """The carry after each step, compiled once."""
    problem = Problem(fn, X, Y, jnp.inf, 0.0, norm=norm, loss="margin")
    step = jax.jit(lambda i, carry: method.step(problem, None, i, carry))
    found = [method.start(problem, None, 0)]
    for i in range(steps):
        found.append(step(i, found[-1]))
    return found, step


def test_constants_are_bisected_per_row():
    """Rows whose constants must be unlike find their own, as alone."""
    scale = jnp.where(jnp.arange(8) % 2 == 0, 1.0, 50.0)[:, None]
    method = CarliniL2(8 * 30, descent=30, lr=0.05, initial_const=0.01)
    found, step = carries(method, lambda x: scale * net(x), 240, "l2")
    low, high, const = np.zeros(8), np.full(8, np.inf), np.full(8, 0.01)
    for k in range(1, 8):
        hit = np.asarray(found[30 * k].hit)
        high = np.where(hit, np.minimum(high, const), high)
        low = np.where(hit, low, np.maximum(low, const))
        const = np.where(np.isinf(high), const * 10, (low + high) / 2)
        chex.assert_trees_all_close(found[30 * k + 1].weight.c, const, rtol=1e-5)
    assert const[::2].mean() > 5 * const[1::2].mean()
    # A row that is at another step than the rest, as in a scheduler's slots.
    mixed = jax.tree.map(
        lambda a, b: jnp.concatenate([a[:3], b[3:]]), found[29], found[30]
    )
    after = step(jnp.array([29] * 3 + [30] * 5), mixed)
    chex.assert_trees_all_close(after.w[:3], found[30].w[:3], rtol=0, atol=1e-6)
    chex.assert_trees_all_close(after.w[3:], found[31].w[3:], rtol=0, atol=1e-6)
    chex.assert_trees_all_close(after.weight.c[3:], found[31].weight.c[3:], rtol=1e-7)


def test_rounds_end_per_row():
    """Tau is .9 of the distance of a success, c doubles after a failure."""
    method = CarliniLinf(40, descent=10, lr=0.02, initial_const=0.5, largest_const=1.5)
    flat = jnp.arange(8)[:, None] < 2
    found, _ = carries(method, lambda x: jnp.where(flat, net(X), net(x)), 40, "linf")
    for k, const in ((10, 0.5), (11, 1.0), (21, 1.5), (40, 1.5)):
        chex.assert_trees_all_close(found[k - 1].const[:2], const, rtol=1e-7)
    chex.assert_trees_all_close(found[40].tau[:2], 1, rtol=1e-7)
    ends = set()
    for before, after in itertools.pairwise(found):
        x = _carlini.to_images(before.w, (0.0, 1.0))[0]
        distance = threat.distance(x, X, norm="linf")
        shrunk = np.asarray(after.tau < before.tau)
        ends.add(tuple(shrunk))
        assert (distance <= before.tau)[shrunk].all()
        chex.assert_trees_all_close(
            after.tau[shrunk], 0.9 * distance[shrunk], rtol=1e-6
        )
        chex.assert_trees_all_equal(after.made[shrunk], 1)
        assert (after.nearest.distance <= before.nearest.distance).all()
    assert len(ends) > 3


@both
def test_default_numbers_move_values_at_the_walls(name):
    """As their authors run them: from 0 and 1, and whatever the logits' scale is."""
    x = jnp.round(X)
    y = jnp.argmax(net(x), axis=1)
    for scale in (1e-3, 1e3):
        x_adv = getattr(attacks, name)(lambda z, s=scale: s * net(z), x, y)
        assert (jnp.argmax(net(x_adv), axis=1) != y).all(), scale


def test_the_derivative_does_not_vanish_beyond_the_walls():
    """Adam may carry a value far beyond the wall; it must be able to come back."""
    _, slope = _carlini.to_images(jnp.linspace(-30.0, 30.0, 61), (0.0, 1.0))
    assert (slope > 0).all()


def test_a_batch_ends_with_its_last_image():
    """An image that is done stays; its result is that of the image alone."""
    options = {"rounds": 400, "steps": 20, "lr": 0.02, "initial_const": 5.0}
    together = attacks.cw_linf(net, X, Y, **options)
    for row in (0, 5):
        part = slice(row, row + 1)
        alone = attacks.cw_linf(net, X[part], Y[part], **options)
        chex.assert_trees_all_close(together[part], alone, rtol=0, atol=1e-5)


def test_it_stops_once_all_are_done():
    """In a loop of XLA's, and where the host makes the steps."""
    made = []

    def counted(x):
        jax.debug.callback(lambda: made.append(1))
        return net(x)

    options = {"steps": 20, "lr": 0.02, "initial_const": 15.0, "rounds": 100_000}
    found = attacks.cw_linf(counted, X, Y, **options)
    jax.effects_barrier()
    assert (jnp.argmax(net(found), axis=1) != Y).all()
    assert 20 < len(made) < 2000

    def convolved(x):
        flat = jax.lax.conv_general_dilated(
            x,
            W.T.reshape(2, 4, 4, 2).transpose(1, 2, 3, 0),
            (1, 1),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return flat.reshape(x.shape[0], 2)

    stepped = attacks.cw_linf(convolved, X, Y, **options)
    chex.assert_trees_all_close(stepped, found, rtol=0, atol=1e-3)


@both
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"norm": "l1"}, "has `norm` '.*' alone, got 'l1'; see cw_"),
        ({"norm": "l3"}, "Unknown norm 'l3'. Did you mean"),
        ({"lr": -0.1}, "`lr` must be at least 0"),
        ({"kappa": -1.0}, "`kappa` must be at least 0"),
        ({"initial_const": 0.0}, "`initial_const` must be finite and above 0, got 0"),
        ({"steps": -1}, "`steps` must be at least 0"),
        ({"eps": float("nan")}, "`eps` must be at least 0"),
    ],
)
def test_wrong_hyperparameters(name, wrong, message):
    with pytest.raises(ValueError, match=message):
        attack(name, **wrong)


def test_wrong_counts():
    with pytest.raises(ValueError, match="`binary_steps` must be at least 1, got 0"):
        attack("cw_l2", binary_steps=0)
    with pytest.raises(TypeError, match=r"`rounds` must be a Python int, got 2\.5"):
        attacks.get("cw_linf", rounds=2.5)


@both
def test_no_steps_is_the_image(name):
    chex.assert_trees_all_equal(attack(name, steps=0), X)


@both
def test_stochastic_model(name):
    def noisy(z, keys):
        return net(z) + 1e-3 * jax.vmap(lambda k: jax.random.normal(k, (2,)))(keys)

    options = {"stochastic": True, "eot_samples": 2, "key": jax.random.key(2)}
    x_adv = attack(name, fn=noisy, kappa=0.05, **options)
    assert (jnp.argmax(net(x_adv), axis=1) != Y).all()
    expected = to_the_boundary(name, 0.05)
    chex.assert_trees_all_close(lengths(x_adv, X, name), expected, rtol=0.15)
