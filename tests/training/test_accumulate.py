"""A batch in parts: the same update, on any number of devices, and what differs."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import losses, models, parallel
from jaxrobust.defenses.base import Defense, Phase
from jaxrobust.training import accumulate, check, compute, config, setup, state, step
from tests.marks import full_but

RATE, B = 0.1, 16
QUICKLY = {"xla_backend_optimization_level": 0}


def batch(size=B):
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (size, 8, 8, 1), dtype=np.uint8),
        "label": rng.integers(0, 10, size, dtype=np.int32),
        "index": rng.permutation(1000)[:size].astype(np.int32),
    }


def run_steps(objective, parts, devices):
    """Returns the loss of the last step and the variables of a small network."""
    model = models.create("ssp_mnist", integrator="res", blocks=1, width=4, norm="g")
    settings = config.base().to_dict()
    settings["attack"]["steps"] = 2
    defense = check.make_defense(settings, model, objective)
    tx = optax.sgd(1.0, momentum=0.9)
    mesh, example = parallel.make_mesh(devices), jnp.zeros((1, 8, 8, 1), jnp.float64)
    variables = state.init_variables(model, example, jax.random.key(0))
    variables = compute.cast(variables, jnp.float64)
    current = parallel.replicate(
        mesh, state.create(variables, defense, tx, example, key=jax.random.key(1))
    )
    run = step.make_train_step(
        defense, tx, optax.constant_schedule(RATE), lambda x, keys: x,
        mesh=mesh, precision="highest", dtype=jnp.float64, accumulate=parts,
    )  # fmt: skip
    key = parallel.replicate(mesh, jax.random.key(7))
    for _ in range(2):
        current, metrics = run(current, parallel.put_batch(mesh, batch()), key)
    return jax.device_get((metrics["loss"], current.params, current.model_state))


@pytest.mark.full
@pytest.mark.parametrize("objective", full_but(["standard", "pgd"], ["standard"]))
def test_parts_and_devices_do_not_change_the_update(objective):
    """Without statistics of a batch: float64, to 1e-12."""
    with jax.enable_x64(True):
        whole = run_steps(objective, 1, 1)
        found = [run_steps(objective, 4, 1), run_steps(objective, 4, 4)]
    for other in found:
        chex.assert_type(jax.tree.leaves(other), np.float64)
        chex.assert_trees_all_close(whole, other, rtol=1e-10, atol=1e-12, strict=True)


def quadratic(params, model_state, batch, key, step):
    """A network of one weight on the mean of the images, with a running count."""
    seen = batch["image"].mean((1, 2, 3)) * params["model"]["w"]
    moved = {"stats": 0.5 * model_state["stats"] + seen.mean()}
    found = {"mean": seen.mean(), "draw": jax.random.uniform(key)}
    return jnp.square(seen - 1).mean(), (moved, found, {"seen": seen})


def evaluate(phase, parts, rows):
    return accumulate.phase_gradient(
        phase,
        parts,
        {"model": {"w": jnp.float32(2.0)}, "extra": {}},
        {"stats": jnp.float32(1.0)},
        rows,
        jax.random.key(0),
        jnp.int32(0),
    )


def test_parts_are_every_kth_row_and_come_back_in_order():
    """Statistics move part after part; the rest is that of the whole batch."""
    images = jnp.arange(8.0).reshape(8, 1, 1, 1)
    rows = {"image": images, "label": jnp.arange(8)}
    phase = Phase(quadratic, lambda *args: {"attacked": args[2]["image"] + 1})
    whole, parts = evaluate(phase, 1, rows), evaluate(phase, 2, rows)
    chex.assert_trees_all_close(parts.handed["seen"], whole.handed["seen"], rtol=1e-7)
    chex.assert_trees_all_equal(parts.handed["attacked"], images + 1)
    chex.assert_trees_all_close(
        parts.grads["model"]["w"], whole.grads["model"]["w"], rtol=1e-7
    )
    chex.assert_trees_all_close(parts.metrics["loss"], whole.metrics["loss"], rtol=1e-7)
    # 0.5 (0.5 x 1 + mean of rows 0 2 4 6 x 2) + mean of rows 1 3 5 7 x 2.
    chex.assert_trees_all_close(
        parts.model_state["stats"], 0.5 * (0.5 + 6) + 8, rtol=1e-7
    )
    draws = [
        jax.random.uniform(jax.random.fold_in(jax.random.key(0), j)) for j in (0, 1)
    ]
    chex.assert_trees_all_close(parts.metrics["draw"], np.mean(draws), rtol=1e-6)


def test_batch_norm_in_parts_is_that_of_smaller_batches():
    """The step of k parts: running statistics of k batches, the mean of k gradients."""
    model = models.create("ssp_mnist", integrator="res", blocks=1, width=4, norm="b")

    def loss(params, stats, batch, key, step):
        out, moved = model.apply(
            {"params": params["model"], **stats},
            batch["image"],
            train=True,
            mutable=["batch_stats"],
        )
        value = losses.cross_entropy(out.logits, batch["label"]).mean()
        return value, (dict(moved), {})

    drawn = batch(8)
    rows = {"image": jnp.asarray(drawn["image"] / 255, "f4"), "label": drawn["label"]}
    variables = state.init_variables(model, rows["image"][:1], jax.random.key(0))
    params = {"model": variables["params"], "extra": {}}
    stats = {"batch_stats": variables["batch_stats"]}

    def found(parts, rows, stats):
        arguments = (params, stats, rows, jax.random.key(0), jnp.int32(0))
        run = jax.jit(
            lambda *args: accumulate.phase_gradient(Phase(loss), parts, *args)._replace(
                handed={}
            ),
            compiler_options=QUICKLY,
        )
        return run(*arguments)

    got = found(2, rows, stats)
    grads = []
    for j in (0, 1):
        part = found(1, {k: v[j::2] for k, v in rows.items()}, stats)
        stats = part.model_state
        grads.append(part.grads)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *grads)
    chex.assert_trees_all_close(
        (got.model_state, got.grads), (stats, mean), rtol=1e-4, atol=1e-6
    )


def test_conditions_and_masks_see_the_means_over_parts():
    """`when` on a mean that no part has; the carry reaches the second phase."""
    images = np.zeros((4, 1, 1, 1), np.uint8)
    images[::2] = 255

    def second(params, model_state, batch, key, step):
        return (batch["seen"] * 0 + params["model"]["w"]).mean(), (
            model_state,
            {"handed": batch["seen"].sum()},
        )

    def half(step, metrics):
        return jnp.abs(metrics["mean"] - 1) < 1e-6  # parts have 2 and 0

    first = Phase(quadratic, when=lambda step, metrics: metrics["mean"] > 1.5)
    defense = Defense((first, Phase(second, when=half)))
    current = state.create(
        {"params": {"w": jnp.float32(2.0)}, "stats": jnp.float32(1.0)},
        defense,
        optax.sgd(1.0),
        jnp.zeros(1),
        key=jax.random.key(0),
    )
    run = step.make_train_step(
        defense, optax.sgd(1.0), optax.constant_schedule(0.5), lambda x, keys: x,
        accumulate=2,
    )  # fmt: skip
    rows = {"image": images, "label": np.zeros(4, np.int32), "index": np.arange(4)}
    current, metrics = run(current, rows, jax.random.key(0))
    chex.assert_trees_all_close(
        current.params["model"]["w"], 1.5, rtol=1e-7
    )  # of phase 2 alone
    chex.assert_trees_all_close(current.model_state["stats"], 1.0, rtol=1e-7)
    chex.assert_trees_all_close(metrics["handed"], 2.0, rtol=1e-7)  # of a part: 4 / 2


@pytest.mark.full
def test_parts_need_less_memory():
    """Temporary bytes of a step, as the compiler counts them."""
    model = models.create("ssp_mnist", integrator="res", blocks=2, width=8, norm="g")
    defense = check.make_defense(config.base().to_dict(), model, "standard")
    tx, example = optax.sgd(1.0), jnp.zeros((1, 28, 28, 1))
    variables = state.init_variables(model, example, jax.random.key(0))
    first = state.create(variables, defense, tx, example, key=jax.random.key(1))
    rows = {
        "image": np.zeros((64, 28, 28, 1), np.uint8),
        "label": np.zeros(64, np.int32),
        "index": np.zeros(64, np.int32),
    }
    sizes = []
    for parts in (1, 4):
        run = step.make_train_step(
            defense, tx, optax.constant_schedule(0.1), lambda x, keys: x,
            accumulate=parts,
        )  # fmt: skip
        compiled = run.lower(first, rows, jax.random.key(2)).compile(QUICKLY)
        sizes.append(compiled.memory_analysis().temp_size_in_bytes)
    assert sizes[1] < 0.5 * sizes[0]


def test_mistakes_are_told_before_any_work():
    mesh = parallel.make_mesh(4)
    accumulate.check_parts(mesh, 32, 8)
    for size, parts, message in (
        (20, 2, r"`train.batch_size` must be .* 8: `train.accumulate` 2 x 4 devices"),
        (16, 0, r"`train\.accumulate` must be at least 1, got 0"),
        (6, 1, "multiple of the 4 devices, got 6"),
    ):
        with pytest.raises(ValueError, match=message):
            accumulate.check_parts(mesh, size, parts)
    settings = config.base().to_dict()
    settings["train"] |= {"batch_size": 128, "accumulate": 3}
    with pytest.raises(ValueError, match=r"`train\.accumulate` must be a divisor of"):
        check.check(settings)
    with pytest.raises(ValueError, match=r"`train\.accumulate` 3 x 4 devices, got 128"):
        setup.build(settings, mesh)


def test_arrays_without_rows_are_refused_in_parts():
    def loss(params, model_state, batch, key, step):
        return params["model"]["w"], (model_state, {}, {"scalar": params["model"]["w"]})

    rows = {"image": jnp.zeros((4, 1, 1, 1)), "label": jnp.zeros(4, jnp.int32)}
    assert evaluate(Phase(loss), 1, rows).handed["scalar"] == 2
    with pytest.raises(ValueError, match=r"a row per example .* 'scalar' has shape"):
        evaluate(Phase(loss), 2, rows)
