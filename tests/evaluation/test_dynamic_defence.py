"""A gradient inside a forward pass is seen in its program, and nothing else is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import evaluation, models
from jaxrobust.evaluation.dynamic_defence import turns_weights_round
from jaxrobust.evaluation.network import CompiledNetwork

NETWORKS = {
    "lenet5": {},
    "ssp_cifar": {"integrator": "ssp3", "blocks": 1, "width": 4, "stages": 2},
    "wide_resnet": {"depth": 10, "width": 1},
    "fpd_resnet": {"layers": (1, 1, 1, 1), "width": 2, "stem": "cifar"},
    "vit": {"blocks": 1, "width": 4, "heads": 2},
}
NETWORKS["fpd_resnet"]["spectral_bound"] = 0.5  # its kernel meets itself
X = np.zeros((2, 16, 16, 3), np.float32)


def made(name):
    model = models.create(name, **NETWORKS[name])
    shapes = jax.eval_shape(lambda key: model.init(key, X), jax.random.key(0))
    return model, jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)


def purified(fn):
    """Takes a step that makes the network surer of what it sees, then looks."""

    def logits_fn(x):
        steps = jax.grad(lambda x: jnp.max(fn(x), -1).sum())(x)
        return fn(x + 0.01 * steps)

    return logits_fn


def turns(fn, variables):
    jaxpr = jax.make_jaxpr(fn)(variables, X).jaxpr
    return turns_weights_round(jaxpr, len(jax.tree.leaves(variables)))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_inside_is_seen(name):
    model, variables = made(name)
    plain = lambda v, x: models.logits_fn(model, v)(x)  # noqa: E731
    assert not turns(plain, variables)
    assert turns(lambda v, x: purified(lambda x: plain(v, x))(x), variables)


def test_in_loops_and_branches():
    w = np.eye(4, dtype=np.float32)

    def steps(w, x):
        step = jax.grad(lambda x: jnp.sum(jnp.tanh(x @ w)))
        return jax.lax.fori_loop(0, 3, lambda i, x: x - step(x), x) @ w

    def rounds(w, x):
        many = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, jnp.stack([w] * 3))
        return jax.lax.cond(x.sum() > 0, lambda x: x @ w, lambda x: x * 2, many[0])

    for fn, inside in ((steps, True), (rounds, False)):
        jaxpr = jax.make_jaxpr(fn)(w, np.zeros((2, 4), np.float32)).jaxpr
        assert turns_weights_round(jaxpr, 1) is inside


def test_autoattack_says_so():
    w = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    x = np.random.default_rng(1).uniform(size=(6, 4, 4, 1)).astype(np.float32)
    fn = lambda x: jnp.tanh(x.reshape(len(x), -1) @ w)  # noqa: E731
    assert not CompiledNetwork(fn, x[0], 2).turns_weights_round
    options = {"key": jax.random.key(0), "eps": 0.01, "progress": False, "slots": 16}
    result = evaluation.autoattack(
        purified(fn), x, np.asarray(fn(x)).argmax(1), **options
    )
    assert "gradient_inside" in [flag["name"] for flag in result.flags]
