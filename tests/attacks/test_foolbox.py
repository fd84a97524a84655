"""Foolbox takes our networks, and its PGD finds what ours finds."""

import warnings

import jax
import jax.numpy as jnp
import pytest

from examples import linen_model
from jaxrobust import attacks, data

EPS, STEP_SHARE, STEPS = 0.1, 0.1, 20
IMAGES = 200


@pytest.fixture(scope="module")
def foolbox():
    with warnings.catch_warnings():  # it imports names that SciPy is to drop
        warnings.simplefilter("ignore", DeprecationWarning)
        return pytest.importorskip("foolbox")


@pytest.fixture(scope="module")
def problem():
    """What `models.logits_fn` returns for a trained network, images and labels."""
    test = data.load("digits", "test").take(range(IMAGES))
    x = jnp.asarray(test.images, jnp.float32) / 255
    return linen_model.build(steps=60), x, jnp.asarray(test.labels)


@pytest.mark.parametrize("random_start", [False, True])
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
    ours, clean = ((logits_fn(z).argmax(-1) == y).mean() for z in (x_ours, x))
    assert abs(ours - (1 - fooled.mean())) <= 0.02
    # A number that means something: the attack moves most images, not all.
    assert 0.1 < ours < clean - 0.3
    if not random_start:  # the same deterministic iteration, up to ties of signs
        same = jnp.abs(x_ours - x_theirs).max((1, 2, 3)) < 1e-5
        assert same.mean() > 0.9


def test_foolbox_judges_our_images(foolbox, problem):
    """Accuracy by Foolbox's model is accuracy by ours, before and after an attack."""
    logits_fn, x, y = problem
    model = foolbox.JAXModel(logits_fn, bounds=(0, 1), data_format="channels_last")
    x_adv = attacks.fgsm(logits_fn, x, y, eps=EPS)
    for images in (x, x_adv):
        want = float((logits_fn(images).argmax(-1) == y).mean())
        assert foolbox.accuracy(model, images, y) == pytest.approx(want)
