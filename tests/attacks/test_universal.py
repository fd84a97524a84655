"""One perturbation, or patch, for many images."""

import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
import pytest

from jaxrobust import attacks, threat

KEY = jax.random.key(3)
X = 0.4 + 0.2 * jax.random.uniform(jax.random.key(1), (12, 4, 4, 1))
W = jax.random.normal(jax.random.key(0), (4, 4, 1))
Y = jnp.zeros(12, jnp.int32)


def line(x):
    """Class 1 where w . x is above its mean by .1 |w|_1: one direction fools all."""
    score = jnp.sum((x - 0.5) * W[None], axis=(1, 2, 3)) / jnp.abs(W).sum()
    return 20 * jnp.stack([jnp.full_like(score, 0.2), score], axis=1)


def size(v, norm):
    return float(threat.distance(v[None], jnp.zeros((1, *v.shape)), norm=norm)[0])


@pytest.mark.parametrize("norm", threat.NORMS)
def test_ascent_ends_in_the_best_point_of_the_ball(norm):
    """On a line the closed form: eps times the steepest direction of the norm."""
    eps = {"linf": 0.3, "l2": 1.2, "l1": 1.5}[norm]
    v = attacks.universal(
        line, X, Y, key=KEY, eps=eps, norm=norm, steps=60, batch=5, limit=math.inf
    )
    assert size(v, norm) <= eps * (1 + 1e-6)
    gain = float(jnp.sum(v * W))
    best = {
        "linf": eps * jnp.abs(W).sum(),
        "l2": eps * jnp.linalg.norm(W.ravel()),
        "l1": eps * jnp.abs(W).max(),
    }[norm]
    # In L1 the box of the perturbation cuts the vertex.
    assert gain >= 0.95 * best if norm != "l1" else gain > 0.5 * best
    if norm == "linf":
        assert (jnp.argmax(line(attacks.perturbed(X, v)), 1) == 1).all()


@pytest.mark.full
def test_it_is_the_same_under_jit_and_by_key():
    make = lambda x, eps: attacks.universal(  # noqa: E731
        line, x, Y, key=KEY, eps=eps, steps=6, batch=4
    )
    eager = make(X, 0.1)
    chex.assert_trees_all_close(jax.jit(make)(X, 0.1), eager, rtol=0, atol=1e-6)
    both = jax.vmap(make, (None, 0))(X, jnp.array([0.0, 0.1]))
    chex.assert_trees_all_close(both, jnp.stack([0 * eager, eager]), atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_deepfools_sum_fools_a_line_inside_its_ball(norm):
    eps = {"linf": 0.3, "l2": 1.2}[norm]
    v = attacks.uap(line, X, Y, key=KEY, eps=eps, norm=norm, passes=2)
    assert size(v, norm) <= eps * (1 + 1e-6)
    wrong = jnp.argmax(line(attacks.perturbed(X, v)), 1) == 1
    reach = eps * (jnp.abs(W).sum() if norm == "linf" else jnp.linalg.norm(W))
    need = jnp.max(
        0.2 * jnp.abs(W).sum() - jnp.sum((X - 0.5) * W[None], axis=(1, 2, 3))
    )
    assert float(need) < float(reach)  # the closed form: all can be fooled
    assert wrong.mean() > 0.9
    short = attacks.uap(line, X, Y, key=KEY, eps=0.01, norm=norm, passes=1)
    assert size(short, norm) <= 0.01 * (1 + 1e-6)


@pytest.mark.full
def test_a_patch_learns_what_is_wanted_wherever_it_lies():
    mean = lambda x: jnp.stack([x.mean((1, 2, 3)), jnp.full(len(x), 0.55)], 1)  # noqa: E731
    options = {"scale": (0.8, 1.2), "rotation": 20.0}
    white = attacks.universal_patch(
        mean, X, jnp.ones_like(Y), key=KEY, side=3, steps=40, batch=4, **options
    )
    chex.assert_shape(white, (3, 3, 1))
    assert white.min() > 0.5
    x_adv = attacks.patched(X, white, key=KEY, **options)
    assert (mean(x_adv)[:, 0] > mean(X)[:, 0]).all()
    moved = attacks.patched(X, white, key=KEY)
    assert ((moved != X).sum((1, 2, 3)) == 9).all()
    keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(12))
    chex.assert_trees_all_equal(
        moved[5:7], attacks.patched(X[5:7], white, key=keys[5:7])
    )


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"key": None}, ValueError, "`key` is missing and a universal attack"),
        (
            {"key": jax.random.split(KEY, 12)},
            ValueError,
            "`key` must be one key for all",
        ),
        ({"eps": -1.0}, ValueError, "`eps` must be at least 0"),
        ({"eps": jnp.ones(12)}, ValueError, "`eps` must be one number"),
        ({"norm": "l0"}, ValueError, "`norm` must be 'linf' or 'l2' or 'l1' here"),
        ({"y": Y + 2}, ValueError, "`y` holds labels from 2"),
        ({"x": X * 9}, ValueError, "`x` leaves `bounds`"),
        (
            {"loss": attacks.on_input(lambda x, y: y)},
            ValueError,
            "`loss` must be of log",
        ),
        ({"limit": -1.0}, ValueError, "`limit` must be at least 0"),
    ],
)
def test_what_cannot_be_is_refused_by_name(changes, error, message):
    given: dict[str, Any] = {
        "x": X,
        "y": Y,
        "key": KEY,
        "eps": 0.1,
        "steps": 1,
        "batch": 2,
    } | changes
    with pytest.raises(error, match=message):
        attacks.universal(line, given.pop("x"), given.pop("y"), **given)


def test_patches_refuse_what_cannot_be():
    cases: list[tuple[Any, str]] = [
        ({"scale": (2.0, 1.0)}, r"`scale` must be \(least, most\)"),
        ({"rotation": 400.0}, "`rotation` must be at most 180"),
    ]
    for changes, message in cases:
        with pytest.raises(ValueError, match=message):
            attacks.patched(X, jnp.ones((2, 2, 1)), key=KEY, **changes)


def scaled(factor):
    return lambda x: factor * line(x)


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_the_scale_of_logits_does_not_count(factor):
    given: dict[str, Any] = {"key": KEY, "eps": 0.3, "steps": 30, "batch": 6}
    usual = attacks.universal(line, X, Y, **given)
    other = attacks.universal(scaled(factor), X, Y, **given)
    chex.assert_trees_all_close(other, usual, atol=1e-6)


@pytest.mark.parametrize("attack", [attacks.universal, attacks.uap])
def test_what_stands_in_its_way_is_told(attack):
    few: dict[str, Any] = {"passes": 1} if attack is attacks.uap else {"steps": 4}
    few |= {"key": KEY, "eps": 0.1} | ({"batch": 4} if "steps" in few else {})
    with pytest.raises(ValueError, match=r"logits are not finite for \d+ of"):
        attack(lambda x: line(x) * jnp.nan, X, Y, **few)
    with pytest.warns(attacks.RobustnessWarning, match="there was no gradient"):
        attack(lambda x: jnp.round(line(x) / 50) + jnp.array([[2.0, 0]]), X, Y, **few)
    with pytest.warns(attacks.RobustnessWarning, match="returns probabilities"):
        attack(lambda x: jax.nn.softmax(line(x)), X, Y, **few)


def test_rows_that_are_no_images():
    rows = X.reshape(12, -1)
    flat = attacks.universal(
        lambda z: line(z.reshape(-1, 4, 4, 1)), rows, Y, key=KEY, eps=0.3, steps=20,
        batch=4,
    )  # fmt: skip
    wide = attacks.universal(line, X, Y, key=KEY, eps=0.3, steps=20, batch=4)
    chex.assert_trees_all_close(flat, wide.ravel(), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": (X * 255).astype(jnp.uint8)}, TypeError, "`x` must be floating"),
        ({"patch": jnp.zeros((2, 2))}, ValueError, "`patch` must have shape"),
        ({"patch": jnp.zeros((2, 2, 3))}, ValueError, r"`patch` must have shape"),
        ({"patch": jnp.zeros((5, 2, 1))}, ValueError, "`patch` must fit into"),
        ({"patch": jnp.full((2, 2, 1), 25.0)}, ValueError, "`patch` leaves"),
        ({"patch": jnp.full((2, 2, 1), jnp.nan)}, ValueError, "`patch` has values"),
        ({"scale": 1.2}, ValueError, "`scale` must be"),
    ],
)
def test_patches_that_cannot_be_pasted(change, error, message):
    given: dict[str, Any] = {"x": X, "patch": jnp.zeros((2, 2, 1)), **change}
    with pytest.raises(error, match=message):
        attacks.patched(given.pop("x"), given.pop("patch"), key=KEY, **given)


def test_perturbations_that_do_not_fit():
    for wrong in (jnp.zeros((1, 4, 4, 1)), jnp.full((4, 4, 1), jnp.nan)):
        with pytest.raises(ValueError, match="`perturbation`"):
            attacks.perturbed(X, wrong)
    chex.assert_trees_all_close(
        attacks.patched(X, jnp.zeros((2, 2, 1)), key=KEY, scale=[1.0, 1.0]),  # pyright: ignore[reportArgumentType]
        attacks.patched(X, jnp.zeros((2, 2, 1)), key=KEY),
    )
