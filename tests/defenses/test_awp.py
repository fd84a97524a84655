"""Adversarial weight perturbation: a linear model in closed form, gamma 0, warm-up."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import defenses
from jaxrobust.defenses import base
from jaxrobust.defenses.awp import perturbation
from jaxrobust.training import check
from jaxrobust.training import config as common

X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
W = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
C = np.random.default_rng(2).normal(size=(6, 3)).astype(np.float32)
PARAMS = {"model": {"kernel": W, "bias": np.ones(3, np.float32)}, "extra": {"v": W}}
STEP = jnp.int32(5)


def defense(**fields):
    """Half the squared distance of x W + b + v's sum to C; counts its evaluations."""

    def loss(params, model_state, batch, key, step):
        w = params["model"]
        out = (
            batch["image"] @ w["kernel"] + w["bias"][None] + params["extra"]["v"].sum()
        )
        value = 0.5 * jnp.sum((out - C) ** 2) / len(C)
        return value, ({"passes": model_state["passes"] + 1}, {"out": out}, {"o": out})

    return base.Defense((base.Phase(loss, **fields),))


def evaluate(chosen, step=STEP):
    fn = jax.value_and_grad(chosen.phases[0].loss, has_aux=True)
    params = jax.tree.map(jnp.asarray, PARAMS)
    state = {"passes": jnp.int32(0)}
    return fn(params, state, {"image": jnp.asarray(X)}, jax.random.key(0), step)


def by_hand(w):
    """Loss and gradient of W in NumPy, biases and extra as they are."""
    residual = X @ w + 1 + W.sum() - C
    return 0.5 * (residual**2).sum() / len(C), X.T @ residual / len(C)


def test_linear_model_in_closed_form():
    """The loss is taken at W + gamma ||W|| g / ||g||, g = X'(XW + b - C) / n."""
    gamma = 0.1
    _, g = by_hand(W)
    delta = gamma * np.linalg.norm(W) * g / np.linalg.norm(g)
    expected, slope = by_hand(W + delta)
    (value, aux), grads = evaluate(defenses.awp(defense(), gamma))
    chex.assert_trees_all_close(value, expected, rtol=1e-5)
    chex.assert_trees_all_close(grads["model"]["kernel"], slope, rtol=1e-4, atol=1e-4)
    assert value > evaluate(defense())[0][0]
    # State, metrics and carry are those of one pass, at the moved weights.
    assert aux[0]["passes"] == 1
    chex.assert_trees_all_close(
        aux[1]["out"], X @ (W + delta) + 1 + W.sum(), rtol=1e-4, atol=1e-4
    )
    chex.assert_trees_all_equal(aux[2]["o"], aux[1]["out"])


def test_perturbation_is_relative_and_along_the_gradient():
    """Size and direction hold for each tensor; vectors and zero gradients stay."""
    rng = np.random.default_rng(3)
    weights = {
        "conv": rng.normal(size=(3, 3, 2, 4)),
        "dense": 100 * rng.normal(size=(5, 2)),
        "bias": rng.normal(size=7),
        "still": rng.normal(size=(2, 2)),
    }
    weights = jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), weights)
    ascent = jax.tree.map(lambda w: jnp.cos(w) * 1e-3, weights)
    ascent["still"] = jnp.zeros((2, 2))
    moved = perturbation(weights, ascent, 0.02)
    chex.assert_trees_all_equal_shapes_and_dtypes(moved, weights)
    for name in ("conv", "dense"):
        w, g, v = (np.ravel(tree[name]) for tree in (weights, ascent, moved))
        chex.assert_trees_all_close(
            np.linalg.norm(v), 0.02 * np.linalg.norm(w), rtol=1e-5
        )
        cosine = v @ g / np.linalg.norm(v) / np.linalg.norm(g)
        chex.assert_trees_all_close(cosine, 1, rtol=1e-5)
    for name in ("bias", "still"):
        chex.assert_trees_all_equal(moved[name], jnp.zeros_like(weights[name]))


def test_gamma_zero_is_the_plain_step():
    plain = defense()
    assert defenses.awp(plain, 0.0, 10) is plain


def test_warm_up_is_the_plain_step():
    """Before `warmup_steps` values and gradients are the plain ones to the bit."""
    wrapped = defenses.awp(defense(), 0.1, warmup_steps=6)
    chex.assert_trees_all_equal(evaluate(wrapped), evaluate(defense()))
    after = evaluate(wrapped, STEP + 1)[0][0]
    assert after > evaluate(defense(), STEP + 1)[0][0] + 0.1


def test_the_rest_of_a_phase_is_kept():
    chosen = defense(
        when=lambda step, metrics: step > 0, prepare=lambda *a: {}, mask=lambda *a: {}
    )
    wrapped = defenses.awp(chosen, 0.1)
    for field in ("when", "prepare", "mask"):
        assert getattr(wrapped.phases[0], field) is getattr(chosen.phases[0], field)
    assert wrapped.init is chosen.init


@pytest.mark.parametrize("gamma", [-0.1, float("nan"), float("inf")])
def test_gamma_out_of_range(gamma):
    with pytest.raises(ValueError, match="`awp_gamma` must be at least 0 and finite"):
        defenses.awp(defense(), gamma)
    with pytest.raises(ValueError, match="`awp_gamma` must be at least 0"):
        defenses.create("standard", nn.Dense(3), {"awp_gamma": gamma})


def test_create_wraps_any_objective():
    plain = defenses.create("standard", nn.Dense(3), {"awp_gamma": 0.0})
    wrapped = defenses.create(
        "standard", nn.Dense(3), {"awp_gamma": 0.01, "awp_warmup_steps": 3}
    )
    assert "awp" not in plain.phases[0].loss.__module__
    assert "awp" in wrapped.phases[0].loss.__module__


def test_a_plain_twin_is_not_perturbed():
    """`objective.awp_gamma` acts on the run's own objective alone."""
    config = common.base().to_dict()
    config["objective"] |= {"awp_gamma": 0.01, "awp_warmup_epochs": 2.0}
    own = check.make_defense(config, nn.Dense(3), steps_per_epoch=7)
    twin = check.make_defense(config, nn.Dense(3), "standard")
    assert "awp" in own.phases[0].loss.__module__
    assert "awp" not in twin.phases[0].loss.__module__
    config["objective"]["awp_gamma"] = -1.0
    with pytest.raises(ValueError, match="`awp_gamma` must be at least 0"):
        check.make_defense(config, nn.Dense(3))
