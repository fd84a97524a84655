"""Metrics files survive a crash; non-finite values stop the run."""

import jax.numpy as jnp
import pytest

from jaxrobust.training.metrics import MetricWriter, fetch_mean, read


def test_rows_beyond_the_checkpoint_and_half_a_line_are_dropped(tmp_path):
    with MetricWriter(tmp_path, 0) as writer:
        for step in (1, 2, 3):
            writer.write(step, {"loss": 1 / step})
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 4, "lo')
    with MetricWriter(tmp_path, 2) as writer:
        writer.write(3, {"loss": 0.5})
    assert [(r["step"], r["loss"]) for r in read(path)] == [
        (1, 1.0),
        (2, 0.5),
        (3, 0.5),
    ]
    assert list(tmp_path.glob("tensorboard/*tfevents*"))


def test_means():
    history = [{"loss": jnp.float32(v)} for v in (1.0, 3.0)]
    assert fetch_mean(history, 2) == {"loss": 2.0}


def test_non_finite_values_name_the_step_and_the_metric():
    history = [{"loss": jnp.float32(v)} for v in (1.0, jnp.nan, 2.0)]
    with pytest.raises(FloatingPointError, match="'loss' is nan at step 9;"):
        fetch_mean(history, 10)
