"""HopSkipJump: the way to a hyperplane, its state machine, and its budget."""

import dataclasses
import functools
import importlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import attacks, threat
from jaxrobust.attacks._objective import Problem
from jaxrobust.attacks.hop_skip_jump import (
    Estimate,
    HopSkipJump,
    direction,
    draw,
    in_blocks,
    shrunk,
    voted,
)

SHAPE = (4, 4, 4, 2)
SIZE = 32
WEIGHTS = jax.random.normal(jax.random.key(5), (SIZE,))
KEY = jax.random.key(0)
DUAL = {"linf": 1, "l2": 2}
INIT, SEARCH, ESTIMATE, STEP = range(4)


def linear(x):
    """Two classes with a hyperplane through the middle of the box, hard decisions."""
    z = (x.reshape(x.shape[0], -1) - 0.5) @ WEIGHTS
    return jnp.stack([jnp.sign(-z), jnp.sign(z)], axis=1)


def images():
    x = jax.random.uniform(jax.random.key(1), SHAPE, minval=0.35, maxval=0.65)
    return x, jnp.argmax(linear(x), axis=1)


def nearest(x, norm):
    z = (x.reshape(4, -1) - 0.5) @ WEIGHTS
    return jnp.abs(z) / jnp.linalg.norm(WEIGHTS, DUAL[norm])


@functools.cache
def attacked(norm, queries):
    x, y = images()
    return attacks.hop_skip_jump(linear, x, y, key=KEY, eps=None, norm=norm,
                                 queries=queries)  # fmt: skip


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_comes_to_the_nearest_point_of_a_hyperplane(norm):
    x, y = images()
    worst = []
    for queries in (60, 4000):
        x_adv = attacked(norm, queries)
        assert (jnp.argmax(linear(x_adv), axis=1) != y).all()
        assert float(x_adv.min()) >= 0
        assert float(x_adv.max()) <= 1
        ratio = threat.distance(x_adv, x, norm=norm) / nearest(x, norm)
        assert (ratio > 1 - 1e-3).all()
        worst.append(float(ratio.max()))
    assert worst[0] > 1.5
    assert worst[1] < 1.1


def test_a_radius_keeps_what_lies_within():
    x, y = images()
    x_adv = attacked("l2", 60)
    length = threat.distance(x_adv, x, norm="l2")
    eps = float(jnp.median(length))
    within = attacks.hop_skip_jump(linear, x, y, key=KEY, eps=eps, norm="l2",
                                   queries=60)  # fmt: skip
    kept = (length <= eps)[:, None, None, None]
    assert 0 < kept.sum() < 4
    chex.assert_trees_all_equal(within, jnp.where(kept, x_adv, x))


def test_targets_from_given_images_and_rows_that_cannot_be_attacked():
    """Row 1 is of its target as it is, row 2 is NaN wherever it moves."""
    x, y = images()
    target = (1 - y).at[1].set(y[1])

    def three(z):
        """Noise is class 2, so only the given images are of the target."""
        near = jnp.abs(z - 0.5).max(axis=(1, 2, 3)) < 0.3
        logits = jnp.pad(linear(z), ((0, 0), (0, 1)))
        logits = logits.at[:, 2].set(jnp.where(near, -2, 2))
        moved = jnp.any(z != x, axis=(1, 2, 3))[:, None]
        return jnp.where((jnp.arange(4)[:, None] == 2) & moved, jnp.nan, logits)

    x_init = 1 - x  # mirrored at the middle of the box: the other side of the plane
    attack = functools.partial(attacks.hop_skip_jump, three, x, target, key=KEY,
                               eps=None, queries=100, targeted=True)  # fmt: skip
    x_adv = attack(x_init=x_init)
    chex.assert_trees_all_equal(x_adv[1:3], x[1:3])
    length = threat.distance(x_adv, x, norm="linf")
    for row in (0, 3):
        assert jnp.argmax(three(x_adv)[row]) == target[row]
        assert 0 < length[row] < float(threat.distance(x_init, x, norm="linf")[row])


@pytest.mark.parametrize(("queries", "draws"), [(1, 1), (100, 1), (25, 3), (3, 3)])
def test_never_more_model_calls_than_queries(queries, draws):
    x, y = images()
    calls, built = [], []

    def counted(z, keys):
        calls.append(z.shape)
        return linear(z)

    def keep(method, logits_fn, x, y, eps, key, **fields):
        """Takes the place of what runs the attack."""
        built.append((Problem(logits_fn, x, y, jnp.inf, 0.0, **fields), method))
        return x

    with pytest.MonkeyPatch.context() as patch:
        module = importlib.import_module("jaxrobust.attacks.hop_skip_jump")
        patch.setattr(module, "iterate", keep)
        attacks.hop_skip_jump(counted, x, y, key=KEY, eps=None, queries=queries,
                              stochastic=True, eot_samples=draws)  # fmt: skip
    ((problem, method),) = built
    assert problem.eot_samples == draws  # calls of every decision
    problem = dataclasses.replace(problem, eot_samples=1)
    keys = jax.random.split(KEY, 4)
    carry = jax.eval_shape(lambda: method.start(problem, keys, 0))
    assert calls == [SHAPE]
    jaxpr = jax.make_jaxpr(functools.partial(method.step, problem, keys))(0, carry)
    assert calls == [SHAPE] * 2
    assert not {"while", "scan"} & set(str(jaxpr).replace("[", " ").split())
    jax.eval_shape(functools.partial(method.finish, problem, keys), carry)
    assert calls == [SHAPE] * 2  # so `steps + 1` decisions are all
    assert (method.steps + 1) * draws == queries // draws * draws <= queries
    assert method.runs() == 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_rows_go_through_the_phases_at_their_own_pace(norm):
    """Each answer leads where algorithm 2 says, whatever the other rows do."""
    x, y = images()
    problem = Problem(linear, x, y, jnp.inf, 0.0, norm=norm)
    method, keys = HopSkipJump(150, samples=4), jax.random.split(KEY, 4)
    step = jax.jit(lambda i, carry: method.step(problem, keys, i, carry))
    carry = method.start(problem, keys, 0)
    allowed = {(INIT, INIT), (INIT, SEARCH), (SEARCH, SEARCH), (SEARCH, ESTIMATE),
               (ESTIMATE, ESTIMATE), (ESTIMATE, STEP), (STEP, STEP),
               (STEP, SEARCH)}  # fmt: skip
    seen, apart, asked = set(), False, []
    for i in range(150):
        after = step(i, carry)
        pairs = [
            (int(a), int(b)) for a, b in zip(carry.phase, after.phase, strict=True)
        ]
        seen |= set(pairs)
        apart |= len(set(pairs)) > 1
        started = np.asarray(after.phase) != INIT
        wrong = np.asarray(jnp.argmax(linear(after.point), axis=1) != y)
        assert wrong[started].all()
        for row, pair in enumerate(pairs):
            if pair == (SEARCH, ESTIMATE):
                gap = float(after.length[row] - after.low[row])
                assert gap <= float(after.precision[row])
            if pair == (ESTIMATE, STEP):
                taken = int(carry.asked[row]) + 1
                asked.append((int(carry.iteration[row]), taken))
        carry = after
    assert seen <= allowed
    assert seen >= {(SEARCH, ESTIMATE), (ESTIMATE, STEP), (STEP, SEARCH)}
    assert apart
    assert {t for t, _ in asked} >= {1, 2, 3}
    assert all(taken == int(4 * np.sqrt(t)) for t, taken in asked)


def test_direction_is_the_votes_taken_from_their_mean():
    with jax.enable_x64(True):
        draws = np.asarray(jax.random.normal(KEY, (6, 2, 3)))
        votes = np.array([[1, 1], [1, 1], [-1, 1], [1, 1], [-1, 1], [-1, 1]])
        sums = Estimate(jnp.zeros(2), *(jnp.zeros((2, 3), "float64") for _ in range(2)))
        for u, vote in zip(draws, votes, strict=True):
            sums = voted(sums, jnp.asarray(u), vote > 0, jnp.ones(2, bool))
        found = direction(sums, jnp.array([6, 6]), "l2")
        mean = votes.mean(0)
        expected = ((votes - mean)[..., None] * draws).sum(0)
        expected[1] = draws[:, 1].sum(0)  # all alike: their own mean
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        chex.assert_trees_all_close(found, expected, rtol=1e-7, atol=1e-12)
        signs = direction(sums, jnp.array([6, 6]), "linf")
        chex.assert_trees_all_equal(signs, np.sign(expected))


def test_noise_gets_coarser_with_every_try():
    draws = draw(jax.random.split(KEY, 5), jnp.zeros((5, 5, 7, 2)))
    assert float(jnp.abs(draws).max()) <= 1
    coarse = np.asarray(in_blocks(draws, jnp.array([0, 1, 2, 3, 4])))
    chex.assert_trees_all_equal(coarse[0], draws[0])
    chex.assert_trees_all_equal(coarse[4], draws[4])  # and again
    for row, side in ((1, 2), (2, 4), (3, 8)):
        for a in range(5):
            for b in range(7):
                corner = draws[row, a // side * side, b // side * side]
                chex.assert_trees_all_equal(coarse[row, a, b], corner)


def test_shrunk_points_have_the_length_asked_for():
    x, point = jax.random.uniform(KEY, (2, 3, 2, 2, 1))
    for norm in ("linf", "l2"):
        length = threat.distance(point, x, norm=norm)
        nearer = shrunk(point, x, length, length * 0.3, norm)
        found = threat.distance(nearer, x, norm=norm)
        chex.assert_trees_all_close(found, 0.3 * length, rtol=1e-5)
        assert ((nearer - x) * (point - x) >= 0).all()


def test_one_query_is_the_look_at_the_image():
    x, y = images()
    for queries in (1, 2):
        x_adv = attacks.hop_skip_jump(linear, x, y, key=KEY, eps=None, queries=queries)
        moved = jnp.any(x_adv != x, axis=(1, 2, 3))
        assert moved.any() == (queries == 2)
        assert (jnp.argmax(linear(x_adv), axis=1) != y)[moved].all()


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"key": None}, ValueError, "`key` is missing and HopSkipJump needs one"),
        ({"queries": 0}, ValueError, "`queries` must be at least 1, got 0"),
        ({"queries": 1.5}, TypeError, "`queries` must be a Python int"),
        ({"samples": 0}, ValueError, "`samples` must be at least 1, got 0"),
        ({"gamma": 0.0}, ValueError, "`gamma` must be finite and above 0, got 0.0"),
        ({"norm": "l1"}, ValueError, "must be 'linf' or 'l2', got 'l1'"),
        ({"norm": "max"}, ValueError, "Unknown norm 'max'. Did you mean"),
        ({"x_init": jnp.zeros((4, 4, 4, 1))}, ValueError, "`x_init` must be like `x`"),
        ({"eot_samples": 2}, ValueError, "needs stochastic=True"),
        ({"eps": -0.1}, ValueError, "`eps` must be at least 0"),
    ],
)
def test_wrong_arguments(wrong, error, message):
    with pytest.raises(error, match=message):
        attacks.hop_skip_jump(linear, *images(), **({"key": KEY, "eps": None} | wrong))
