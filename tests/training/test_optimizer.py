"""Optimisers against hand-computed steps, schedules against their definition."""

import chex
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust.training import config, optimizer

FIELDS = config.base().optimizer.to_dict()
SCHEDULE = config.base().schedule.to_dict()


def run(fields, grads, rate, start=1.0):
    tx = optimizer.make_optimizer({**FIELDS, **fields})
    params = jnp.float32(start)
    state = tx.init(params)
    for grad in grads:
        updates, state = tx.update(jnp.float32(grad), state, params)
        params = optax.apply_updates(params, updates * rate)
    return float(params)


def test_sgd_is_torch_sgd_with_decay_on_the_gradient():
    """Nesterov momentum as torch defines it, weight decay added before momentum."""
    w, buffer = 1.0, 0.0
    for grad in (0.5, -0.2, 0.3):
        g = grad + 5e-4 * w
        buffer = 0.9 * buffer + g
        w -= 0.1 * (g + 0.9 * buffer)
    chex.assert_trees_all_close(run({}, (0.5, -0.2, 0.3), 0.1), w, rtol=1e-6)


def test_adam_of_the_release_has_no_first_moment():
    """With b1 = 0 the first update is the rate times the gradient's sign."""
    found = run(
        {"name": "adam", "b1": 0.0, "b2": 0.9, "weight_decay": 0.0}, [0.7], 1e-2
    )
    chex.assert_trees_all_close(found, 1 - 1e-2, rtol=1e-6)


def test_clipping():
    found = run({"momentum": 0.0, "weight_decay": 0.0, "clip_norm": 1.0}, [50.0], 0.1)
    chex.assert_trees_all_close(found, 0.9, rtol=1e-6)


def test_labels_have_optimisers_of_their_own():
    """Centres at five times the rate, without momentum or decay."""
    plain = {**FIELDS, "momentum": 0.0, "weight_decay": 0.0}
    tx = optimizer.make_optimizer(
        plain,
        lambda params: {"model": "model", "extra": "centres"},
        {"centres": {"learning_rate": 5 * plain["learning_rate"]}},
    )
    params = {"model": jnp.float32(1.0), "extra": jnp.float32(1.0)}
    updates, _ = tx.update(params, tx.init(params), params)
    chex.assert_trees_all_close(
        np.asarray([updates["model"], updates["extra"]]),
        np.asarray([-1, -5]),
        rtol=1e-7,
    )


def rates(fields, steps, total=100, per_epoch=10):
    schedule = optimizer.make_schedule(
        {**SCHEDULE, **fields}, 0.1, steps_per_epoch=per_epoch, total_steps=total
    )
    return [float(schedule(step)) for step in steps]


def test_step_schedule_drops_at_the_epoch():
    found = rates({"milestones": (2.0, 4.0)}, (19, 20, 39, 40))
    chex.assert_trees_all_close(found, [0.1, 0.01, 0.01, 0.001], rtol=1e-5)


def test_cosine_with_warm_up():
    found = rates({"name": "cosine", "warmup_epochs": 1.0}, (0, 9, 10, 55, 100))
    chex.assert_trees_all_close(found, [0.01, 0.1, 0.1, 0.05, 0.0], rtol=0, atol=1e-6)


def test_warm_up_does_not_move_the_drops():
    found = rates({"milestones": (2.0,), "warmup_epochs": 1.0}, (0, 19, 20))
    chex.assert_trees_all_close(found, [0.01, 0.1, 0.01], rtol=1e-5)


def test_cyclic_is_one_triangle():
    found = rates({"name": "cyclic", "peak": 0.4}, (0, 19, 39, 40, 69, 99))
    want = [0.1 / 40, 0.05, 0.1, 0.1 * 59 / 60, 0.05, 0.0]
    chex.assert_trees_all_close(found, want, rtol=0, atol=1e-7)
    late = rates({"name": "cyclic", "peak": 1.0}, (49, 99))
    chex.assert_trees_all_close(late, [0.05, 0.1], rtol=1e-5)
    with pytest.raises(ValueError, match=r"warmup_epochs` to 0, got 5\.0"):
        rates({"name": "cyclic", "warmup_epochs": 5.0}, (0,))


def test_plateau_shrinks_after_patience():
    state = optimizer.Plateau()
    scales = []
    for loss in (1.0, 0.9, 0.95, 0.96, 0.97, 0.5):
        state = optimizer.update_plateau(state, jnp.float32(loss), 0.1, 2)
        scales.append(float(state.scale))
    chex.assert_trees_all_close(scales, [1, 1, 1, 1, 0.1, 0.1], rtol=1e-6)
    assert float(state.best) == 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: run({"name": "sdg"}, [], 1.0), "unknown optimiser 'sdg'.*'sgd'"),
        (lambda: rates({"name": "cosin"}, []), "unknown schedule 'cosin'.*'cosine'"),
    ],
)
def test_unknown_names(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_piecewise_rates_are_multiples_of_the_base():
    """Phase 1 at ten times the rate, then back: PCL's two phases in one run."""
    found = rates(
        {"name": "piecewise", "milestones": (0, 2, 4), "scales": (10.0, 0.1, 1.0)},
        (0, 19, 20, 39, 40, 99),
    )
    chex.assert_trees_all_close(found, [1.0, 1.0, 0.01, 0.01, 0.1, 0.1], rtol=1e-6)
    with pytest.raises(ValueError, match=r"schedule\.scales.*\(1\.0,\)"):
        rates({"name": "piecewise", "milestones": (1, 2), "scales": (1.0,)}, (0,))


def test_patience_counts_validations_without_a_new_best():
    current = optimizer.Patience()
    waited = []
    for accuracy in (0.5, 0.4, 0.5, 0.6, 0.1):
        current = optimizer.update_patience(current, jnp.float32(accuracy))
        waited.append(int(current.waited))
    assert waited == [0, 1, 2, 0, 1]
