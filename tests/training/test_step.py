"""The training step: the same mathematics on any number of devices, masks, EMA."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import defenses, models, parallel
from jaxrobust.defenses.base import Defense, Phase
from jaxrobust.training import check, config, optimizer, state, step
from tests.marks import full_but


def augment(images, keys):
    """Adds a little noise, so that the keys matter."""
    noise = jax.vmap(lambda k: jax.random.uniform(k, images.shape[1:], images.dtype))
    return images * 0.9 + 0.1 * noise(keys)


def make(objective, dtype, mesh=None, ema=0.0, attack=None, bn=""):
    """Returns a step and its first state for a small BatchNorm network."""
    model = models.create("ssp_mnist", integrator="ssp2", blocks=1, width=4, norm="b")
    fields = config.base().to_dict()
    fields["attack"] |= {"steps": 2, **(attack or {})}
    fields["objective"]["attack_bn"] = bn
    fields["objective"]["layers"] = ("penultimate",)  # of PCL
    defense = check.make_defense(fields, model, objective)
    tx = optimizer.make_optimizer(config.base().optimizer.to_dict())
    example = jnp.zeros((1, 12, 12, 1))
    variables = state.init_variables(model, example, jax.random.key(0))
    variables = jax.tree.map(lambda v: v.astype(dtype), variables)
    first = state.create(
        variables, defense, tx, example, key=jax.random.key(1), ema=ema > 0
    )
    run = step.make_train_step(
        defense,
        tx,
        optax.constant_schedule(0.1),
        augment,
        mesh=mesh,
        ema=ema,
        precision="highest",
        dtype=dtype,
    )
    return run, first


def batch(number, size=16):
    rng = np.random.default_rng(number)
    return {
        "image": rng.integers(0, 256, (size, 12, 12, 1), dtype=np.uint8),
        "label": rng.integers(0, 10, size, dtype=np.int32),
        "index": rng.permutation(1000)[:size].astype(np.int32),
    }


def run_steps(objective, devices, steps, dtype, ema=0.0):
    mesh = parallel.make_mesh(devices)
    run, current = make(objective, dtype, mesh, ema)
    current = parallel.replicate(mesh, current)
    key = parallel.replicate(mesh, jax.random.key(7))
    losses = []
    for number in range(steps):
        current, metrics = run(current, parallel.put_batch(mesh, batch(number)), key)
        losses.append(metrics["loss"])
    return jax.device_get((losses, current.variables))


@pytest.mark.parametrize("objective", full_but(["pgd", "trades"], ["pgd"]))
def test_one_and_eight_devices_agree_in_float64(objective):
    """Losses and parameters agree to 1e-9 over 20 steps, BatchNorm included."""
    with jax.enable_x64(True):
        one = run_steps(objective, 1, 20, jnp.float64)
        eight = run_steps(objective, 8, 20, jnp.float64)
    chex.assert_type(jax.tree.leaves(one), np.float64)
    chex.assert_trees_all_close(one, eight, rtol=1e-9, atol=1e-9, strict=True)


@pytest.mark.parametrize(
    ("objective", "tolerance"),
    full_but([("standard", 1e-5), ("pgd", 1e-3)], []),
)
def test_one_step_agrees_in_float32(objective, tolerance):
    """From one state; signs of gradients near zero may flip under PGD."""
    (one,), _ = run_steps(objective, 1, 1, jnp.float32)
    (eight,), _ = run_steps(objective, 8, 1, jnp.float32)
    chex.assert_trees_all_close(one, eight, rtol=tolerance)


# FPD needs a network that restores images: tests/defenses/test_fpd.py.
@pytest.mark.parametrize(
    "objective",
    full_but(sorted(set(defenses.FACTORIES) - {"fpd"}), ("mart", "pcl_adversarial")),
)
def test_every_objective_learns_the_batch(objective):
    """The loss on one repeated batch falls, and the state is donated."""
    run, current = make(objective, jnp.float32)
    first, like = current, jax.eval_shape(lambda s: s, current)
    losses = []
    for _ in range(12):
        current, metrics = run(current, batch(0), jax.random.key(3))
        losses.append(float(metrics["loss"]))
    fall = 0.02 if objective == "pc_lc" else 0.1  # PC is flat at the start
    assert np.mean(losses[-3:]) < losses[0] - fall
    assert int(current.step) == 12
    chex.assert_trees_all_equal_shapes_and_dtypes(current, like)
    chex.assert_tree_all_finite(current.variables)
    assert jax.tree.leaves(first.params)[0].is_deleted()


@pytest.mark.parametrize("attack_bn", full_but(["train", "eval"], ["train"]))
def test_attack_passes_do_not_move_running_statistics(attack_bn):
    """Of radius 0, attacks leave the step exactly as it is without them."""
    moved = []
    for objective in ("standard", "pgd"):
        run, current = make(objective, jnp.float32, attack={"eps": "0"}, bn=attack_bn)
        current, _ = run(current, batch(0), jax.random.key(3))
        moved.append(current.model_state)
    chex.assert_trees_all_close(*moved, rtol=1e-6, atol=1e-7, strict=True)


def test_average_of_weights():
    """After one step the average is decay * start + (1 - decay) * new."""
    run, current = make("standard", jnp.float32, ema=0.75)
    start = jax.device_get(current.params["model"])
    current, _ = run(current, batch(0), jax.random.key(3))
    expected = jax.tree.map(
        lambda a, b: 0.75 * a + 0.25 * b, start, jax.device_get(current.params["model"])
    )
    chex.assert_trees_all_close(expected, current.ema_params, rtol=1e-5, atol=1e-7)


def quadratic(**fields):
    """A defence without a network: pulls two scalars to 1."""

    def loss(params, model_state, batch, key, step):
        w = params["model"]
        found = {"distance": abs(w["a"] - 1)}
        value = 0.5 * ((w["a"] - 1) ** 2 + (w["b"] - 1) ** 2)
        return value, (model_state, found, {"handed": w["a"]})

    def second(params, model_state, batch, key, step):
        return batch["handed"] * 0.0, (model_state, {"seen": batch["handed"]})

    never = Phase(second, when=lambda step, metrics: step < 0)
    return Defense((Phase(loss, **fields), never))


def run_quadratic(**fields):
    defense = quadratic(**fields)
    tx = optimizer.make_optimizer(
        {**config.base().optimizer.to_dict(), "momentum": 0.9, "weight_decay": 0.1}
    )
    params = {"params": {"a": jnp.float32(3.0), "b": jnp.float32(3.0)}}
    current = state.create(params, defense, tx, jnp.zeros(1), key=jax.random.key(0))
    run = step.make_train_step(
        defense, tx, optax.constant_schedule(0.1), lambda x, keys: x
    )
    seen = []
    for number in range(3):
        current, metrics = run(current, batch(number), jax.random.key(0))
        seen.append(float(metrics["seen"]))
    return jax.device_get(current), seen


def test_masked_leaves_stay_put_and_phases_hand_arrays_on():
    """Neither gradient, weight decay nor momentum moves a masked leaf."""
    current, seen = run_quadratic(
        mask=lambda params, step, metrics: {
            "model": {"a": True, "b": step < 0},
            "extra": {},
        }
    )
    assert current.params["model"]["a"] < 2.9
    assert current.params["model"]["b"] == 3.0
    assert seen[0] == 3.0 > seen[1]


def test_a_phase_whose_condition_is_false_changes_nothing():
    current, _ = run_quadratic(when=lambda step, metrics: metrics["distance"] < 1)
    free, _ = run_quadratic()
    assert current.params["model"] == {"a": 3.0, "b": 3.0}
    assert free.params["model"]["b"] < 2.9


def test_what_is_prepared_reaches_the_loss_without_a_gradient():
    """d/da of a * prepared(a) is `prepared`, not its product rule."""

    def prepare(params, model_state, batch, key, step):
        return {"seen": 2 * params["model"]["a"]}

    def loss(params, model_state, batch, key, step):
        return params["model"]["a"] * batch["seen"], (model_state, {})

    defense = Defense((Phase(loss, prepare),))
    plain = {**config.base().optimizer.to_dict(), "momentum": 0.0, "weight_decay": 0.0}
    tx = optimizer.make_optimizer(plain)
    params = {"params": {"a": jnp.float32(3.0)}}
    current = state.create(params, defense, tx, jnp.zeros(1), key=jax.random.key(0))
    run = step.make_train_step(
        defense, tx, optax.constant_schedule(0.1), lambda x, keys: x
    )
    current, _ = run(current, batch(0), jax.random.key(0))
    chex.assert_trees_all_close(
        current.params["model"]["a"], 3.0 - 0.1 * 6.0, rtol=1e-7
    )
