"""What a jitted attack costs beyond the gradients it needs.

    python benchmarks/attack_overhead.py [--batch 128] [--steps 20] [--repeats 5]

Prints, per network, the time of PGD inside jit over `steps` times one jitted
loss-and-input-gradient call outside any loop, the faster of stock `nn.Conv` and ours,
all timed in turn in this process.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust import attacks, losses, models

NETWORKS: dict[str, dict[str, Any]] = {
    "ssp_cifar": {"integrator": "ssp2", "blocks": 6},
    "wide_resnet": {"depth": 10, "width": 4},
}


def seconds(call: Callable[[], Any]) -> float:
    """Runs once and waits for the result."""
    begin = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - begin


def gradient_call(name: str, fields: dict[str, Any], loop_safe: bool) -> Callable:
    """Returns a jitted `(variables, x, y) -> loss and input gradient`."""
    model = models.create(name, loop_safe=loop_safe, **fields)

    @jax.jit
    def gradient(variables: Any, x: jax.Array, y: jax.Array) -> Any:
        logits_fn = models.logits_fn(model, variables)
        loss = lambda x: losses.cross_entropy(logits_fn(x), y).sum()  # noqa: E731
        return jax.value_and_grad(loss)(x)

    return gradient


def measure(name: str, batch: int, steps: int, repeats: int) -> dict[str, float]:
    """Returns median seconds of PGD and of both gradient calls."""
    fields = NETWORKS[name]
    model = models.create(name, **fields)
    x = jax.random.uniform(jax.random.key(0), (batch, 32, 32, 3))
    y = jnp.arange(batch) % 10
    key = jax.random.key(1)
    variables = jax.jit(lambda k: model.init(k, x, train=False))(key)

    @jax.jit
    def pgd(variables: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return attacks.pgd(
            models.logits_fn(model, variables),
            x,
            y,
            key=key,
            eps=8 / 255,
            step_size=2 / 255,
            steps=steps,
        )

    stock = gradient_call(name, fields, loop_safe=False)
    ours = gradient_call(name, fields, loop_safe=True)
    calls = {
        "pgd": lambda: pgd(variables, x, y),
        "stock": lambda: stock(variables, x, y),
        "ours": lambda: ours(variables, x, y),
    }
    for call in calls.values():
        seconds(call)
    times: dict[str, list[float]] = {k: [] for k in calls}
    for _ in range(repeats):
        for kind, call in calls.items():
            times[kind].append(seconds(call))
    return {kind: statistics.median(t) for kind, t in times.items()}


def main() -> None:
    """Prints one line per network."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    args = parser.parse_args()
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, batch {args.batch}")
    for name in args.networks:
        t = measure(name, args.batch, args.steps, args.repeats)
        bare = min(t["stock"], t["ours"])
        print(
            f"{name}: PGD-{args.steps} {t['pgd']:.2f} s; one gradient "
            f"{t['stock']:.3f} s (stock) {t['ours']:.3f} s (ours); "
            f"ratio {t['pgd'] / (args.steps * bare):.3f}"
        )


if __name__ == "__main__":
    main()
