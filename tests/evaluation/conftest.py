"""A linear network of two classes, whose robustness is a closed form."""

import types

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import data

COUNT = 60


class Linear(nn.Module):
    """Logits (0, w.x - b); further classes, if any, are never predicted."""

    classes: int = 2

    @nn.compact
    def __call__(self, images, *, train=False):
        w = self.param("w", nn.initializers.zeros, images.shape[1:], images.dtype)
        b = self.param("b", nn.initializers.zeros, (), images.dtype)
        score = jnp.einsum("bhwc,hwc->b", images, w) - b
        never = [jnp.full_like(score, -99.0)] * (self.classes - 2)
        return jnp.stack([jnp.zeros_like(score), score, *never], -1)


def variables_of(seed, shape=(3, 3, 1)):
    w = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return {"params": {"w": w, "b": np.float32(w.sum() / 2)}}


def margin_of(variables, images, labels):
    """How far the score is on the right side of 0."""
    w, b = variables["params"]["w"], variables["params"]["b"]
    score = np.einsum("nhwc,hwc->n", images, w) - b
    return np.where(labels == 1, score, -score)


def make_dataset():
    """Images away from the bounds, labelled mostly as the network sees them."""
    rng = np.random.default_rng(1)
    images = rng.integers(60, 196, (COUNT, 3, 3, 1), np.uint8)
    right = margin_of(variables_of(0), images / 255, np.ones(COUNT)) > 0
    labels = (right ^ (rng.uniform(size=COUNT) < 0.1)).astype(np.int32)
    return data.Dataset(images, labels, ("no", "yes"))


def make_config(**changes):
    fields = {
        "batch_size": 16,
        "examples": 0,
        "precision": "highest",
        "attacks": {"fgsm": {"name": "fgsm", "eps": "0.1"}},
        "curve": {"eps": (), "steps": 1, "examples": 0},
        "growth": {"enabled": False},
        "diagnostics": {"enabled": False},
        "grid": 4,
        "save_adversarial": False,
    }
    return {
        "seed": 0,
        "data": {"name": "toy", "image_size": 0, "test_examples": 0},
        "eval": {**fields, **changes},
    }


@pytest.fixture
def linear():
    """The network, its data, and a config to evaluate it."""
    variables, dataset = variables_of(0), make_dataset()
    return types.SimpleNamespace(
        Linear=Linear,
        model=Linear(),
        variables=variables,
        variables_of=variables_of,
        dataset=dataset,
        margin=margin_of(variables, dataset.images / 255, dataset.labels),
        margin_of=margin_of,
        make_config=make_config,
    )
