"""float64 through the real program."""

import chex
import jax
import jax.numpy as jnp

from jaxrobust import parallel
from jaxrobust.training import config, setup


def test_a_run_in_float64_is_float64_from_images_to_loss():
    """And starts from the parameters of a float32 run."""
    fields = config.base()
    config.shrink(fields)
    fields.model = {"name": "ssp_mnist", "integrator": "res", "blocks": 1, "width": 4}
    fields.objective.name = "standard"
    single = setup.build(fields.to_dict(), parallel.make_mesh(1)).state
    single = jax.device_get(single)
    fields.train.compute_dtype, fields.train.accumulate = "float64", 2
    with jax.enable_x64(True):
        run = setup.build(fields.to_dict(), parallel.make_mesh(1))
        chex.assert_type(jax.tree.leaves(run.state.params), jnp.float64)
        chex.assert_trees_all_equal(single.params, run.state.params)
        batch = next(run.feed.batches(0, 1))
        new, metrics = run.step(run.state, batch, run.key)
    chex.assert_type(metrics["loss"], jnp.float64)
    chex.assert_tree_all_finite(metrics["loss"])
    for leaf in jax.tree.leaves((new.params, new.model_state, new.opt_state)):
        assert leaf.dtype in (jnp.float64, jnp.int32)
