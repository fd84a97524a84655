"""Certified training: losses by hand on a linear network, and what they lead to."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import certify, defenses, models


class Linear(nn.Module):
    @nn.compact
    def __call__(self, images, *, train=False):
        return nn.Dense(3)(images.reshape(len(images), -1))


class Small(nn.Module):
    @nn.compact
    def __call__(self, images, *, train=False):
        x = nn.relu(nn.Dense(16)(images.reshape(len(images), -1)))
        return nn.Dense(2)(x)


ATTACK = {"eps": 0.1, "norm": "linf", "steps": 3, "step_size": 0.1}


def phase_loss(name, model, params, batch, step, **options):
    made = defenses.create(name, model, {"attack": ATTACK, **options})
    params = {"model": params, "extra": {}}
    value, (_, metrics) = made.phases[0].loss(
        params, {}, batch, jax.random.key(0), jnp.int32(step)
    )
    return value, metrics


@pytest.mark.parametrize("name", ["ibp", "crown_ibp"])
def test_the_loss_of_a_linear_network_is_its_closed_form(name):
    """Halfway through the warm-up: half the radius, three quarters clean."""
    model = Linear()
    x = jax.random.uniform(jax.random.key(1), (4, 2, 2, 1), minval=0.3, maxval=0.7)
    params = model.init(jax.random.key(0), x)["params"]
    y = jnp.array([0, 1, 2, 0])
    value, _ = phase_loss(
        name, model, params, {"image": x, "label": y}, 1, attack_warmup_steps=4
    )
    logits = np.asarray(model.apply({"params": params}, x))
    weights = np.asarray(params["Dense_0"]["kernel"])
    worst = np.zeros((4, 3))
    for i, label in enumerate(y):
        for j in range(3):
            reach = 0.05 * np.abs(weights[:, j] - weights[:, label]).sum()
            worst[i, j] = logits[i, j] - logits[i, label] + reach
    entropy = optax.softmax_cross_entropy_with_integer_labels
    want = 0.75 * entropy(logits, y).mean() + 0.25 * entropy(worst, y).mean()
    np.testing.assert_allclose(value, want, rtol=1e-4)


@pytest.mark.parametrize("small_box", [0.1, 1.0])
def test_a_small_box_in_a_corner_reaches_as_far_as_the_ball(small_box):
    """Of two linear logits PGD finds the corner, and the box does the rest."""

    class Two(nn.Module):
        @nn.compact
        def __call__(self, images, *, train=False):
            return nn.Dense(2)(images.reshape(len(images), -1))

    model, keys = Two(), jax.random.split(jax.random.key(2), 4)
    x = jax.random.uniform(jax.random.key(1), (4, 2, 2, 1), minval=0.3, maxval=0.7)
    params = model.init(jax.random.key(0), x)["params"]
    batch = {"image": x, "label": jnp.array([0, 1, 1, 0]), "key": keys}
    want, _ = phase_loss("ibp", model, params, batch, 9, kappa=0.0)
    made = defenses.create("sabr", model, {"attack": ATTACK, "small_box": small_box})
    (phase,), held = made.phases, {"model": params, "extra": {}}
    given = {}, batch, jax.random.key(0), jnp.int32(9)
    found = phase.prepare(held, *given)
    reach = jnp.abs(found["attacked"] - x).max()
    chex.assert_trees_all_close(reach, 0.1 * (1 - small_box), atol=1e-6)
    value, _ = phase.loss(held, given[0], batch | found, *given[2:])
    chex.assert_trees_all_close(value, want, rtol=1e-4)


@pytest.mark.parametrize("name", ["ibp", "crown_ibp"])
def test_training_proves_more(name):
    model = Small()
    x = jax.random.uniform(jax.random.key(1), (64, 2, 2, 1))
    y = (x.mean((1, 2, 3)) > 0.5).astype(int)
    params = model.init(jax.random.key(0), x)["params"]
    batch, tx = {"image": x, "label": y}, optax.adam(0.02)

    def proved(params):
        fn = models.logits_fn(model, {"params": params})
        return (certify.margin(fn, x, y, eps=0.1, method="ibp") > 0).mean()

    @jax.jit
    def train(params):
        def step(i, carry):
            params, state = carry
            slopes = jax.grad(
                lambda p: phase_loss(
                    name, model, p, batch, i, attack_warmup_steps=40, kappa=0.2
                )[0]
            )(params)
            updates, state = tx.update(slopes, state)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, 80, step, (params, tx.init(params)))[0]

    before, after = proved(params), proved(train(params))
    assert after > before + 0.2


def test_mistakes_are_told():
    for wrong in (
        {"kappa": 2},
        {"attack": {**ATTACK, "norm": "l3"}},
        {"small_box": 0.0},
    ):
        with pytest.raises(ValueError, match=r"kappa|l3|small_box"):
            defenses.create("sabr", Linear(), {"attack": ATTACK, **wrong})
