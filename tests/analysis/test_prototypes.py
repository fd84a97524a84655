import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import analysis

CENTERS = jnp.asarray([[0.0, 0.0], [4.0, 0.0], [0.0, 10.0]])


def test_distances(compiled):
    features = jnp.asarray([[3.0, 4.0], [4.0, 0.0], [0.0, 9.0]])
    y = jnp.asarray([0, 1, 1], jnp.int32)
    own, other = compiled(analysis.prototype_distances)(features, y, CENTERS)
    chex.assert_trees_all_close(own, np.asarray([5, 0, np.sqrt(97)]), rtol=0, atol=2e-6)
    chex.assert_trees_all_close(other, np.asarray([np.sqrt(17), 4, 1]), rtol=1e-6)


def test_against_numpy():
    keys = jax.random.split(jax.random.key(0), 3)
    features = jax.random.normal(keys[0], (20, 6))
    centers = jax.random.normal(keys[1], (5, 6))
    y = jax.random.randint(keys[2], (20,), 0, 5, jnp.int32)
    own, other = analysis.prototype_distances(features, y, centers)
    table = np.linalg.norm(
        np.asarray(features)[:, None] - np.asarray(centers)[None], axis=-1
    )
    rows = np.arange(20)
    chex.assert_trees_all_close(own, table[rows, y], rtol=1e-5)
    table[rows, y] = np.inf
    chex.assert_trees_all_close(other, table.min(1), rtol=1e-5)


@pytest.mark.parametrize(
    ("labels", "centers", "message"),
    [
        ([0, 3], CENTERS, "labels from 0 to 3, but there are 3 classes"),
        ([0, 0], CENTERS[:1], "`centers`.*at least 2 classes, got 1"),
        ([0, 1], CENTERS[:, :1], "length 2.*`centers`"),
    ],
)
def test_refusals(labels, centers, message):
    with pytest.raises(ValueError, match=message):
        analysis.prototype_distances(jnp.ones((2, 2)), np.asarray(labels), centers)
