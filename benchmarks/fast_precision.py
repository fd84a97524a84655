"""AutoAttack in bfloat16 with float32 verdicts, against float32 throughout.

    python -m benchmarks.fast_precision digits_ssp_pgd [--examples 200]

Attacks a network of the zoo with `precision='highest'`, then 'fast', and prints robust
accuracies, seconds per attack (compilation too) and their ratio. On a CPU, which has no
bfloat16, the second is slower.
"""

import argparse
import time

import jax

from jaxrobust import evaluation, models, zoo
from jaxrobust.evaluation.text import parse_radius


def main() -> None:
    """Reads the arguments, prints a line per precision and the ratio."""
    parser = argparse.ArgumentParser(description="AutoAttack at two precisions")
    parser.add_argument("name", choices=zoo.names())
    parser.add_argument("--examples", type=int, default=200)
    arguments = parser.parse_args()
    model, variables, card = zoo.load(arguments.name)
    x, y = zoo.images(card, arguments.examples)
    logits_fn, seconds = models.logits_fn(model, variables), {}
    for precision in ("highest", "fast"):
        begin = time.perf_counter()
        result = evaluation.autoattack(
            logits_fn, x, y,
            key=jax.random.key(0), eps=parse_radius(card.eps),
            precision=precision, progress=False,
        )  # fmt: skip
        seconds[precision] = time.perf_counter() - begin
        parts = {stage.name: round(stage.seconds, 1) for stage in result.stages}
        told = f"{precision}: robust {result.robust.mean():.4f} of {len(y)}, "
        print(told + f"{seconds[precision]:.1f} s, {parts}", flush=True)
    print(f"fast over highest: {seconds['fast'] / seconds['highest']:.2f}")


if __name__ == "__main__":
    main()
