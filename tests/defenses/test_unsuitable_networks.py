"""Objectives that need more than logits say so from shapes, before any compute."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from jaxrobust import defenses, models

ATTACK = {"norm": "linf", "eps": 0.1, "step_size": 0.05, "steps": 1}


class LogitsOnly(nn.Module):
    @nn.compact
    def __call__(self, images, *, train=False):
        return nn.Dense(3)(images.reshape(images.shape[0], -1))


class Restores(LogitsOnly):
    """Restores images without a submodule called `decoder`."""

    @nn.compact
    def __call__(self, images, *, train=False):
        logits = nn.Dense(3)(images.reshape(images.shape[0], -1))
        return models.Outputs(logits, {}, images)


def init(name, model, **options):
    """Traces a defence's `init`, as `check_data` does."""
    defense = defenses.create(name, model, {"attack": ATTACK, **options})
    x = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
    return jax.eval_shape(
        lambda key, x: defense.init(key, model.init(key, x), x), jax.random.key(0), x
    )


@pytest.mark.parametrize(
    ("name", "model", "options", "message"),
    [
        ("fpd", LogitsOnly(), {}, "restored images"),
        ("fpd", Restores(), {}, "`phase1`.*`decoder`.*Restores.*all_but_classifier"),
        ("ssc", LogitsOnly(), {"embedding": "penultimate"}, "no 'penultimate'"),
        ("pcl", LogitsOnly(), {}, "no feature vector 'pooled'.*none"),
    ],
)
def test_what_is_missing_is_named(name, model, options, message):
    with pytest.raises(ValueError, match=message):
        init(name, model, **options)


@pytest.mark.parametrize(
    ("name", "model", "options"),
    [
        ("fpd", Restores(), {"phase1": "all_but_classifier"}),
        ("ssc", LogitsOnly(), {}),
    ],
)
def test_what_fits_is_taken(name, model, options):
    chex.assert_trees_all_equal_shapes(init(name, model, **options), {})
