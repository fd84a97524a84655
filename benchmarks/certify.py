"""Times bounds beside auto_LiRPA's, on the same network and images in one process.

    pip install torch auto-lirpa==0.3
    python -m benchmarks.certify

A convolutional network of 28 px images, batch 32: seconds of the first call (which
compiles) and the median of later ones, and the largest difference of the margins.
"""

import importlib.util
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import certify, tune_cpu

BATCH, EPS, CLASSES, REPEATS = 32, 0.02, 10, 3
GOLDEN = pathlib.Path(__file__).parents[1] / "tests" / "golden" / "make_certify.py"


def weights() -> dict[str, np.ndarray]:
    """Returns random weights: two convolutions with strides, two dense layers."""
    rng = np.random.default_rng(0)
    shapes = {
        "conv1": (4, 4, 1, 8),
        "conv2": (4, 4, 8, 16),
        "dense1": (784, 64),
        "dense2": (64, CLASSES),
    }
    return {
        name: (rng.normal(size=s) / np.sqrt(np.prod(s[:-1]))).astype(np.float32)
        for name, s in shapes.items()
    }


class Network(nn.Module):
    """The network as a function of `[B, 28, 28, 1]`."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns logits `[B, 10]`."""
        for name, features in (("conv1", 8), ("conv2", 16)):
            conv = nn.Conv(features, (4, 4), 2, 1, use_bias=False, name=name)
            x = nn.relu(conv(x))
        # PyTorch's order of what is flattened.
        x = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
        x = nn.relu(nn.Dense(64, use_bias=False, name="dense1")(x))
        return nn.Dense(CLASSES, use_bias=False, name="dense2")(x)


def ours(held: dict[str, np.ndarray]) -> Any:
    """Returns the network with these weights."""
    kernels = {name: {"kernel": jnp.asarray(value)} for name, value in held.items()}
    return jax.tree_util.Partial(Network().apply, {"params": kernels})


def theirs(held: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray) -> Any:
    """Returns a function from a method to auto_LiRPA's margins."""
    spec = importlib.util.spec_from_file_location("make_certify", GOLDEN)
    assert spec is not None
    assert spec.loader is not None
    made: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    torch, nn = made.torch, made.nn
    net = nn.Sequential(
        nn.Conv2d(1, 8, 4, 2, 1), nn.ReLU(),
        nn.Conv2d(8, 16, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, CLASSES),
    )  # fmt: skip
    axes = {4: (3, 2, 0, 1), 2: (1, 0)}
    layers = [one for one in net if hasattr(one, "weight")]
    for layer, value in zip(layers, held.values(), strict=True):
        turned = np.ascontiguousarray(value.transpose(axes[value.ndim]))
        layer.weight.data = torch.from_numpy(turned)
        layer.bias.data.zero_()
    images = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    bounded = made.BoundedModule(net, torch.zeros_like(images))
    given = made.BoundedTensor(
        images, made.PerturbationLpNorm(norm=float("inf"), eps=EPS)
    )
    others = torch.tensor([[j for j in range(CLASSES) if j != i] for i in y.tolist()])
    forms = (
        torch.eye(CLASSES)[torch.from_numpy(y)][:, None] - torch.eye(CLASSES)[others]
    )

    def run(method: str) -> np.ndarray:
        with torch.no_grad():
            low, _ = bounded.compute_bounds(x=(given,), method=method, C=forms)
        return low.min(1).values.numpy()

    return run


def timed(call: Callable[[], Any]) -> tuple[float, float, np.ndarray]:
    """Returns seconds of the first call and of later ones, and the result."""
    seconds, out = [], np.zeros(0)
    for _ in range(REPEATS + 1):
        begin = time.perf_counter()
        out = np.asarray(call())
        seconds.append(time.perf_counter() - begin)
    return seconds[0], statistics.median(seconds[1:]), out


def main() -> None:
    """Prints a line for each method."""
    tune_cpu()
    held, rng = weights(), np.random.default_rng(1)
    x = rng.uniform(0.2, 0.8, (BATCH, 28, 28, 1)).astype(np.float32)
    fn = ours(held)
    images = jnp.asarray(x)
    y = jnp.argmax(fn(images), 1)
    other = theirs(held, x, np.asarray(y))
    print("method      ours first  later  auto_LiRPA first  later  ratio  difference")
    for method in ("ibp", "crown_ibp", "crown"):
        mine = timed(lambda m=method: certify.margin(fn, images, y, eps=EPS, method=m))
        name = method.upper().replace("_", "-")
        peer = timed(lambda n=name: other(n))
        gap = np.abs(mine[2] - peer[2]).max()
        print(
            f"{method:10} {mine[0]:11.2f} {mine[1]:6.3f} {peer[0]:17.2f} {peer[1]:6.3f}"
            f" {mine[1] / peer[1]:6.2f} {gap:11.1e}"
        )


if __name__ == "__main__":
    main()
