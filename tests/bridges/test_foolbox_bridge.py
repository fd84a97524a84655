"""Foolbox both ways: networks of ours for it, its attacks like ours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import attacks, bridges

pytest.importorskip("foolbox")

DRAW = np.random.default_rng(0)
W = jnp.asarray(DRAW.normal(size=(16, 3)), jnp.float32)
X = jnp.asarray(DRAW.uniform(0.3, 0.7, (6, 4, 4, 1)), jnp.float32)


def logits_fn(x):
    return x.reshape(len(x), -1) @ W


Y = logits_fn(X).argmax(-1)


def test_its_attack_finds_what_ours_finds():
    theirs = bridges.foolbox.attack("LinfFastGradientAttack", random_start=False)
    want = attacks.fgsm(logits_fn, X, Y, eps=0.1)
    for network in (logits_fn, jax.tree_util.Partial(logits_fn)):
        got = theirs(network, X, Y, eps=0.1)
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_random_numbers_come_from_the_key():
    theirs = bridges.foolbox.attack("LinfPGD", steps=2)
    keys = jax.random.split(jax.random.key(1), 6)  # as the program has them
    one, same, other = (
        theirs(logits_fn, X, Y, key=key, eps=0.1)
        for key in (keys, keys, jax.random.key(2))
    )
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert jnp.abs(other - X).max() <= 0.1 + 1e-6


def test_smallest_perturbation_and_an_object():
    import foolbox

    theirs = bridges.foolbox.attack(foolbox.attacks.L2DeepFoolAttack(steps=10))
    x_adv = theirs(logits_fn, X, Y, eps=None)
    assert (logits_fn(x_adv).argmax(-1) != Y).all()


def test_a_network_of_ours_for_foolbox():
    import foolbox

    model = bridges.foolbox.model(logits_fn, bounds=(-1, 1))
    assert model.bounds == (-1, 1)
    assert foolbox.accuracy(model, X, Y) == 1


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"no attack 'LinfPDG'\. .*LinfPGD"):
        bridges.foolbox.attack("LinfPDG")
    theirs = bridges.foolbox.attack("LinfPGD")
    with pytest.raises(TypeError, match=r"runs on the host: .* outside of jax\.jit"):
        jax.jit(lambda x: theirs(logits_fn, x, Y, eps=0.1))(X)
    with pytest.raises(AttributeError, match="no attribute 'torch'"):
        bridges.torch  # noqa: B018
