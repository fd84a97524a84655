"""First and repeated eager calls of attacks, in milliseconds.

    python benchmarks/eager_calls.py [--repeats 10]

A Partial of a Linen model and a closure over its weights; a first call compiles (with
no compilation cache on disk), repeated calls have new weights each time.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrobust import attacks


class Cnn(nn.Module):
    """Two stock convolutions and a linear layer."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns ten logits."""
        for width in (8, 16):
            x = nn.relu(nn.Conv(width, (3, 3), strides=2)(x))
        return nn.Dense(10)(x.reshape(len(x), -1))


class Mlp(nn.Module):
    """Two linear layers."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns ten logits."""
        return nn.Dense(10)(nn.relu(nn.Dense(64)(x.reshape(len(x), -1))))


CASES: dict[str, tuple[type[nn.Module], Callable[..., Any]]] = {
    "pgd 10, cnn": (
        Cnn,
        lambda f, x, y, k: attacks.pgd(
            f, x, y, key=k, eps=0.03, step_size=0.01, steps=10
        ),
    ),
    "apgd 20, cnn": (
        Cnn,
        lambda f, x, y, k: attacks.apgd(f, x, y, key=k, eps=0.03, steps=20),
    ),
    "fgsm, mlp": (Mlp, lambda f, x, y, k: attacks.fgsm(f, x, y, key=k, eps=0.03)),
}


def measure(case: str, kind: str, repeats: int) -> tuple[float, float]:
    """Returns milliseconds of the first call, and the median of the others."""
    network, attack = CASES[case]
    model = network()
    x = jax.random.uniform(jax.random.key(1), (32, 16, 16, 3))
    y = jnp.arange(32) % 10
    key = jax.random.key(2)
    weights = [model.init(jax.random.key(s), x) for s in range(repeats + 1)]
    times = []
    for variables in jax.block_until_ready(weights):
        fn = (
            jax.tree_util.Partial(model.apply, variables)
            if kind == "partial"
            else lambda x, v=variables: model.apply(v, x)
        )
        start = time.perf_counter()
        jax.block_until_ready(attack(fn, x, y, key))
        times.append(1e3 * (time.perf_counter() - start))
    return times[0], statistics.median(times[1:])


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    repeats = parser.parse_args().repeats
    jax.config.update("jax_enable_compilation_cache", False)
    print(f"{'attack':16}{'model':10}{'first':>8}{'repeated':>10}  ms")
    for case in CASES:
        for kind in ("partial", "closure"):
            first, other = measure(case, kind, repeats)
            print(f"{case:16}{kind:10}{first:8.0f}{other:10.2f}")


if __name__ == "__main__":
    main()
