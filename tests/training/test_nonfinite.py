"""Updates that are not finite: dropped whole, and never saved."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust.defenses.base import Defense, Phase
from jaxrobust.training import config, nonfinite, optimizer, state, step


def loss(params, model_state, batch, key, number):
    """A label of -1 makes it NaN, one of -2 overflows in the update alone."""
    label = batch["label"].mean()
    scale = jnp.where(label == -1, jnp.nan, jnp.where(label == -2, 1e38, 1.0))
    moved = {"batch_stats": {"mean": model_state["batch_stats"]["mean"] * 0.9 + label}}
    value = (params["model"]["w"] * batch["image"].mean() * scale).sum()
    return value, (moved, {})


def make():
    defense = Defense((Phase(loss), Phase(loss)))
    tx = optimizer.make_optimizer(config.base().optimizer.to_dict())
    variables = {
        "params": {"w": jnp.ones(3)},
        "batch_stats": {"mean": jnp.zeros(())},
    }
    first = state.create(
        variables, defense, tx, jnp.zeros((1, 2, 2, 1)), key=jax.random.key(0), ema=True
    )
    run = step.make_train_step(
        defense,
        tx,
        optax.constant_schedule(10.0),
        lambda images, keys: images,
        ema=0.5,
        skip_nonfinite=True,
    )
    return run, nonfinite.Counted.of(first)


def batch(label):
    return {
        "image": np.full((2, 2, 2, 1), 255, np.uint8),
        "label": np.full(2, label, np.float32),
        "index": np.arange(2, dtype=np.int32),
    }


def test_a_dropped_update_leaves_nothing_but_the_step():
    run, current = make()
    key, seen = jax.random.key(1), []
    for label in (1.0, -1.0, -2.0, 1.0):
        before = jax.device_get(current)
        current, metrics = run(current, batch(label), key)
        after = jax.device_get(current)
        seen.append(int(metrics["skipped"]))
        assert after.step == before.step + 1
        assert after.opt_state.dropped == seen[-1]
        trees = [
            (s.params, s.model_state, s.opt_state.inner, s.ema_params)
            for s in (before, after)
        ]
        chex.assert_tree_all_finite(trees[1])
        if seen[-1]:
            chex.assert_trees_all_equal(*trees, strict=True)
        else:
            for a, b in zip(*map(jax.tree.leaves, trees), strict=True):
                assert not (a == b).all()
    assert seen == [0, 1, 2, 0]


def test_a_state_is_looked_at_before_it_is_saved():
    _, current = make()
    nonfinite.check_state(current)
    broken = current.replace(
        model_state={"batch_stats": {"mean": jnp.float32(jnp.inf)}}
    )
    with pytest.raises(
        FloatingPointError, match="model_state/batch_stats/mean is not f"
    ):
        nonfinite.check_state(broken)
