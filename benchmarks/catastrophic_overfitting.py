"""What FGSM training loses at a radius, and what GradAlign and N-FGSM keep.

    python -m benchmarks.catastrophic_overfitting [--method fgsm align noise] [--eps .3]

Trains the quickstart's network on 4,000 images of MNIST, for 8 epochs and with a
triangle of the rate, once per method, and attacks 1,000 test images with FGSM and APGD
(30 steps) at the same radius. Two to three minutes for a method on two CPU cores.
"""

import argparse
import json
import pathlib
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxrobust
from jaxrobust import attacks, checkpoints, data, models, parallel
from jaxrobust.results.files import read_metrics
from jaxrobust.training import config as common
from jaxrobust.training import config_file, loop

METHODS: dict[str, dict[str, Any]] = {
    "fgsm": {"start": "image"},
    "align": {"start": "image", "grad_align": 0.5},
    "noise": {"start": "noise", "noise": 1.0},
    "rs": {"start": "ball"},
}


def settings(method: str, eps: float, epochs: float, seed: int) -> dict[str, Any]:
    """Returns the config of a method."""
    config: Any = config_file.load("quickstart")
    config.twin, config.seed, config.name = "", seed, method
    config.data.update(name="mnist", image_size=0, train_examples=5000)
    config.data.update(validation_examples=1000)
    common.use_radius(config, f"{eps}", f"{eps / 4}", steps=1)
    config.attack.step_size = f"{1.25 * eps if method == 'rs' else eps}"
    config.objective.update(name="fast", **METHODS[method])
    config.schedule.name = "cyclic"
    config.optimizer.learning_rate = 0.2
    config.train.update(epochs=epochs, validate_every_epochs=1.0)
    config.validation.batch_size = 250
    config.log.writers = ()
    return config.to_dict()


def measure(method: str, eps: float, epochs: float, seed: int) -> dict[str, Any]:
    """Trains one network and attacks it."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        fields = settings(method, eps, epochs, seed)
        loop.train(fields, folder, parallel.make_mesh())
        rows = read_metrics(pathlib.Path(folder) / "metrics.jsonl")
        model, variables, _ = checkpoints.load(folder, "last")
    seconds = time.monotonic() - begin
    test = data.load("mnist", "test", limit=1000)
    x, y = jnp.asarray(test.images / np.float32(255)), jnp.asarray(test.labels)
    logits_fn = models.logits_fn(model, variables)
    found: dict[str, Any] = {"clean": x}
    found["fgsm"] = attacks.fgsm(logits_fn, x, y, eps=eps)
    key = jax.random.key(1)
    found["apgd"] = attacks.apgd(logits_fn, x, y, key=key, eps=eps, steps=30)
    right = {k: logits_fn(images).argmax(1) == y for k, images in found.items()}
    accuracies = {k: round(float(v.mean()), 3) for k, v in right.items()}
    robust = [row.get("validation/robust_accuracy") for row in rows]
    path = [round(value, 3) for value in robust if value is not None]
    return {"method": method, **accuracies, "pgd10": path, "seconds": round(seconds)}


def main() -> None:
    """Prints a line for each method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", nargs="+", default=["fgsm", "align"])
    parser.add_argument("--eps", type=float, default=0.3)
    parser.add_argument("--epochs", type=float, default=8.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    jaxrobust.tune_cpu()
    for method in args.method:
        line = measure(method, args.eps, args.epochs, args.seed)
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
