"""Networks with masked gradients are flagged, each for its own reason; sound ones not.

One small network, trained adversarially, and the ways to hide its gradients.
"""

import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

from jaxrobust import attacks, losses, models
from jaxrobust.evaluation import diagnose
from jaxrobust.results import as_json
from tests.marks import full_but

EPS = {"linf": 0.15, "l2": 0.6}
N = 60
OPTIMIZER = optax.adam(3e-3)


def apply(params, x):
    for i, (w, b) in enumerate(params):
        x = x.reshape(len(x), -1) if i == 0 else jax.nn.relu(x)
        x = x @ w + b[None]
    return x


@pytest.fixture(scope="module")
def digits():
    """All digits on 8-bit levels, shuffled; the first are for the tests."""
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    images = np.round(found.images[order] / 16 * 255) / 255
    labels = found.target[order]
    return jnp.asarray(images[..., None], jnp.float32), jnp.asarray(labels, jnp.int32)


@pytest.fixture(scope="module")
def params(digits):
    """Weights after 300 steps of adversarial training."""
    x, y = digits
    keys = jax.random.split(jax.random.key(0), 3)
    sizes = ((64, 96), (96, 96), (96, 10))
    he = jax.nn.initializers.he_normal()
    first = [(he(k, s), jnp.zeros(s[1])) for k, s in zip(keys, sizes, strict=True)]

    def step(i, state):
        params, moments = state
        key = jax.random.fold_in(jax.random.key(1), i)
        rows = jax.random.randint(key, (100,), N, len(x))
        eps, model = EPS["linf"], jax.tree_util.Partial(apply, params)
        x_adv = attacks.pgd(
            model, x[rows], y[rows], key=key, eps=eps, step_size=eps / 3, steps=5
        )
        grads = jax.grad(
            lambda p: losses.cross_entropy(apply(p, x_adv), y[rows]).mean()
        )(params)
        updates, moments = OPTIMIZER.update(grads, moments)
        return optax.apply_updates(params, updates), moments

    @jax.jit
    def train(params):
        return jax.lax.fori_loop(0, 300, step, (params, OPTIMIZER.init(params)))[0]

    return train(first)


@pytest.fixture
def sound(params):
    return jax.tree_util.Partial(apply, params)


@pytest.fixture
def look(digits):
    """Diagnoses any function on the first images."""
    x, y = digits

    def run(logits_fn, **fields):
        norm = fields.get("norm", "linf")
        usual = {"key": jax.random.key(0), "eps": EPS[norm], "steps": 10, "queries": 60}
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # attacks warn; diagnose tells
            numbers, found = diagnose(logits_fn, x[:N], y[:N], **usual | fields)
        return as_json(numbers), found

    return run


def names(found):
    return {flag["name"] for flag in found}


@pytest.mark.parametrize("norm", full_but(["linf", "l2"], ["linf"]))
def test_a_sound_network_raises_no_flag(norm, sound, look):
    numbers, found = look(sound, norm=norm)
    assert found == []
    left = numbers["accuracy"]
    assert left["clean"] > 0.9
    assert left["covering"] == 0
    assert 0.02 < left["more_steps"] <= left["iterative"] < left["square"]
    assert left["more_restarts"] <= left["iterative"] <= left["clean"]
    assert numbers["gradients"]["loss_rises_share"] > 0.95
    assert numbers["gradients"]["zero_gradient_share"] == 0
    assert numbers["calls"]["same_batch"] == 0
    assert numbers["n"] == N


def straight_through(x):
    return x + jax.lax.stop_gradient(jnp.round(255 * x) / 255 - x)


MASKED = {
    "8-bit input": (
        lambda f: lambda x: f(jnp.round(255 * x) / 255),
        {"zero_gradients", "black_box_beats_white_box", "above_chance_at_largest_eps"},
    ),
    "8-bit input, gradient passed through": (
        lambda f: lambda x: f(straight_through(x)),
        {"gradients_mislead", "wrong_gradients"},
    ),
    "saturated tanh": (
        lambda f: lambda x: jnp.tanh(1000 * f(x)),
        {"bounded_logits", "zero_gradients", "above_chance_at_largest_eps"},
    ),
    "tanh": (lambda f: lambda x: jnp.tanh(f(x)), {"bounded_logits"}),
    "large logits": (
        lambda f: lambda x: 1000 * f(x),
        {"saturated_logits", "scale_hides_gradients"},
    ),
    "probabilities": (
        lambda f: lambda x: jax.nn.softmax(f(x)),
        {"probabilities_as_logits"},
    ),
}


@pytest.mark.parametrize("mask", MASKED)
def test_a_masked_network_is_flagged(mask, sound, look):
    wrap, expected = MASKED[mask]
    _, found = look(wrap(sound))
    assert expected <= names(found)
    assert all(flag["message"].endswith(".") for flag in found)


def test_gradients_that_are_not_finite_are_flagged(sound, look):
    def broken(x):  # as the derivative of a root at 0 is
        bright = x.sum((1, 2, 3)) > 20
        return sound(x) + jnp.sqrt(jnp.where(bright, 0 * x[:, 0, 0, 0], 1.0))[:, None]

    numbers, found = look(broken, queries=0)
    assert "non_finite_gradients" in names(found)
    assert 0 < numbers["gradients"]["non_finite_gradient_share"] < 1


@pytest.mark.parametrize("when", ["traced", "run"])
def test_outputs_that_change_are_flagged(when, sound, look):
    rng = np.random.default_rng(0)

    def noise(x):
        return rng.normal(size=(len(x), 10)).astype(np.float32)

    def random(x):
        if when == "traced":  # a fresh draw wherever Python runs
            return sound(x) + noise(x)
        shape = jax.ShapeDtypeStruct((len(x), 10), jnp.float32)
        return sound(x) + jax.pure_callback(lambda: noise(x), shape)

    numbers, found = look(random, queries=0)
    assert "outputs_change" in names(found)
    assert "batch_dependent_outputs" not in names(found)
    assert (numbers["calls"]["same_batch"] > 0) == (when == "run")


class Normed(nn.Module):
    """A linear network with BatchNorm."""

    @nn.compact
    def __call__(self, images, *, train=False):
        x = nn.Dense(10)(images.reshape(len(images), -1))
        return nn.BatchNorm(use_running_average=not train)(x)


@pytest.mark.parametrize("train", [False, True])
def test_batch_norm_in_train_mode_is_flagged(train, digits, look):
    model = Normed()
    variables = model.init(jax.random.key(0), digits[0][:2])
    logits_fn = models.logits_fn(model, variables, train=train)
    _, found = look(logits_fn, queries=0)
    assert ("batch_dependent_outputs" in names(found)) == train
    assert "outputs_change" not in names(found)


@pytest.mark.full
def test_batch_size_changes_nothing_and_progress_is_told(sound, look):
    told = []
    one, _ = look(sound)
    two, _ = look(sound, batch_size=25, on_pass=lambda *now: told.append(now))
    assert one["accuracy"] == two["accuracy"]
    explained = two["gradients"]["explained_at"]
    assert one["gradients"]["explained_at"] == pytest.approx(explained, abs=1e-4)
    assert told == [(i + 1, len(told)) for i in range(len(told))]
    assert len(told) == 1 + (6 + 1) * 10


def test_what_cannot_be_diagnosed_is_refused(sound, look, digits):
    x, y = digits[0][:4], digits[1][:4]
    with pytest.raises(ValueError, match="logits are not finite for 60 of 60"):
        look(lambda x: sound(x) * jnp.nan, queries=0)
    with pytest.raises(ValueError, match="`steps` must be at least 1, got 0"):
        look(sound, steps=0)
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
        look(sound, batch_size=0)
    usual = {"key": jax.random.key(0), "eps": 0.1, "queries": 0}
    with pytest.raises(ValueError, match=r"`x` leaves `bounds`.*-1 to 1"):
        diagnose(sound, 2 * x - 1, y, **usual)
    with pytest.raises(ValueError, match=r"labels from 1[0-9] to"):
        diagnose(sound, x, y + 10, **usual)
    with pytest.raises(ValueError, match="`eps` must be"):
        diagnose(sound, x, y, **usual | {"eps": -0.1})
