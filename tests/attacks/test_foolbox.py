"""Foolbox takes our networks, and its PGD finds what ours finds."""

import warnings

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest

from jaxrobust import attacks, data, losses, models
from tests.marks import full_but

EPS, STEP_SHARE, STEPS = 0.1, 0.1, 20
IMAGES = 200


class Net(nn.Module):
    """Two dense layers: Foolbox runs a network operation by operation."""

    @nn.compact
    def __call__(self, x, *, train=False):
        return nn.Dense(10)(nn.tanh(nn.Dense(32)(x.reshape(len(x), -1))))


@pytest.fixture(scope="module")
def foolbox():
    with warnings.catch_warnings():  # it imports names that SciPy is to drop
        warnings.simplefilter("ignore", DeprecationWarning)
        return pytest.importorskip("foolbox")


def floats(dataset):
    images = jnp.asarray(dataset.images, jnp.float32) / 255
    return images, jnp.asarray(dataset.labels)


@pytest.fixture(scope="module")
def problem():
    """A network trained on digits, as a function, and images that it has not seen."""
    x, y = floats(data.load("digits", "train"))
    net, tx = Net(), optax.adam(1e-2)

    @jax.jit
    def train(variables):
        def step(carry, _):
            variables, state = carry
            grad = jax.grad(lambda v: losses.cross_entropy(net.apply(v, x), y).mean())
            updates, state = tx.update(grad(variables), state)
            return (optax.apply_updates(variables, updates), state), None

        start = (variables, tx.init(variables))
        return jax.lax.scan(step, start, length=100)[0][0]

    variables = train(net.init(jax.random.key(0), x[:1]))
    return models.logits_fn(net, variables), *floats(
        data.load("digits", "test").take(range(IMAGES))
    )


@pytest.mark.full
@pytest.mark.parametrize("random_start", full_but([False, True], [False]))
def test_pgd_agrees_with_foolbox(foolbox, problem, random_start):
    logits_fn, x, y = problem
    model = foolbox.JAXModel(logits_fn, bounds=(0, 1), data_format="channels_last")
    theirs = foolbox.attacks.LinfPGD(
        rel_stepsize=STEP_SHARE, steps=STEPS, random_start=random_start
    )
    _, x_theirs, fooled = theirs(model, x, y, epsilons=EPS)
    x_ours = attacks.pgd(
        logits_fn,
        x,
        y,
        key=jax.random.key(0),
        eps=EPS,
        step_size=STEP_SHARE * EPS,
        steps=STEPS,
        random_start=random_start,
    )
    chex.assert_trees_all_equal_shapes_and_dtypes(x_ours, x)
    chex.assert_tree_all_finite(x_ours)
    ours, clean = ((logits_fn(z).argmax(-1) == y).mean() for z in (x_ours, x))
    assert abs(ours - (1 - fooled.mean())) <= 0.02
    # A number that means something: the attack moves most images, not all.
    assert 0.1 < ours < clean - 0.3
    if not random_start:  # the same iteration, but for signs of rounded zeros
        same = jnp.abs(x_ours - x_theirs).max((1, 2, 3)) < 1e-5
        assert same.mean() > 0.75


def test_foolbox_judges_our_images(foolbox, problem):
    """Accuracy by Foolbox's model is accuracy by ours, before and after an attack."""
    logits_fn, x, y = problem
    model = foolbox.JAXModel(logits_fn, bounds=(0, 1), data_format="channels_last")
    x_adv = attacks.fgsm(logits_fn, x, y, eps=EPS)
    for images in (x, x_adv):
        want = float((logits_fn(images).argmax(-1) == y).mean())
        assert foolbox.accuracy(model, images, y) == pytest.approx(want)
