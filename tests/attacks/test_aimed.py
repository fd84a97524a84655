"""PGD whose runs have losses of their own."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import attacks, losses
from tests.marks import full_but

X = jax.random.uniform(jax.random.key(0), (6, 5, 4, 1))
W = jax.random.normal(jax.random.key(1), (20, 5))
KEY = jax.random.key(2)
GIVEN = {"eps": 0.1, "step_size": 0.05, "steps": 6}


def net(x):
    return jnp.tanh(x.reshape(len(x), -1) @ W)


Y = jnp.argmax(net(X), axis=1)


def towards(target):
    """The last point of PGD on z_target - z_y, whatever its margin."""

    def loss(logits, y):
        rows = jnp.arange(len(y))
        return logits[rows, target] - logits[rows, y]

    return attacks.bim(net, X, Y, loss=loss, **GIVEN)


@pytest.mark.parametrize("order", full_but(["logits", "boundaries"], ["boundaries"]))
def test_targets_are_tried_in_order_and_the_best_is_kept(order):
    logits = np.asarray(net(X), np.float64)
    own = logits[np.arange(6), Y][:, None]
    grads = np.asarray(jax.vmap(jax.jacrev(lambda x: net(x[None])[0]))(X))
    grads = grads.reshape(6, 5, -1)
    slopes = np.abs(grads - grads[np.arange(6), Y][:, None]).sum(-1)
    way = own - logits if order == "logits" else (own - logits) / (slopes + 1e-12)
    way[np.arange(6), Y] = np.inf
    ranked = np.argsort(way, axis=1)
    points = jnp.stack([towards(jnp.asarray(ranked[:, k])) for k in range(2)])
    margins = jax.vmap(lambda x: losses.margin(net(x), Y))(points)
    best = jnp.argmax(margins, axis=0)
    x_adv = attacks.multi_targeted(
        net, X, Y, targets=2, order=order, random_start=False, **GIVEN
    )
    chex.assert_trees_all_close(x_adv, points[best, jnp.arange(6)], rtol=0, atol=1e-6)


def far_but_steep(x):
    """Class 11 is least likely, the only one in reach, and away from the others."""
    here = x.reshape(len(x), -1) - X.reshape(len(X), -1)
    logits = jnp.full((len(x), 12), -1000.0).at[:, 0].set(0)
    logits = logits.at[:, 1:11].add(0.01 * here @ W[:, :1])
    return logits.at[:, 11].set(-5000 - 60_000 * here @ jnp.sign(W[:, 0]) / 20)


@pytest.mark.parametrize(("order", "fooled"), [("logits", 0), ("boundaries", 6)])
def test_a_class_that_is_near_though_unlikely(order, fooled):
    """Of nine targets by logits it is none, and cross-entropy has no gradient."""
    zero = jnp.zeros(6, jnp.int32)
    x_adv = attacks.multi_targeted(
        far_but_steep, X, zero, targets=9, order=order, random_start=False, **GIVEN
    )
    assert (jnp.argmax(far_but_steep(x_adv), axis=1) != 0).sum() == fooled


@pytest.mark.full
def test_more_targets_than_classes_are_all_of_them():
    few = attacks.multi_targeted(net, X, Y, targets=4, key=KEY, **GIVEN)
    many = attacks.multi_targeted(net, X, Y, targets=99, key=KEY, **GIVEN)
    chex.assert_trees_all_equal(few, many)


@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
def test_a_mix_of_one_is_pgd(loss):
    given = {**GIVEN, "key": KEY, "norm": "l2"}
    mixed = attacks.mixed_pgd(net, X, Y, mix=loss, restarts=1, **given)
    plain = attacks.pgd(net, X, Y, loss=loss, **given)
    chex.assert_trees_all_close(mixed, plain, rtol=0, atol=1e-6)


def test_runs_differ_by_their_losses_and_the_best_is_kept():
    given = {**GIVEN, "random_start": False}
    parts = [attacks.mixed_pgd(net, X, Y, mix=m, restarts=1, **given)
             for m in ("ce", "dlr", "alternating")]  # fmt: skip
    margins = jnp.stack([losses.margin(net(x), Y) for x in parts])
    both = attacks.mixed_pgd(net, X, Y, mix="ce+dlr+alternating", **given)
    chex.assert_trees_all_close(losses.margin(net(both), Y), margins.max(0), rtol=1e-5)
    assert jnp.abs(parts[0] - parts[1]).max() > 1e-3
    assert jnp.abs(parts[2] - parts[0]).max() > 1e-3


def test_it_finds_what_the_cross_entropy_hides():
    """Logits so large that probabilities are 0 and 1 in float32: no gradient of CE."""

    def sure(x):
        return 1e4 * net(x)

    with pytest.warns(attacks.RobustnessWarning, match="zero"):
        plain = attacks.pgd(sure, X, Y, key=KEY, **GIVEN)
    found = attacks.mixed_pgd(sure, X, Y, key=KEY, **GIVEN)
    assert (losses.margin(net(found), Y) >= losses.margin(net(plain), Y)).all()
    assert (net(found).argmax(1) != Y).mean() > (net(plain).argmax(1) != Y).mean()


def test_two_classes_have_no_dlr():
    def two(x):
        return net(x)[:, :2]

    y = jnp.argmax(two(X), axis=1)
    found = attacks.mixed_pgd(two, X, y, key=KEY, mix="dlr", **GIVEN)
    assert (losses.margin(two(found), y) > losses.margin(two(X), y)).all()


def test_an_unknown_loss_is_named():
    with pytest.raises(ValueError, match=r"no loss 'cee'.*'ce'"):
        attacks.mixed_pgd(net, X, Y, key=KEY, mix="cee+dlr", **GIVEN)
