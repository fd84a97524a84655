"""Defences by preprocessing: an attack that knows nothing of them, and one that does.

    python -m benchmarks.preprocessing_defences --eps 0.1 --examples 200

Unaware: PGD (40 steps, from one random point) on the network alone, its images handed
to the defended one. Adaptive: PGD on the defended network, past what has no gradient or
through it, by cross-entropy and by the margin (each image's worst), by the mean over 10
draws where it is random. Square is asked as a check. For the detector an attacked image
stands if it is classified rightly or rejected; the adaptive attack is APGD on the joint
loss and on the network and its squeezed copies together.
"""

import argparse
import itertools
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust import attacks, models, preprocessing, tune_cpu, zoo
from jaxrobust.evaluation import detectors

DRAWS, STEPS = 10, 40
DETECTOR = "squeezing"
ASIDE = 500  # images that set the detector's threshold
KEY = jax.random.key(0)
BOTH = ("past", "through")
DEFENCES: dict[str, Any] = {
    "none": (lambda fn: fn, ({},)),
    "JPEG, quality 75": (preprocessing.jpeg, ({"quality": 75},)),
    "JPEG, quality 25": (preprocessing.jpeg, ({"quality": 25},)),
    "3 bits": (preprocessing.bit_depth, ({"bits": 3},)),
    "1 bit": (preprocessing.bit_depth, ({"bits": 1},)),
    "median, 3 x 3": (preprocessing.median, [{"gradient": g} for g in BOTH]),
    "total variation, .1": (
        preprocessing.total_variation,
        [{"weight": 0.1, "gradient": g} for g in BOTH],
    ),
    "resizing and padding, .8": (preprocessing.resize_and_pad, ({"smallest": 0.8},)),
}


def correct(fn, x, y, random):
    """Whether images are right; of a random network in half of 20 fresh draws."""
    if not random:
        return fn(x).argmax(1) == y
    keys = jax.random.split(jax.random.key(1), (20, len(x)))
    votes = jax.lax.map(lambda own: fn(x, own).argmax(1) == y, keys)
    return votes.mean(0) >= 0.5


def main() -> None:
    """Prints a row for each defence, and one for a detector."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mnist_lenet5_standard_0")
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--only", default="", help="rows with this in their names")
    parser.add_argument("--queries", type=int, default=300)
    args = parser.parse_args()
    tune_cpu()
    model, variables, _ = zoo.load(args.model)
    logits_fn = models.logits_fn(model, variables)
    n = args.examples
    images, labels = zoo.images(zoo.card(args.model), n + ASIDE)
    x, y = images[:n], labels[:n]
    given = {"key": KEY, "eps": args.eps, "step_size": args.eps / 10, "steps": STEPS}
    unaware = attacks.pgd(logits_fn, x, y, **given)
    print(f"{'defence':28}{'clean':>8}{'unaware':>8}{'adaptive':>8}{'Square':>8}")
    chosen = {k: v for k, v in DEFENCES.items() if args.only in k}
    for name, (wrap, variants) in chosen.items():
        random = wrap is preprocessing.resize_and_pad
        options = {"stochastic": True, "eot_samples": DRAWS} if random else {}
        stands = jnp.ones(n, bool)
        for variant, loss in itertools.product(variants, ("ce", "margin")):
            fn = wrap(logits_fn, **variant)
            x_adv = attacks.pgd(fn, x, y, **given, **options, loss=loss)
            stands &= correct(fn, x_adv, y, random)
        fn = wrap(logits_fn, **variants[0])
        asked = {"key": KEY, "eps": args.eps, "queries": args.queries}
        squared = attacks.square(fn, x, y, **asked, stochastic=random)
        row = [correct(fn, z, y, random) for z in (x, unaware, squared)]
        tell(name, *row[:2], stands, row[2])
    one_bit = preprocessing.bit_depth(logits_fn, bits=1)
    median = preprocessing.median(logits_fn, window=2)
    detector = {"1 bit, median": [one_bit, median], "median": [median]}
    for squeezers, squeezed in detector.items() if args.only in DETECTOR else ():
        name = f"{DETECTOR}, {squeezers}"
        detected(name, logits_fn, squeezed, (images, labels, unaware), args)


def detected(name, logits_fn, squeezed, held, args) -> None:
    """Prints the row of a detector, whose threshold other images set."""
    n, (images, labels, unaware) = args.examples, held
    x, y = images[:n], labels[:n]
    detector = detectors.feature_squeezing(logits_fn, squeezed)
    threshold = detectors.threshold_at(detector(images[n:]), 0.05)

    def stand(z, attacked=True):
        logits, scores = logits_fn(z), detector(z)
        return detectors.stands(logits, y, scores, threshold, attacked=attacked)

    both = detectors.fooling_both(logits_fn, detector, threshold, spread=0.1)
    parts = attacks.mean_loss([logits_fn, *squeezed], "margin")
    stands = jnp.ones(n, bool)
    for loss in (both, parts):
        apgd = {"key": KEY, "eps": args.eps, "steps": STEPS, "best_loss": True}
        stands &= stand(attacks.apgd(logits_fn, x, y, **apgd, loss=loss))
    tell(name, stand(x, attacked=False), stand(unaware), stands)
    print(f"threshold {threshold:.4f}, set on {ASIDE} other images")


def tell(name, *shares) -> None:
    """Prints a row of shares in percent."""
    cells = (f"{100 * float(jnp.mean(right)):8.1f}" for right in shares)
    print(f"{name:28}", *cells, sep="", flush=True)


if __name__ == "__main__":
    main()
