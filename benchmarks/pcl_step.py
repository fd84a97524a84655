"""What PCL's training step costs beyond one with cross-entropy alone.

    python benchmarks/pcl_step.py [--depth 20] [--batch 128] [--repeats 5]

Prints the median seconds of both jitted steps on one batch, update and optimisers
included, timed in turn in this process, and their ratio (bar: 1.25).
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxrobust import defenses, models
from jaxrobust.training import config, optimizer, state, step
from jaxrobust.training.presets import pcl as preset


def make(name: str, depth: int) -> tuple[Callable[..., Any], state.TrainState]:
    """Returns the step of an objective and its first state."""
    fields = config.base()
    preset.use_prototypes(fields, contrastive=1e-4)
    model = models.create("pcl_resnet", depth=depth)
    options = {**fields.objective.to_dict(), "attack": {"eps": 0.03}, "warmup_steps": 0}
    options.pop("attack_bn")
    defense = defenses.create(name, model, options)
    labels = fields.label_optimizers.to_dict()
    tx = optimizer.make_optimizer(fields.optimizer.to_dict(), defense.labels, labels)
    example = jnp.zeros((1, 32, 32, 3))
    variables = state.init_variables(model, example, jax.random.key(0))
    first = state.create(variables, defense, tx, example, key=jax.random.key(1))
    run = step.make_train_step(
        defense, tx, optax.constant_schedule(0.01), lambda images, keys: images
    )
    return run, first


def measure(depth: int, batch_size: int, repeats: int) -> dict[str, float]:
    """Returns median seconds per step: `standard` and `pcl`."""
    key = jax.random.key(2)
    batch = {
        "image": jax.random.randint(key, (batch_size, 32, 32, 3), 0, 256, jnp.uint8),
        "label": jnp.arange(batch_size) % 10,
        "index": jnp.arange(batch_size),
    }
    runs = {name: make(name, depth) for name in ("standard", "pcl")}
    states = {name: first for name, (_, first) in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, (run, _) in runs.items():
            begin = time.perf_counter()
            states[name], metrics = run(states[name], batch, key)
            jax.block_until_ready((states[name], metrics))
            if turn:  # the first compiles
                times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def main() -> None:
    """Prints one line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, batch {args.batch}")
    t = measure(args.depth, args.batch, args.repeats)
    print(
        f"pcl_resnet-{args.depth}: cross-entropy {t['standard']:.3f} s, PCL "
        f"{t['pcl']:.3f} s per step; ratio {t['pcl'] / t['standard']:.3f} (bar 1.25)"
    )


if __name__ == "__main__":
    main()
