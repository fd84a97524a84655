"""What can be proved of the zoo's networks, beside what AutoAttack leaves.

    python -m benchmarks.proved [NAME ...] [--examples 100] [--methods ibp crown_ibp]

Per network: accuracy on the first images of its test set, what AutoAttack left (its
card), then per method the share that is proved at the card's radius and the largest
radii that are proved: median and best over the images that are classified rightly.
"""

import argparse
import time
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxrobust import certify, models, tune_cpu, zoo
from jaxrobust.evaluation.text import parse_radius

HALVINGS = 8


def row(name: str, examples: int, batch: int, methods: Any) -> str:
    """Returns what a network's line says."""
    model, variables, card = zoo.load(name)
    x, y = zoo.images(card, examples)
    logits_fn, eps = models.logits_fn(model, variables), parse_radius(card.eps)
    right = np.asarray(logits_fn(x).argmax(1) == y)
    norm: Any = card.norm
    parts = [f"{name}: clean {right.mean():.1%}, eps {card.eps} {card.norm}"]
    for method in methods:
        begin, radii = time.perf_counter(), []
        for i in range(0, len(x), batch):
            rows = slice(i, i + batch)
            found = certify.radius(
                logits_fn, x[rows], y[rows],
                eps=eps, norm=norm, method=method, halvings=HALVINGS,
            )  # fmt: skip
            radii.append(np.asarray(found))
        radii = np.where(right, np.concatenate(radii), 0)
        # Bisection ends below the radius itself.
        proved = (radii > eps * (1 - 2.0 ** (1 - HALVINGS))).mean()
        parts.append(
            f"{method}: proved {proved:.1%}, radii median {np.median(radii[right]):.2g}"
            f", best {jnp.max(radii):.2g}, {time.perf_counter() - begin:.0f} s"
        )
    return "; ".join(parts)


def main() -> None:
    """Reads the arguments and prints a line per network."""
    parser = argparse.ArgumentParser(description="What can be proved of the zoo.")
    parser.add_argument("names", nargs="*", default=zoo.names())
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--methods", nargs="+", default=["ibp", "crown_ibp"])
    given = parser.parse_args()
    tune_cpu()
    for name in given.names or zoo.names():
        print(row(name, given.examples, given.batch, given.methods), flush=True)


if __name__ == "__main__":
    main()
