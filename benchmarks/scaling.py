"""The same training step on more devices and processes: does it agree, what is added.

    python -m benchmarks.scaling [--layouts 1x1 1x2 1x4 1x8 2x2] [--batch 64]
    python -m benchmarks.scaling --platform cuda --layouts 1x1 1x2 8x1 --batch 1024

A layout is processes x devices of each; every one runs in processes of its own, with
the same global batch, weights and keys, on a small `ssp_cifar` trained plainly and with
PGD-7. Prints, for each, the median time of a step over that of the first layout, and
the loss after one update: it must agree to 1e-5 (plain) and 1e-3 (PGD, where the sign
of a gradient near zero may differ).

Virtual CPU devices share the same cores: their times show what splitting adds and say
nothing about speed.
"""

import argparse
import io
import json
import os
import statistics
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrobust import defenses, models, parallel
from jaxrobust.training import config, nonfinite, optimizer, state, step
from launch import local_processes

OBJECTIVES = {"standard": 1e-5, "pgd": 1e-3}  # and how far a loss may be off
_MARK = "measured: "


def build(
    name: str, mesh: jax.sharding.Mesh
) -> tuple[nonfinite.Update, state.TrainState]:
    """Returns the step of an objective and its first state on a mesh."""
    fields = config.base()
    model = models.create("ssp_cifar", integrator="ssp2", blocks=1)
    attack = {"eps": 8 / 255, "step_size": 2 / 255, "steps": 7}
    defense = defenses.create(name, model, {"attack": attack, "label_smoothing": 0.0})
    tx = optimizer.make_optimizer(fields.optimizer.to_dict(), defense.labels)
    example = jnp.zeros((1, 32, 32, 3))
    variables = state.init_variables(model, example, jax.random.key(0))
    first = state.create(variables, defense, tx, example, key=jax.random.key(1))
    run = step.make_train_step(
        defense, tx, optax.constant_schedule(0.01), lambda x, _: x, mesh=mesh
    )
    return run, parallel.replicate(mesh, jax.device_get(first))


def measure(name: str, batch_size: int, repeats: int) -> dict[str, float]:
    """Returns median `seconds` per step and the `loss` after one update."""
    mesh = parallel.make_mesh()
    rng = np.random.default_rng(0)
    batch = parallel.put_batch(
        mesh,
        {
            "image": rng.integers(0, 256, (batch_size, 32, 32, 3), np.uint8),
            "label": np.arange(batch_size, dtype=np.int32) % 10,
            "index": np.arange(batch_size, dtype=np.int32),
        },
    )
    run, current = build(name, mesh)
    key = jax.random.key(2)
    losses, times = [], []
    for _ in range(repeats + 1):  # the first compiles
        begin = time.perf_counter()
        current, metrics = run(current, batch, key)
        losses.append(float(metrics["loss"]))
        times.append(time.perf_counter() - begin)
    return {"seconds": statistics.median(times[1:]), "loss": losses[1]}


def work(devices: int, batch_size: int, repeats: int) -> None:
    """Measures in this process, one of those that the environment names."""
    count, index = (
        int(os.environ[f"JAX_{n}"]) for n in ("NUM_PROCESSES", "PROCESS_ID")
    )
    if count > 1:
        address = os.environ["JAX_COORDINATOR_ADDRESS"]
        jax.distributed.initialize(address, count, index)
    if len(jax.local_devices()) != devices:
        sys.exit(f"{devices} devices were asked for, {jax.local_devices()} are there.")
    found: dict[str, Any] = {n: measure(n, batch_size, repeats) for n in OBJECTIVES}
    found["device"] = jax.devices()[0].device_kind
    if index == 0:
        print(_MARK + json.dumps(found), flush=True)


def run_layout(
    processes: int, devices: int, platform: str, arguments: list[str]
) -> dict[str, Any]:
    """Measures one layout in processes of its own.

    Raises:
      RuntimeError: with their output, if they fail.
    """
    out = io.StringIO()
    group = local_processes.start(
        processes,
        devices,
        ["--worker", str(devices), *arguments],
        module="benchmarks.scaling",
        platform=platform,
        out=out,
    )
    status = group.wait(patience=10)
    lines = [line.partition(_MARK)[2] for line in out.getvalue().splitlines()]
    lines = [line for line in lines if line]
    if status or not lines:
        raise RuntimeError(f"ended with status {status}:\n{out.getvalue()}")
    return json.loads(lines[0])


def report(layouts: list[str], platform: str, arguments: list[str]) -> bool:
    """Prints a line per layout and objective; says whether all losses agree."""
    first: dict[str, Any] = {}
    agree = True
    for layout in layouts:
        processes, _, devices = layout.partition("x")
        found = run_layout(int(processes), int(devices), platform, arguments)
        if not first:
            first = found
            print(f"jax {jax.__version__}, {found['device']}, {' '.join(arguments)}")
        for name, tolerance in OBJECTIVES.items():
            now, one = found[name], first[name]
            off = abs(now["loss"] - one["loss"]) / abs(one["loss"])
            agree &= off <= tolerance
            verdict = "agrees" if off <= tolerance else "DIFFERS"
            ratio = now["seconds"] / one["seconds"]
            print(
                f"{layout} {name}: {now['seconds'] * 1e3:.0f} ms per step, ratio "
                f"{ratio:.2f}; loss {now['loss']:.7f}, off by {off:.1e} ({verdict})"
            )
    return agree


def main() -> None:
    """Prints the table; status 1 if a loss differs."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--layouts", nargs="*", default=["1x1", "1x2", "1x4", "1x8", "2x2"]
    )
    parser.add_argument("--platform", choices=local_processes.PLATFORMS, default="cpu")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--worker", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker, args.batch, args.repeats)
        return
    arguments = [f"--batch={args.batch}", f"--repeats={args.repeats}"]
    if not report(args.layouts, args.platform, arguments):
        sys.exit(1)


if __name__ == "__main__":
    main()
