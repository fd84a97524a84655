"""Our AutoAttack against the reference's: same weights, same images, one run.

    pip install -e '.[torch]'
    python -m benchmarks.autoattack_vs_reference RUN [--examples 200] [--out FILE]
        [--model benchmarks.small_cnn:build]

RUN is the work directory of a network of `benchmarks/small_cnn.py`, or of `ssp_cifar`
with plain blocks, trained by the program. The reference is the package `autoattack`
where it can be imported (a clone of the authors' repository on PYTHONPATH), else
`pyautoattack` of the extra. Our time has everything in it, compilation too (keep
JAX_COMPILATION_CACHE_DIR unset). Finished parts are kept in FILE, so the script can be
run again. It prints

- plain ratio: our wall time over the reference's (bar .2 on a plainly trained network;
  the figure on a GPU);
- overhead: our time over the bare cost of the gradient and forward calls that the
  images need, timed at the shape of our slots in this run (bar 1.15 on an adversarially
  trained network): first by the calls that we made for images in the slots, then by
  the reference's rules;
- ratio of one bare gradient call, ours over torch's, at one shape;
- corrected ratio: plain ratio over that (bar .8, likewise);

and every image on which the two disagree. The rules, per image and attack in Linf and
L2: APGD 101 gradients and 2 forward passes, APGD-T 909 and 11, FAB-T 900 and 929,
Square 5,004 forward passes.
"""

import argparse
import inspect
import json
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from benchmarks.torch_twins import twin_of
from jaxrobust import checkpoints, evaluation, losses, models
from jaxrobust.evaluation.evaluator import load_test
from jaxrobust.evaluation.setting import picked

# Gradients and forward passes of one image in Linf and L2, standard version.
FORMULAS = {
    "apgd-ce": (101, 2),
    "apgd-t": (909, 11),
    "fab-t": (900, 929),
    "square": (0, 5004),
}
NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def reference() -> Any:
    """Returns the reference's class."""
    try:
        from autoattack import (  # pyright: ignore[reportMissingImports]
            AutoAttack,
        )
    except ImportError:
        from pyautoattack import (  # pyright: ignore[reportMissingImports]
            AutoAttack,
        )
    return AutoAttack


def median_seconds(
    calls: dict[str, Callable[[], Any]], repeats: int
) -> dict[str, float]:
    """Times calls in turns, after one each that does not count."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(found) for name, found in times.items()}


def bare(
    model: Any, variables: Any, net: Any, x: np.ndarray, y: np.ndarray, args: Any
) -> dict[str, float]:
    """Times one gradient and one forward call of both sides at the shape of `x`."""

    @jax.jit
    def gradient(variables: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        def loss(x: jax.Array) -> jax.Array:
            logits = models.logits_fn(model, variables)(x)
            return losses.cross_entropy(logits, y).sum()

        return jax.grad(loss)(x)

    @jax.jit
    def forward(variables: Any, x: jax.Array) -> jax.Array:
        return models.logits_fn(model, variables)(x)

    xj, yj = jnp.asarray(x), jnp.asarray(y)
    xt, yt = to_torch(x, y, args.device)

    def torch_gradient() -> None:
        z = xt.clone().requires_grad_()
        loss = torch.nn.functional.cross_entropy(net(z), yt, reduction="sum")
        torch.autograd.grad(loss, z)[0].sum().item()  # waits for the device

    def torch_forward() -> None:
        with torch.no_grad():
            net(xt).sum().item()

    calls = {
        "gradient": lambda: gradient(variables, xj, yj).block_until_ready(),
        "torch_gradient": torch_gradient,
        "forward": lambda: forward(variables, xj).block_until_ready(),
        "torch_forward": torch_forward,
    }
    return median_seconds(calls, args.repeats)


def run_ours(logits_fn: Any, x: np.ndarray, y: np.ndarray, args: Any) -> dict[str, Any]:
    """Runs our AutoAttack."""
    begin = time.perf_counter()
    result = evaluation.autoattack(
        logits_fn, x, y, key=jax.random.key(args.seed), eps=args.eps, norm=args.norm,
        slots=args.slots,
    )  # fmt: skip
    seconds = time.perf_counter() - begin
    return {
        "seconds": seconds,
        "clean": result.clean.tolist(),
        "robust": result.robust.tolist(),
        "gradients": sum(stage.calls.gradients for stage in result.stages),
        "forwards": sum(stage.calls.forwards for stage in result.stages),
        "stages": [
            {
                "name": stage.name,
                "robust_accuracy": float(stage.robust.mean()),
                "seconds": stage.seconds,
                "calls": stage.calls._asdict(),
            }
            for stage in result.stages
        ],
        "flags": [flag["name"] for flag in result.flags],
    }


def to_torch(x: np.ndarray, y: np.ndarray, device: str) -> tuple[Any, Any]:
    """Returns images [N, C, H, W] and labels on a device."""
    images = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    return images.to(device), torch.from_numpy(y.astype(np.int64)).to(device)


def run_theirs(net: Any, x: np.ndarray, y: np.ndarray, args: Any) -> dict[str, Any]:
    """Runs the reference and looks at its images once more."""
    xt, yt = to_torch(x, y, args.device)
    attack = reference()(
        net, norm=NORMS[args.norm], eps=args.eps, seed=args.seed, device=args.device
    )
    evaluate = attack.run_standard_evaluation
    known = inspect.signature(evaluate).parameters
    size = {"bs" if "bs" in known else "batch_size": args.batch}
    begin = time.perf_counter()
    x_adv = evaluate(xt, yt, **size)
    seconds = time.perf_counter() - begin
    if isinstance(x_adv, tuple):
        x_adv = x_adv[0]
    with torch.no_grad():
        robust = torch.cat([net(part).argmax(1) for part in x_adv.split(args.batch)])
    return {"seconds": seconds, "robust": (robust == yt).tolist()}


def by_formula(ours: dict[str, Any]) -> tuple[int, int]:
    """Counts the calls of the reference's rules, per image up to where it fell."""
    gradients, forwards, left = 0.0, 0.0, float(np.sum(ours["clean"]))
    for stage in ours["stages"]:
        per_image = FORMULAS[stage["name"]]
        gradients += left * per_image[0]
        forwards += left * per_image[1]
        left = stage["robust_accuracy"] * len(ours["clean"])
    return round(gradients), round(forwards)


def report(found: dict[str, Any], slots: int) -> None:
    """Prints the figures."""
    ours, theirs, times = found["ours"], found["theirs"], found["bare"]
    robust, other = np.asarray(ours["robust"]), np.asarray(theirs["robust"])
    for stage in ours["stages"]:
        print(f"  {stage['name']}: {stage['robust_accuracy']:.3%}  "
              f"{stage['seconds']:.1f} s  {stage['calls']}")  # fmt: skip
    cost = ours["gradients"] * times["gradient"] + ours["forwards"] * times["forward"]
    cost /= slots
    ratio = ours["seconds"] / theirs["seconds"]
    calls = times["gradient"] / times["torch_gradient"]
    print(f"images {len(robust)}, clean {np.mean(ours['clean']):.3%}, robust: ours "
          f"{robust.mean():.3%}, reference {other.mean():.3%}")  # fmt: skip
    differing = [
        (int(i), "robust here" if robust[i] else "robust there")
        for i in np.flatnonzero(robust != other)
    ]
    print(f"{len(differing)} differing images: {differing}")
    print(f"bare calls at {slots} images, ms: "
          f"{ {k: round(1e3 * v, 2) for k, v in times.items()} }")  # fmt: skip
    print(f"ours {ours['seconds']:.1f} s, reference {theirs['seconds']:.1f} s: plain "
          f"ratio {ratio:.3f}")  # fmt: skip
    print(f"bare cost of {ours['gradients']} gradients and {ours['forwards']} forward "
          f"passes {cost:.1f} s: overhead {ours['seconds'] / cost:.3f}")  # fmt: skip
    gradients, forwards = by_formula(ours)
    cost = gradients * times["gradient"] + forwards * times["forward"]
    cost /= slots
    print(f"by the reference's rules, all of each attack up to the one that fools: "
          f"{gradients} and {forwards}, {cost:.1f} s: overhead "
          f"{ours['seconds'] / cost:.3f}")  # fmt: skip
    print(f"one bare gradient, ours over torch's {calls:.3f}: corrected ratio "
          f"{ratio / calls:.3f}")  # fmt: skip


def main() -> None:
    """Runs what is not in the file yet and prints the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", help="of your own, as the run's config names it")
    parser.add_argument("run")
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--norm", default="linf", choices=list(NORMS))
    parser.add_argument("--eps", type=float, default=8 / 255)
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--batch", type=int, default=250, help="of the reference")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="of torch")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--which", default="last")
    parser.add_argument("--out", default="")
    args = parser.parse_args()
    model, variables, config = checkpoints.load(
        args.run, args.which, model_name=args.model
    )
    config["data"]["test_examples"] = 0
    dataset = load_test(config)
    rows = picked(len(dataset.labels), args.examples)
    x, y = dataset.images[rows].astype(np.float32) / 255, dataset.labels[rows]
    net = twin_of(model, variables).to(args.device)
    logits_fn = models.logits_fn(model, variables)
    path = pathlib.Path(args.out) if args.out else None
    found = json.loads(path.read_text()) if path and path.exists() else {}
    some = (x[: args.slots], y[: args.slots])
    parts = {
        "ours": lambda: run_ours(logits_fn, x, y, args),
        "bare": lambda: bare(model, variables, net, *some, args),
        "theirs": lambda: run_theirs(net, x, y, args),
    }
    with torch.no_grad():
        theirs = net(to_torch(*some, args.device)[0]).cpu().numpy()
    np.testing.assert_allclose(logits_fn(jnp.asarray(some[0])), theirs, atol=1e-3)
    for name, part in parts.items():
        if name not in found:
            found[name] = part()
            if path:
                path.write_text(json.dumps(found))
    print(f"{args.run}, {args.norm}, eps {args.eps:.5g}, jax {jax.__version__} on "
          f"{jax.devices()[0].device_kind}, torch {torch.__version__}")  # fmt: skip
    report(found, args.slots)


if __name__ == "__main__":
    main()
