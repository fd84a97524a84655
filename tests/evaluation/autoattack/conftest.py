"""Small models with known answers."""

import jax.numpy as jnp
import numpy as np
import pytest


class Linear:
    """Logits w . x + b on images [N, 4, 4, 1], and who is robust, in closed form."""

    def __init__(self, classes, seed=0, count=24):
        rng = np.random.default_rng(seed)
        self.w = rng.normal(size=(16, classes)).astype(np.float32)
        self.x = rng.uniform(0.3, 0.7, (count, 4, 4, 1)).astype(np.float32)
        self.b = -(0.5 * self.w.sum(0)).astype(np.float32)
        self.y = self.logits().argmax(1).astype(np.int32)
        self.y[0] = (self.y[0] + 1) % classes

    def logits(self):
        return self.x.reshape(len(self.x), -1) @ self.w + self.b

    def __call__(self, x):
        return (
            x.reshape(x.shape[0], -1) @ jnp.asarray(self.w) + jnp.asarray(self.b)[None]
        )

    def smallest_ratio(self, norm):
        """The distance to the nearest other class, box apart, per image."""
        order = {"linf": 1, "l2": 2, "l1": np.inf}[norm]
        z, rows = self.logits(), np.arange(len(self.x))
        own = z[rows, self.y]
        ways = []
        for j in range(z.shape[1]):
            slope = np.linalg.norm(self.w[:, self.y] - self.w[:, [j]], order, axis=0)
            ways.append(
                np.where(self.y == j, np.inf, (own - z[:, j]) / np.maximum(slope, 1e-9))
            )
        return np.min(ways, axis=0)


@pytest.fixture(scope="session")
def linear():
    """Makes a linear model of so many classes."""
    return Linear
