"""Convolutions of few channels on the CPU: what _conv.py writes, and the kernel.

    python -m benchmarks.narrow_convolutions [--repeats 15]

Milliseconds (median) of a forward pass by the backend's kernel, as a product of patches
and as a sum over places, and of the gradient to the input by the kernel and scattered.
The thresholds at the top of _conv.py come from here. Measure on an idle machine.
"""

import argparse
import functools
import statistics
import timeit
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxrobust
from jaxrobust import _conv

# Batch, side, input and output channels, side of the kernel, stride, padding.
SHAPES = [
    (32, 28, 1, 6, 5, 1, 2),
    (32, 14, 6, 16, 5, 1, 0),
    (32, 28, 1, 64, 3, 1, 1),
    (32, 32, 3, 16, 3, 1, 1),
    (32, 32, 3, 32, 3, 1, 1),
    (32, 32, 3, 64, 3, 1, 1),
    (32, 32, 3, 32, 3, 2, 1),
    (32, 14, 16, 16, 3, 1, 1),
    (32, 32, 16, 32, 3, 2, 1),
    (32, 16, 32, 64, 3, 2, 1),
    (4, 32, 64, 128, 3, 2, 1),
]


def median(function: Callable[..., Any], *args: Any, repeats: int) -> float:
    """Returns milliseconds of a compiled call."""
    jitted = jax.jit(function)
    jax.block_until_ready(jitted(*args))
    run = lambda: jax.block_until_ready(jitted(*args))  # noqa: E731
    return 1e3 * statistics.median(timeit.repeat(run, number=1, repeat=repeats))


def main() -> None:
    """Prints a row per shape."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    jaxrobust.tune_cpu()
    rng = np.random.default_rng(0)
    for batch, side, channels, features, size, stride, pad in SHAPES:
        form = _conv.Form((stride,) * 2, ((pad, pad),) * 2, 1, None)
        x = jnp.asarray(rng.normal(size=(batch, side, side, channels)), jnp.float32)
        shape = size, size, channels, features
        kernel = jnp.asarray(rng.normal(size=shape), jnp.float32)
        out = _conv._plain(x, kernel, form)
        row = []
        for way in (_conv._plain, _conv._patch_product, _conv._sum_of_places):
            run = functools.partial(way, form=form)
            row.append(median(run, x, kernel, repeats=repeats))
        for way in (_conv._flipped, _conv._scattered):
            run = functools.partial(way, shape=x.shape, form=form)
            row.append(median(run, out, kernel, repeats=repeats))
        print(
            f"{batch}x{side}x{side}x{channels} -> {features}, {size}x{size} "
            f"stride {stride}: kernel {row[0]:.2f}, patches {row[1]:.2f}, "
            f"sum {row[2]:.2f}; gradient: kernel {row[3]:.2f}, scattered {row[4]:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
