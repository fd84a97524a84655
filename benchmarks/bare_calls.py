"""Forward passes and image gradients of four networks, ours against torch's.

    pip install -e '.[torch]' && python -m benchmarks.bare_calls [--repeats 15]

The same weights and images in both, float32; the script checks that the logits agree.
Turns alternate (torch channels-first, ours, torch channels-last). A turn is calls in a
row for half a second after a pause, without which the other's threads would still be
waiting on the cores; the first half does not count: threads of either take some calls
to be awake. A ratio is the median of our time over that of the faster of torch's
layouts, turn by turn. Compilation is not counted. Measure on an idle machine.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

import jaxrobust
from benchmarks import small_cnn, torch_twins, vs_torch
from jaxrobust import models

PAUSE = 0.3  # seconds; OpenMP's threads wait actively for up to .2
TURN, LEAST = 0.5, 6  # seconds, and calls
Case = tuple[Any, nn.Module, tuple[int, int, int]]  # network, twin, image shape


class LeNet(nn.Module):
    """LeNet-5 with max pools, as the PC loss uses it."""

    def __init__(self) -> None:
        """Builds the layers under the original's names."""
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, 1, 2), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2 = nn.Linear(400, 120), nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps images [B, 1, 28, 28] to logits."""
        for conv in (self.conv1, self.conv2):
            x = nn.functional.max_pool2d(torch.relu(conv(x)), 2)
        x = torch.relu(self.fc2(torch.relu(self.fc1(x.flatten(1)))))
        return self.fc3(x)


class PreActBlock(nn.Module):
    """Pre-activation block whose shortcut starts after the first norm."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        """Builds the layers under the original's names."""
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(out)
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        if stride > 1:
            projection = nn.Conv2d(channels, out, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [B, C, H, W] to [B, C', H', W']."""
        a = torch.relu(self.bn1(x))
        kept = self.shortcut(a) if hasattr(self, "shortcut") else x
        return self.conv2(torch.relu(self.bn2(self.conv1(a)))) + kept


class PreActResNet(nn.Module):
    """PreAct-ResNet-18 for images [B, 3, 32, 32]."""

    def __init__(self) -> None:
        """Builds the layers under the original's names."""
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        channels = 64
        for k, out in enumerate((64, 128, 256, 512)):
            first = PreActBlock(channels, out, 2 if k else 1)
            stage = nn.Sequential(first, PreActBlock(out, out, 1))
            setattr(self, f"layer{k + 1}", stage)
            channels = out
        self.bn, self.linear = nn.BatchNorm2d(channels), nn.Linear(channels, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps images to logits."""
        x = self.conv1(x)
        for k in range(1, 5):
            x = getattr(self, f"layer{k}")(x)
        return self.linear(torch.relu(self.bn(x)).mean((2, 3)))


def small() -> Case:
    """Three convolutions, no normalisation."""
    model = small_cnn.build()
    variables = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    return (model, variables), small_cnn.to_torch(variables), (32, 32, 3)


def twin(name: str, net: nn.Module, shape: tuple[int, int, int], **fields: Any) -> Case:
    """Gives the torch network the weights of ours."""
    model = models.create(name, num_classes=10, **fields)
    variables = model.init(jax.random.key(0), jnp.zeros((1, *shape)), train=False)
    torch_twins.fill(net, model, {"batch_stats": {}, **variables})
    return (model, variables), net, shape


CASES: Mapping[str, tuple[Callable[[], Case], tuple[int, ...]]] = {
    "small CNN": (small, (32, 128)),
    "ssp_cifar res, N = 3": (
        lambda: twin("ssp_cifar", vs_torch.Net(3), (32, 32, 3), blocks=3),
        (8, 32),
    ),
    "preact_resnet 18": (
        lambda: twin("preact_resnet", PreActResNet(), (32, 32, 3)),
        (4,),
    ),
    "lenet5": (lambda: twin("lenet5", LeNet(), (28, 28, 1)), (32, 128)),
}


def calls(case: Case, batch: int) -> dict[str, list[Callable[[], Any]]]:
    """Returns ours and torch's two layouts for a forward pass and a gradient."""
    (model, variables), net, shape = case
    net = net.eval()
    x = np.random.default_rng(0).uniform(size=(batch, *shape)).astype(np.float32)
    y = np.arange(batch) % 10

    def logits(variables: Any, x: jax.Array) -> jax.Array:
        return model.apply(variables, x, train=False).logits

    def loss(variables: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        rows = jnp.arange(len(y))
        return -jnp.sum(jax.nn.log_softmax(logits(variables, x))[rows, y])

    forward, gradient = jax.jit(logits), jax.jit(jax.grad(loss, 1))
    xj, yj = jnp.asarray(x), jnp.asarray(y)
    found = {
        "forward": [lambda: forward(variables, xj)],
        "gradient": [lambda: gradient(variables, xj, yj)],
    }
    for layout in (torch.contiguous_format, torch.channels_last):
        xt = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
        xt = xt.contiguous(memory_format=layout)
        yt = torch.from_numpy(y)

        def torch_forward(xt: Any = xt) -> Any:
            with torch.no_grad():
                return net(xt)

        def torch_gradient(xt: Any = xt, yt: Any = yt) -> Any:
            leaf = xt.detach().requires_grad_()
            value = nn.functional.cross_entropy(net(leaf), yt, reduction="sum")
            return torch.autograd.grad(value, leaf)[0]

        found["forward"].append(torch_forward)
        found["gradient"].append(torch_gradient)
    ours, theirs = (np.asarray(call()) for call in found["forward"][:2])
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
    return found


def turn(call: Callable[[], Any]) -> float:
    """Returns the seconds of a call, the median of the second half of a turn."""
    time.sleep(PAUSE)
    found, end = [], time.monotonic() + TURN
    while len(found) < LEAST or time.monotonic() < end:
        found.append(vs_torch.seconds(call))
    return statistics.median(found[len(found) // 2 :])


def main() -> None:
    """Prints a row per network, batch and kind of call."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--only", default="", help="networks whose name has this")
    args = parser.parse_args()
    jaxrobust.tune_cpu()
    for name, (build, batches) in CASES.items():
        if args.only not in name:
            continue
        case = build()
        for batch in batches:
            for kind, (ours, *theirs) in calls(case, batch).items():
                for call in (ours, *theirs):
                    vs_torch.seconds(call)
                rows = [
                    [turn(call) for call in (theirs[0], ours, theirs[1])]
                    for _ in range(args.repeats)
                ]
                ratio = statistics.median(a / min(b, c) for b, a, c in rows)
                first, mine, last = (
                    1e3 * statistics.median(t) for t in zip(*rows, strict=True)
                )
                print(
                    f"{name} / {batch}, {kind}: ours {mine:.2f} ms, torch {first:.2f} "
                    f"(channels last {last:.2f}), ratio {ratio:.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
