"""NNX modules as Linen modules: variables, modes, random numbers, errors."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrobust import attacks, losses, models


class Net(nnx.Module):
    """Images [B, 4, 4, 1] to logits [B, 3]; all that an NNX module may hold."""

    def __init__(self, width=4, *, rngs):
        self.hidden = nnx.List([nnx.Linear(16, width, rngs=rngs)])
        self.norm = nnx.BatchNorm(width, momentum=0.5, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.out = nnx.Linear(width, 3, rngs=rngs)
        self.scale = nnx.data(jnp.full((1, 1), 2.0))
        self.calls = nnx.Variable(jnp.zeros(()))

    def __call__(self, x):
        self.calls[...] += 1
        h = self.norm(self.hidden[0](x.reshape(len(x), -1)))
        return self.out(self.dropout(h)) * self.scale


X = np.random.default_rng(0).uniform(size=(6, 4, 4, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def network():
    model = models.to_linen(Net, width=2)
    return model, jax.jit(model.init)(jax.random.key(1), X)


def finished(seed=7):
    return Net(rngs=nnx.Rngs(seed))


def test_variables_and_first_weights_are_those_of_the_module(network):
    _, variables = network
    shapes = jax.tree.map(jnp.shape, variables)
    assert shapes["params"]["hidden"] == {"0": {"bias": (2,), "kernel": (16, 2)}}
    assert shapes["batch_stats"] == {"norm": {"mean": (2,), "var": (2,)}}
    assert set(shapes) == {"params", "batch_stats", "arrays", "Variable"}
    other = network[0].init(jax.random.key(2), X)
    assert jax.tree.map(jnp.shape, other) == shapes
    kernels = [one["params"]["out"]["kernel"] for one in (variables, other)]
    assert not np.array_equal(*kernels)


def test_a_finished_network_keeps_its_weights_whatever_the_key():
    model = models.to_linen(finished)
    variables = jax.jit(model.init)(jax.random.key(0), X)
    net = finished()
    net.eval()
    np.testing.assert_allclose(model.apply(variables, X), net(X), rtol=1e-6)


def test_train_mode_moves_statistics_and_draws_from_the_key(network):
    model, variables = network
    state = [name for name in variables if name != "params"]

    @jax.jit
    def run(key):
        rngs = {"dropout": key}
        return model.apply(variables, X, train=True, mutable=state, rngs=rngs)

    keys = jax.random.split(jax.random.key(0))
    (a, moved), (again, _), (b, _) = run(keys[0]), run(keys[0]), run(keys[1])
    chex.assert_trees_all_equal(a, again)
    assert not np.array_equal(a, b)
    hidden = variables["params"]["hidden"]["0"]
    h = X.reshape(6, -1) @ hidden["kernel"] + hidden["bias"][None]
    want = 0.5 * h.mean(0)  # of a running mean of zeros
    np.testing.assert_allclose(moved["batch_stats"]["norm"]["mean"], want, atol=1e-6)
    assert moved["Variable"] == {"calls": 1}
    assert set(moved) == set(state)
    kept, _ = model.apply(variables, X, mutable=["batch_stats"])
    chex.assert_trees_all_equal(kept, model.apply(variables, X))


def test_attacks_and_equality(network):
    model, variables = network
    assert model == models.to_linen(Net, width=2)
    assert hash(model) == hash(models.to_linen(Net, width=2))
    assert model != models.to_linen(Net, width=3)
    logits_fn = models.logits_fn(model, variables)
    y = jnp.argmax(logits_fn(X), -1)
    x_adv = attacks.fgsm(logits_fn, X, y, eps=0.1)
    before, after = (losses.margin(logits_fn(x), y) for x in (X, x_adv))
    assert (after > before).all()


class TakesTrain(nnx.Module):
    def __call__(self, x, *, train):
        return x.reshape(len(x), -1) * (2 if train else 1)


def test_train_is_handed_on():
    model = models.to_linen(TakesTrain)
    variables = model.init(jax.random.key(0), X)
    for train, factor in ((True, 2), (False, 1)):
        got = model.apply(variables, X, train=train)
        np.testing.assert_array_equal(got, factor * X.reshape(6, -1))


def test_linen_stays_as_it_is():
    assert models.to_linen(nn.Dense, features=3) == nn.Dense(3)


class Static(nnx.Module):
    def __init__(self, rngs):
        self.table = jnp.ones(3)

    def __call__(self, x):
        return x


def test_what_is_refused(network):
    model, variables = network
    with pytest.raises(TypeError, match=r"return a Linen module or an NNX .* dict"):
        models.to_linen(dict)
    with pytest.raises(ValueError, match=r"Static is of a kind .* nnx\.Variable"):
        models.to_linen(Static)
    wide = models.to_linen(Net, width=4)
    with pytest.raises(ValueError, match=r"this Net: params/hidden/0/bias must be \(4"):
        wide.apply(variables, X)
    with pytest.raises(ValueError, match=r"calls must be \(\) and is not there"):
        model.apply({"batch_stats": variables["batch_stats"]}, X)
