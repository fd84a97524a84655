"""ART both ways: networks of ours for it, its attacks and estimators here."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import attacks, bridges, losses

DRAW = np.random.default_rng(0)
W = jnp.asarray(DRAW.normal(size=(16, 3)), jnp.float32)
X = DRAW.uniform(0.3, 0.7, (6, 4, 4, 1)).astype(np.float32)


def logits_fn(x):
    return x.reshape(len(x), -1) @ W


Y = np.asarray(logits_fn(X).argmax(-1))


@pytest.fixture(scope="module")
def evasion():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("art.attacks.evasion")


@pytest.fixture
def network(evasion):
    return bridges.art.classifier(logits_fn, (4, 4, 1))


def test_predictions_losses_and_gradients(network):
    np.testing.assert_allclose(
        network.predict(X, batch_size=4), logits_fn(X), atol=1e-6
    )
    assert (network.nb_classes, network.input_shape) == (3, (4, 4, 1))
    one_hot = np.eye(3)[Y]
    want = losses.cross_entropy(logits_fn(X), Y)
    np.testing.assert_allclose(network.compute_loss(X, one_hot), want, atol=1e-6)
    assert network.compute_loss(X, Y, reduction="sum") == pytest.approx(want.sum())
    each = np.broadcast_to(W.T.reshape(1, 3, 4, 4, 1), (6, 3, 4, 4, 1))
    np.testing.assert_allclose(network.class_gradient(X), each, atol=1e-6)
    np.testing.assert_allclose(network.class_gradient(X, 1), each[:, 1:2], atol=1e-6)
    own = network.class_gradient(X, Y)
    np.testing.assert_allclose(own[:, 0], each[np.arange(6), Y], atol=1e-6)
    shift = jax.nn.softmax(logits_fn(X)) - one_hot
    want = np.einsum("bk,bkhwc->bhwc", shift, each)
    np.testing.assert_allclose(network.loss_gradient(X, one_hot), want, atol=1e-5)


def test_its_attack_finds_what_ours_finds(evasion):
    theirs = bridges.art.attack(evasion.FastGradientMethod)
    want = attacks.fgsm(logits_fn, X, Y, eps=0.1)
    np.testing.assert_allclose(theirs(logits_fn, X, Y, eps=0.1), want, atol=1e-6)


def test_random_numbers_come_from_the_key(evasion):
    theirs = bridges.art.attack(
        evasion.ProjectedGradientDescent, eps_step=0.05, max_iter=2, num_random_init=1
    )
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one, same, other = (
        theirs(logits_fn, X, Y, key=jax.random.key(n), eps=0.1) for n in (1, 1, 2)
    )
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    with pytest.raises(TypeError, match=r"has no max_iters; it has .*max_iter"):
        bridges.art.attack(evasion.ProjectedGradientDescent, max_iters=2)


def test_smallest_perturbation(evasion):
    theirs = bridges.art.attack(evasion.DeepFool, max_iter=10)
    x_adv = theirs(logits_fn, X, Y, eps=None)
    assert (logits_fn(x_adv).argmax(-1) != Y).all()


def test_an_estimator_is_a_black_box(network):
    black_box = bridges.art.black_box(network)
    np.testing.assert_allclose(black_box(jnp.asarray(X)), logits_fn(X), atol=1e-6)


def test_what_is_not_there(network):
    with pytest.raises(NotImplementedError, match="train with jaxrobust"):
        network.fit(X, Y)
    with pytest.raises(NotImplementedError, match="function to logits alone"):
        network.get_activations(X, 0, 1)
