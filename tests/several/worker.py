"""What the tests run in several processes: `python -m tests.several.worker WHAT ...`."""

import os
import pathlib
import sys
import time
import traceback

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import parallel, processes


def arrays(folder: pathlib.Path) -> None:
    """Arrays go to the mesh and come back the same."""
    mesh = parallel.make_mesh()
    x = np.arange(mesh.size * 6.0).reshape(mesh.size * 2, 3)
    split = parallel.put_batch(mesh, {"x": x})["x"]
    np.testing.assert_array_equal(parallel.to_host(split), x)
    np.testing.assert_array_equal(parallel.to_host(parallel.replicate(mesh, x)), x)
    np.testing.assert_array_equal(
        parallel.rows_to_host(split, np.array([5, 0, 3])), x[[5, 0, 3]]
    )
    own = parallel.own_rows(mesh, len(x))
    assert len(own) == len(x) // jax.process_count()
    again = parallel.from_rows(mesh, {"x": x[own]}, len(x))["x"]
    assert again.sharding == split.sharding
    np.testing.assert_array_equal(parallel.to_host(again), x)
    keys = jax.random.split(jax.random.key(1), len(x))
    draw = jax.jit(jax.vmap(lambda k: jax.random.uniform(k, (4,))))
    found = parallel.to_host(draw(parallel.put_batch(mesh, keys)))
    np.testing.assert_array_equal(found, np.asarray(draw(keys)))
    mine = parallel.make_mesh(1)
    assert mine.devices.item() in jax.local_devices()
    np.savez(folder / f"own-{jax.process_index()}.npz", own=own)


def agreement(folder: pathlib.Path) -> None:
    """What differs between processes is found, and named."""
    lead = processes.is_lead()
    assert processes.agree(lead) and not processes.agree(not lead)
    processes.check_same("the config", {"a": 1})
    for wrong, call in (
        ("the config of process 1", lambda: processes.check_same("the config", lead)),
        (
            "process 1 of 2 does not see",
            lambda: processes.check_shared(folder / str(jax.process_index())),
        ),
    ):
        try:
            call()
        except ValueError as error:
            assert wrong in str(error), error
        else:
            raise AssertionError(f"nothing was raised: {wrong}")
    processes.check_shared(folder / "shared")


def together(folder: pathlib.Path) -> None:
    """Works in collectives until a process dies; process 1 may fail by itself."""
    mesh = parallel.make_mesh()
    total = jax.jit(jnp.sum, out_shardings=parallel.replicated(mesh))
    with processes.watched(silent=6):
        step = 0
        while True:
            x = parallel.put_batch(mesh, np.ones(mesh.size))
            assert float(total(x)) == mesh.size
            step += 1
            (folder / f"step-{jax.process_index()}").write_text(str(step))
            if (folder / "fail").exists() and not processes.is_lead():
                raise OSError("the disk is gone")
            time.sleep(0.01)


def main() -> None:
    """Runs one of the functions above."""
    name, folder = sys.argv[1:]
    processes.start()
    try:
        globals()[name](pathlib.Path(folder))
    except Exception as error:  # as the program does
        traceback.print_exc()
        processes.fail(error)
        os._exit(1)


if __name__ == "__main__":
    main()
