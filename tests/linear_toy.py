"""A linear network of two classes, and images in the middle of the box."""

import jax.numpy as jnp
import numpy as np


def linear(w):
    """Logits (0, w.x - sum(w) / 2) of images [N, 1, 3, 1]."""
    w = jnp.asarray(w, jnp.float32)

    def logits_fn(x):
        score = x.reshape(len(x), -1) @ w - w.sum() / 2
        return jnp.stack([jnp.zeros_like(score), score], -1)

    return logits_fn


def images(seed=0, n=6):
    levels = np.random.default_rng(seed).integers(64, 192, (n, 1, 3, 1))
    return jnp.asarray(levels / 255, jnp.float32)
