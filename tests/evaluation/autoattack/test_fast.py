"""`precision='fast'`: attacks in bfloat16, verdicts in float32."""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import evaluation, models, parallel, zoo

KEY = jax.random.key(0)


def program_of(logits_fn, x):
    return str(jax.make_jaxpr(logits_fn)(x))


@pytest.mark.parametrize("name", ["ssp_mnist", "lenet_sigmoid"])
def test_a_network_in_bfloat16_is_near_to_itself(name):
    fields = {"ssp_mnist": {"blocks": 1, "width": 4}}.get(name, {})
    model = models.create(name, **fields)
    x = jax.random.uniform(KEY, (3, 28, 28, 1))
    logits_fn = models.logits_fn(model, model.init(KEY, x))
    half = models.in_bfloat16(logits_fn)
    assert "bf16" in program_of(half, x)
    assert "bf16" not in program_of(logits_fn, x)
    exact, found = logits_fn(x), half(x)
    assert found.dtype == jnp.float32
    scale = float(jnp.abs(exact).max())
    chex.assert_trees_all_close(found, exact, atol=0.05 * scale)
    chex.assert_trees_all_equal(half.args, logits_fn.args)


def test_other_functions_stay_as_they_are():
    class Own(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            return nn.Dense(2)(x.reshape(len(x), -1))

    x = jnp.zeros((2, 2, 2, 1))
    of_own = models.logits_fn(Own(), Own().init(KEY, x))

    def function(x):
        return x.reshape(len(x), -1)[:, :2]

    for fn in (function, of_own, jax.tree_util.Partial(function)):
        assert models.in_bfloat16(fn) is fn


def test_every_success_is_one_in_float32():
    """Of a network that rounds coarsely: many images lie near its boundary."""

    class Linear(nn.Module):
        dtype: Any = None

        @nn.compact
        def __call__(self, x, *, train=False):
            return nn.Dense(2, dtype=self.dtype)(x.reshape(len(x), -1))

    model, x = Linear(), jax.random.uniform(KEY, (24, 4, 4, 1))
    logits_fn = models.logits_fn(model, model.init(KEY, x))
    logits = np.asarray(logits_fn(x))
    y, lead = logits.argmax(1), np.abs(logits[:, 0] - logits[:, 1])
    weights = logits_fn.args[0]["params"]["Dense_0"]["kernel"]
    reach = float(jnp.abs(weights[:, 0] - weights[:, 1]).sum())
    eps = float(np.median(lead)) / reach
    result = evaluation.autoattack(
        logits_fn, x, y, key=KEY, eps=eps, precision="fast", slots=8, progress=False,
        mesh=parallel.make_mesh(1),
        bounds=(-9.0, 9.0),
    )  # fmt: skip
    predicted = np.asarray(logits_fn(result.x_adv)).argmax(1)
    chex.assert_trees_all_equal(predicted == y, result.robust)
    # What is not near the boundary is as in closed form.
    sure = np.abs(lead / reach - eps) > 0.05 * eps
    chex.assert_trees_all_equal(result.robust[sure], lead[sure] / reach > eps)


@pytest.mark.full
def test_what_is_found_fools_the_network_in_float32():
    model, variables, card = zoo.load("digits_ssp_pgd")
    x, y = zoo.images(card, 48)
    logits_fn = models.logits_fn(model, variables)
    runs = {
        precision: evaluation.autoattack(
            logits_fn, x, y, key=KEY, eps=0.1, precision=precision, progress=False
        )
        for precision in ("highest", "fast")
    }
    fast, exact = runs["fast"], runs["highest"]
    assert abs(fast.robust.mean() - exact.robust.mean()) <= 1 / 48
    with jax.default_matmul_precision("highest"):
        predicted = np.asarray(logits_fn(fast.x_adv)).argmax(1)
    chex.assert_trees_all_equal(predicted == np.asarray(y), fast.robust)
    assert not np.array_equal(fast.x_adv, exact.x_adv)
