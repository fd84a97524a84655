"""Images per second of both feeds, and how long a training step waits for its batch.

    python benchmarks/input_pipeline.py [--sets cifar10 tfds:synthetic_jpegs]
        [--batch 128] [--steps 20] [--alone 100] [--threads N] [--workers N]

`benchmarks/make_jpegs.py` writes the second set. Alone means that nothing else runs.
For the share, the host waits for each step of PGD-7 training of a small ssp_cifar
before it asks for the next batch: what passes until that batch is on the device is
time in which the device has nothing to do. The training loop, which runs two steps
ahead, hides most of it, so the share, over all steps, is an upper bound.
"""

import argparse
import time
from typing import Any

import jax
import jax.numpy as jnp
import optax
from absl import flags

from jaxrobust import data, models, parallel
from jaxrobust.training import check, config, nonfinite, optimizer, state, step
from jaxrobust.training.feed import Feed, ResidentFeed, StreamFeed


def alone(source: Feed, batch: int, steps: int) -> float:
    """Returns images per second when every batch is only waited for."""
    batches = source.batches(0, steps + 1)
    jax.block_until_ready(next(batches))  # compiles, starts threads
    begin = time.perf_counter()
    for arrays in batches:
        jax.block_until_ready(arrays)
    return batch * steps / (time.perf_counter() - begin)


def make_step(source: data.Source, mesh: Any) -> tuple[nonfinite.Update, Any]:
    """Returns a PGD training step of a small ssp_cifar and its first state."""
    model = models.create("ssp_cifar", integrator="ssp2", blocks=1)
    fields = config.base().to_dict()
    defense = check.make_defense(fields, model, "pgd")
    tx = optimizer.make_optimizer(fields["optimizer"])
    example = jnp.zeros((1, *source.shape))
    variables = state.init_variables(model, example, jax.random.key(0))
    first = state.create(variables, defense, tx, example, key=jax.random.key(1))
    schedule = optax.constant_schedule(0.01)
    run = step.make_train_step(defense, tx, schedule, lambda x, keys: x, mesh=mesh)
    return run, parallel.replicate(mesh, first)


def waiting(
    source: data.Source, feed: Feed, mesh: Any, steps: int
) -> tuple[float, float]:
    """Returns seconds of waiting and of steps, in all, after a first that compiles."""
    run, current = make_step(source, mesh)
    key = parallel.replicate(mesh, jax.random.key(2))
    batches = feed.batches(0, steps + 1)
    current, _ = jax.block_until_ready(run(current, next(batches), key))
    waited, begin = 0.0, time.perf_counter()
    for _ in range(steps):
        asked = time.perf_counter()
        batch = jax.block_until_ready(next(batches))
        waited += time.perf_counter() - asked
        current, _ = jax.block_until_ready(run(current, batch, key))
    return waited, time.perf_counter() - begin - waited


def main() -> None:
    """Prints three lines per set."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--sets", nargs="*", default=["cifar10", "tfds:synthetic_jpegs"]
    )
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--alone", type=int, default=100, help="steps without training")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--workers", type=int, default=0)
    args = parser.parse_args()
    flags.FLAGS.mark_as_parsed()  # grain's processes ask for it
    mesh = parallel.make_mesh(1)
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, batch {args.batch}")
    for name in args.sets:
        source = data.open_source(name)
        common: dict[str, Any] = {"batch_size": args.batch, "seed": 0}
        how = {"threads": args.threads, "workers": args.workers}
        begin = time.perf_counter()
        count = len(source.labels)
        labels_s = time.perf_counter() - begin
        feeds: dict[str, Feed] = {
            "resident": ResidentFeed(source, mesh, **common),
            "streaming": StreamFeed(source, mesh, **common, **how),
        }
        print(f"{name}: {count} images {source.shape}; labels in {labels_s:.2f} s")
        for kind, feed in feeds.items():
            rate = alone(feed, args.batch, args.alone)
            waited, ran = waiting(source, feed, mesh, args.steps)
            print(
                f"{name}, {kind}: {rate:.0f} images/s alone; step "
                f"{ran / args.steps:.3f} s, waits {1000 * waited / args.steps:.2f} ms "
                f"for its batch, {waited / (waited + ran):.2%} of the time"
            )
            feed.close()


if __name__ == "__main__":
    main()
