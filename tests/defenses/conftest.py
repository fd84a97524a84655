"""A small network with dropout, BatchNorm and named features, and its batch."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from jaxrobust import models


class Small(nn.Module):
    """Images [B, 8, 8, 1] to Outputs with a penultimate layer of 6."""

    @nn.compact
    def __call__(self, images, *, train=False):
        x = nn.Dense(6, name="hidden")(images.reshape(images.shape[0], -1))
        x = nn.relu(nn.BatchNorm(use_running_average=not train, name="norm")(x))
        return models.Outputs(nn.Dense(5, name="head")(x), {"penultimate": x}, None)


@pytest.fixture(scope="module")
def problem():
    """Returns model, params, model_state and a batch of 12."""
    model = Small()
    x = jax.random.uniform(jax.random.key(0), (12, 8, 8, 1))
    variables = model.init(jax.random.key(1), x, train=False)
    params = {"model": variables["params"], "extra": {}}
    model_state = {"batch_stats": variables["batch_stats"]}
    keys = jax.random.split(jax.random.key(2), 12)
    batch = {"image": x, "label": jnp.arange(12) % 5, "key": keys}
    return model, params, model_state, batch


@pytest.fixture(scope="module")
def evaluate(problem):
    """Runs a defence's only phase: (loss, metrics, gradients, prepared batch)."""
    _, params, model_state, batch = problem

    def run(defense, step=0):
        (phase,) = defense.phases

        @jax.jit
        def fn(step):
            key, full = jax.random.key(4), batch
            if phase.prepare is not None:
                made = phase.prepare(params, model_state, batch, key, step)
                full = {**batch, **made}
            (value, aux), grads = jax.value_and_grad(phase.loss, has_aux=True)(
                params, model_state, full, key, step
            )
            return value, aux[1], grads, full

        return fn(jnp.int32(step))

    return run
