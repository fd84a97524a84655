"""The Brendel & Bethge attack: its steps, straight boundaries, and Foolbox."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from jaxrobust import attacks, models, threat, zoo
from jaxrobust.attacks import _brendel_bethge_steps as steps
from tests.marks import full_but

NORMS = ("l2", "linf", "l1", "l0")
SIZE = 6
EXAMPLES = settings(max_examples=30, deadline=None, derandomize=True)
# In L0 the relaxed problem's best may change one value more than is needed.
GAP = 1


@functools.cache
def solver(norm):
    return jax.jit(lambda *parts: steps.step(steps.StepTask(*parts), norm))


def drawn(seed):
    """A step's problem: the ways to image, wall and wall, a plane, and a ball."""
    rng = np.random.default_rng(seed)
    x, clean = rng.random((2, SIZE))
    clean = np.where(rng.random(SIZE) < 0.3, x, clean)
    x = np.where(rng.random(SIZE) < 0.2, np.round(x), x)
    b = rng.normal(size=SIZE) * rng.choice([1, 0.1, 0], size=SIZE, p=[0.7, 0.2, 0.1])
    b = b / max(np.abs(b).max(), 1e-9)
    r = 10 ** rng.uniform(-2, 0.3)
    c = rng.normal() * 0.5 * r * np.linalg.norm(b)
    return clean - x, b, c, r, -x, 1 - x


def solved(norm, task):
    return np.asarray(solver(norm)(*(np.float32(part) for part in task)), np.float64)


def length(e, norm):
    return threat.distance(e[None], jnp.zeros((1, SIZE)), norm=norm)[0]


def shortest(b, c, low, high):
    """The shortest step of the box to a plane; None where there is none."""
    at = lambda level: np.clip(level * b, low, high)  # noqa: E731
    lacks = lambda level: b @ at(level) - c  # noqa: E731
    if lacks(-1e7) > 0 or lacks(1e7) < 0:
        return None
    return at(optimize.brentq(lacks, -1e7, 1e7, xtol=1e-13))


def by_slsqp(task, norm, starts):
    """The least distance that a general solver finds from these starts, or inf.

    In Linf and L1 over bounds of the values' distances as well.
    """
    e, b, c, r, low, high = task
    more = {"l2": 0, "linf": 1, "l1": SIZE}[norm]
    rules = [
        {"type": "eq", "fun": lambda v: b @ v[:SIZE] - c},
        {"type": "ineq", "fun": lambda v: r * r - v[:SIZE] @ v[:SIZE]},
    ]
    if more:
        rules += [
            {"type": "ineq", "fun": lambda v: v[SIZE:] - v[:SIZE] + e},
            {"type": "ineq", "fun": lambda v: v[SIZE:] + v[:SIZE] - e},
        ]
    walls = [*zip(low, high, strict=True), *[(0, 2)] * more]

    def far(v):
        return np.sum(v[SIZE:]) if more else np.sum((v - e) ** 2)

    best = np.inf
    for start in starts:
        v = np.concatenate([start, np.ones(more)])
        found = optimize.minimize(
            far, v, bounds=walls, constraints=rules, method="SLSQP"
        )
        d = found.x[:SIZE]
        if abs(b @ d - c) < 1e-5 and d @ d < r * r + 1e-5 and found.success:
            best = min(best, float(length(d - e, norm)))
    return best


def by_subsets(task):
    """The least number of values that are not the image's, of all choices of them."""
    e, b, c, r, low, high = task
    best = np.inf
    for kept in itertools.product([False, True], repeat=SIZE):
        kept = np.array(kept)
        d = shortest(b * ~kept, c - b[kept] @ e[kept], low, high)
        if d is not None and (d := np.where(kept, e, d)) @ d <= r * r:
            best = min(best, np.sum(d != e))
    return best


@pytest.mark.parametrize("norm", NORMS)
@EXAMPLES
@given(seed=st.integers(0, 10**6))
def test_no_step_is_nearer(norm, seed):
    """Where the plane can be reached the step ends in it, nearest to the image."""
    task = drawn(seed)
    e, b, c, r, low, high = task
    d = solved(norm, task)
    assert (d >= low - 1e-6).all()
    assert (d <= high + 1e-6).all()
    assert np.linalg.norm(d) <= r * (1 + 1e-4)
    least = shortest(b, c, low, high)
    if least is None or np.linalg.norm(least) > r:
        assert abs(c - b @ d) >= 0.999 * missed(task) - 1e-6
        assert abs(c - b @ d) <= 1.001 * missed(task) + 1e-6
        return
    assert abs(b @ d - c) < 1e-5
    if norm == "l0":
        assert np.sum(np.float32(d) != np.float32(e)) <= by_subsets(task) + GAP
        return
    best = by_slsqp(task, norm, [d, least])
    assert length(d - e, norm) <= best + 1e-3


def missed(task):
    """How far from the plane the best step of ball and box ends."""
    _, b, c, r, low, high = task
    at = lambda level: np.clip(level * b * np.sign(c), low, high)  # noqa: E731
    over = lambda level: np.linalg.norm(at(level)) - r  # noqa: E731
    far = 1e7 if over(1e7) < 0 else optimize.brentq(over, 0, 1e7, xtol=1e-13)
    return abs(c - b @ at(far))


SHAPE = (3, 4, 4, 2)
W = jax.random.normal(jax.random.key(1), SHAPE[1:])
LEAD = jnp.array([0.3, 0.6, 1.0])


def linear(x):
    """Class 0 by `LEAD` where all is .5."""
    score = jnp.sum(W[None] * (x - 0.5), axis=(1, 2, 3)) + LEAD
    return 3 * jnp.stack([score, jnp.zeros(3)], axis=1)


@pytest.mark.parametrize(("norm", "dual"), [("l2", 2), ("linf", 1), ("l1", np.inf)])
def test_straight_boundaries(norm, dual):
    x, y = jnp.full(SHAPE, 0.5), jnp.zeros(3, jnp.int32)
    x_adv = attacks.brendel_bethge(
        linear, x, y, norm=norm, steps=100, key=jax.random.key(0)
    )
    best = LEAD / jnp.linalg.norm(W.ravel(), dual)
    share = threat.distance(x_adv, x, norm=norm) / best
    # In L1 a value moves .5 at most.
    assert float(share.max()) <= (1.1 if norm == "l1" else 1.02)
    assert float(share.min()) >= 1 - 1e-4
    assert (jnp.argmax(linear(x_adv), axis=1) == 1).all()


def test_starts_at_the_image_where_no_noise_is_misclassified():
    """A chessboard's weights: noise and blocks of it have a sum near the image's."""
    x, y = jnp.full((3, 20, 20, 1), 0.5), jnp.zeros(3, jnp.int32)
    board = jnp.where(jnp.indices((20, 20)).sum(0) % 2 == 0, 1.0, -1.0)

    def net(z):
        score = jnp.sum(z[..., 0] * board[None], axis=(1, 2))
        return jnp.stack([score, jnp.full(3, -40.0)], axis=1)

    x_adv = attacks.brendel_bethge(
        net, x, y, norm="l2", steps=60, lr=1e-3, key=jax.random.key(0)
    )
    told = threat.distance(x_adv, x, norm="l2")
    chex.assert_trees_all_close(told, jnp.full(3, 2.0), rtol=0.01)


@pytest.mark.parametrize("norm", full_but(NORMS, NORMS[:2]))
def test_foolbox(golden, norm):
    """At the same starts and as many steps, no farther than 1.03 times its median."""
    data = golden.load("brendel_bethge")
    model, variables, _ = zoo.load("digits_lenet5_pgd")
    logits_fn = models.logits_fn(model, variables)
    x, y = jnp.asarray(data["x"]), data["y"]
    x_adv = attacks.brendel_bethge(
        logits_fn,
        x,
        y,
        norm=norm,
        steps=100,
        lr=1e-2,
        x_init=jnp.asarray(data["start"]),
        key=jax.random.key(0),
    )
    assert (jnp.argmax(logits_fn(x_adv), axis=1) != y).all()
    told = threat.distance(x_adv, x, norm=norm)
    assert np.median(told) <= 1.03 * np.median(data[norm])
