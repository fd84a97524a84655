"""The even mean of weights at the ends of epochs."""

import chex
import jax.numpy as jnp
import pytest

from jaxrobust.training import averaging, check, config
from jaxrobust.training.optimizer import Patience, Plateau
from jaxrobust.training.state import Averaged, TrainState


def state_of(step, value):
    params, stats = {"w": jnp.float32(value)}, {"batch_stats": jnp.float32(2 * value)}
    return TrainState(
        step=jnp.int32(step),
        params={"model": params, "extra": {}},
        model_state={**stats, "count": jnp.int32(value)},
        opt_state=(),
        ema_params=None,
        plateau=Plateau(),
        patience=Patience(),
    )


def test_the_last_epochs_count_alike():
    """Weights 1 to 10, epochs of 2 steps: the last three end at 6, 8 and 10."""
    span, mean = averaging.Span.of(3.0, 10, 2), None
    seen = []
    for step in range(10):
        now = state_of(step, step + 1)
        mean = mean or Averaged(now.params["model"], now.model_state)
        moved = averaging.evenly(now.replace(ema_params=mean), span)
        mean = moved.ema_params
        seen.append(float(moved.variables["params"]["w"]))
        chex.assert_trees_all_close(moved.variables["batch_stats"], 2 * seen[-1])
        assert int(moved.variables["count"]) == step + 1
    chex.assert_trees_all_close(seen, [1.0, 2, 3, 4, 5, 6, 6, 7, 7, 8], rtol=1e-6)


def test_more_epochs_than_there_are_is_all_of_them():
    assert averaging.Span.of(30.0, 10, 2) == (0, 2)


def test_two_averages_are_one_too_many():
    fields = config.base().to_dict()
    fields["train"] |= {"ema": 0.9, "swa_epochs": 2.0}
    with pytest.raises(ValueError, match=r"`train.ema` and `train.swa_epochs`.*to 0"):
        check.check(fields)
