"""What tests run in several processes: `python -m tests.several.worker WHAT ...`."""

import os
import pathlib
import sys
import time
import traceback
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import attacks, checkpoints, data, evaluation, named_models, parallel
from jaxrobust.parallel import checksums, processes, watch
from jaxrobust.training import config, loop


def arrays(folder: pathlib.Path) -> None:
    """Arrays go to the mesh and come back the same."""
    mesh = parallel.make_mesh()
    x = np.arange(mesh.size * 6.0).reshape(mesh.size * 2, 3)
    split = parallel.put_batch(mesh, {"x": x})["x"]
    chex.assert_trees_all_equal(parallel.to_host(split), x)
    chex.assert_trees_all_equal(parallel.to_host(parallel.replicate(mesh, x)), x)
    chex.assert_trees_all_equal(
        parallel.rows_to_host(split, np.array([5, 0, 3])), x[[5, 0, 3]]
    )
    own = parallel.own_rows(mesh, len(x))
    assert len(own) == len(x) // jax.process_count()
    again = parallel.from_rows(mesh, {"x": x[own]}, len(x))["x"]
    assert again.sharding == split.sharding
    chex.assert_trees_all_equal(parallel.to_host(again), x)
    keys = jax.random.split(jax.random.key(1), len(x))
    draw = jax.jit(jax.vmap(lambda k: jax.random.uniform(k, (4,))))
    found = parallel.to_host(draw(parallel.put_batch(mesh, keys)))
    chex.assert_trees_all_equal(found, np.asarray(draw(keys)))
    sums = checksums.of_tree(
        {"x": x.astype("f"), "keys": np.asarray(jax.random.key_data(keys))}
    )
    spread = {"x": split, "keys": parallel.replicate(mesh, jax.random.key_data(keys))}
    assert checksums.of_tree(spread) == sums
    mine = parallel.make_mesh(1)
    assert mine.devices.item() in jax.local_devices()
    np.savez(folder / f"own-{jax.process_index()}.npz", own=own)


def agreement(folder: pathlib.Path) -> None:
    """What differs between processes is found, and named."""
    lead = processes.is_lead()
    assert processes.agree(lead)
    assert not processes.agree(not lead)
    processes.check_same("the config", lambda: {"a": 1})
    for wrong, call in (
        (
            "the config of process 1",
            lambda: processes.check_same("the config", lambda: lead),
        ),
        (
            "process 1 of 2 does not see",
            lambda: processes.check_shared(folder / str(jax.process_index())),
        ),
    ):
        with pytest.raises(ValueError, match=wrong):
            call()
    processes.check_shared(folder / "shared")


def together(folder: pathlib.Path) -> None:
    """Works in collectives until a process dies; process 1 may fail by itself."""
    mesh = parallel.make_mesh()
    total = jax.jit(jnp.sum, out_shardings=parallel.replicated(mesh))
    with watch.watched(silent=6):
        step = 0
        while True:
            x = parallel.put_batch(mesh, np.ones(mesh.size))
            assert float(total(x)) == mesh.size
            step += 1
            (folder / f"step-{jax.process_index()}").write_text(str(step))
            if (folder / "fail").exists() and not processes.is_lead():
                raise OSError("the disk is gone")
            time.sleep(0.01)


def small_config(epochs: float = 1.0) -> dict[str, Any]:
    """Adversarial training on digits, two steps an epoch, with BatchNorm."""
    fields = config.base()
    config.shrink(fields)
    fields.model = {
        "name": "ssp_mnist",
        "integrator": "res",
        "blocks": 1,
        "width": 4,
        "norm": "b",
    }
    fields.objective.name = "pgd"
    fields.train.update({"epochs": epochs, "ema": 0.9, "compute_dtype": "float64"})
    fields.validation.attack.steps = 1
    return fields.to_dict()


def train(folder: pathlib.Path, epochs: str) -> None:
    """Trains, or goes on with, a small network in float64; the lead keeps weights.

    Several processes stream the data, each its own rows.
    """
    workdir, fields = folder / "run", small_config(float(epochs))
    fields["data"]["feed"] = "stream" if processes.several() else "resident"
    loop.train(fields, workdir, parallel.make_mesh())
    if processes.is_lead():
        _, variables, _ = checkpoints.load(workdir, "last")
        leaves = map(np.asarray, jax.tree.leaves(variables))
        np.savez(folder / "weights.npz", *leaves)
    processes.wait("weights are written")


def evaluate(folder: pathlib.Path) -> None:
    """Evaluates a small network; the lead keeps flags and attacked images."""
    fields, mesh = small_config(), parallel.make_mesh()
    dataset = data.load("digits", "test", limit=40)
    model = named_models.create_model(fields)
    x = dataset.images.astype(np.float32) / 255
    variables = model.init(jax.random.key(0), x[:1], train=False)
    attack = attacks.get("pgd", eps=0.3, step_size=0.1, steps=3)
    run = evaluation.run_eval_step(
        evaluation.make_eval_step(model, attack),
        variables,
        dataset,
        key=jax.random.key(1),
        batch_size=16,
        mesh=mesh,
        keep_images=40,
    )
    weights = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)

    def linear(z: jax.Array) -> jax.Array:
        return z.reshape(len(z), -1) @ jnp.asarray(weights)

    labels = np.asarray(linear(jnp.asarray(x)).argmax(-1), np.int32)
    result = evaluation.autoattack(
        linear,
        x,
        labels,
        key=jax.random.key(2),
        eps=0.03,
        slots=16,
        mesh=mesh,
        state_dir=folder / "state",
        save_every=0.5,
        progress=False,
    )
    if processes.is_lead():
        np.savez(
            folder / "found.npz",
            correct=run.correct,
            logits=run.logits,
            x_adv=run.x_adv,
            robust=np.stack([stage.robust for stage in result.stages]),
            adversarial=result.x_adv,
        )


def main() -> None:
    """Runs one of the functions above."""
    name, folder, *more = sys.argv[1:]
    if cache := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_disable_most_optimizations", True)
    processes.start()
    try:
        globals()[name](pathlib.Path(folder), *more)
    except Exception as error:  # as the program does
        traceback.print_exc()
        watch.fail(error)
        os._exit(1)


if __name__ == "__main__":
    main()
