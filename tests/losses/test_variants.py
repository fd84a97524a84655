"""Losses and a network say the same with and without jit, of device and host arrays."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from jaxrobust import losses, models

Z = np.array([[2.0, -1.0, 0.5, 3.0], [0.0, 4.0, 1.0, -2.0]], np.float32)
Y = np.array([3, 0])


def log_softmax(z):
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


# The margin of Carlini and Wagner, and what AutoAttack divides it by.
OTHER = np.array([2.0, 4.0], np.float32)
MARGIN = OTHER - Z[[0, 1], Y]
SORTED = np.sort(Z)
WANT = {
    "cross_entropy": -log_softmax(Z)[[0, 1], Y],
    "margin": MARGIN,
    "dlr": MARGIN / (SORTED[:, -1] - SORTED[:, -3]),
}


class Variants(chex.TestCase):
    """With and without jit, with arrays on the device and on the host."""

    @chex.all_variants(with_pmap=False)
    @parameterized.parameters(*WANT)
    def test_losses_are_their_closed_forms(self, name):
        found = self.variant(getattr(losses, name))(Z, Y)
        chex.assert_shape(found, (2,))
        chex.assert_type(found, jnp.float32)
        chex.assert_trees_all_close(np.asarray(found), WANT[name], rtol=1e-5)

    @chex.all_variants(with_pmap=False)
    def test_a_network(self):
        model = models.create("lenet5", num_classes=3)
        x = np.linspace(0, 1, 2 * 12 * 12, dtype=np.float32).reshape(2, 12, 12, 1)
        variables = model.init(jax.random.key(0), x)
        logits_fn = models.logits_fn(model, variables)
        found = self.variant(lambda x: logits_fn(x))(x)
        chex.assert_shape(found, (2, 3))
        chex.assert_tree_all_finite(found)
        chex.assert_trees_all_close(found, logits_fn(x), rtol=1e-5, atol=1e-6)
