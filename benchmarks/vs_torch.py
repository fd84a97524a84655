"""Our PGD against torchattacks' PGD: same weights, same images, one run.

    pip install -e '.[torch]' && python benchmarks/vs_torch.py [--batch 64]

The network is the SSP paper's with plain residual blocks, written out in torch under
the original's names, imported by `convert.from_torch`. Both attacks run in float32 from
the clean image; the script checks that the logits agree before it times anything.
Prints seconds (median of `--repeats`, alternating; compilation apart) and ratios.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torchattacks  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

from jaxrobust import attacks, convert, models


class Block(nn.Module):
    """Pre-activation residual block; strided with a projected shortcut."""

    def __init__(self, channels: int, out: int, stride: int = 1) -> None:
        """Builds the layers under the original's names."""
        super().__init__()
        self.n1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1)
        self.n2 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1)
        self.downsample = None
        if stride > 1:
            projection = nn.Conv2d(channels, out, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [B, C, H, W] to [B, C', H', W']."""
        a = torch.relu(self.n1(x))
        residual = self.conv2(torch.relu(self.n2(self.conv1(a))))
        return residual + (x if self.downsample is None else self.downsample(a))


class Net(nn.Module):
    """Three stages of residual blocks: images [B, 3, 32, 32] to logits [B, 10]."""

    def __init__(self, blocks: int) -> None:
        """Builds the layers under the original's names."""
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, 1, 1)
        self.block1 = nn.Sequential(*[Block(16, 16) for _ in range(blocks)])
        self.sub1 = Block(16, 32, 2)
        self.block2 = nn.Sequential(*[Block(32, 32) for _ in range(blocks)])
        self.sub2 = Block(32, 64, 2)
        self.block3 = nn.Sequential(*[Block(64, 64) for _ in range(blocks)])
        self.fc = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps images to logits."""
        x = self.sub1(self.block1(self.conv(x)))
        x = self.block3(self.sub2(self.block2(x)))
        return self.fc(x.mean((2, 3)))


def seconds(call: Callable[[], Any]) -> float:
    """Runs once and waits for the result."""
    begin = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - begin


def build(blocks: int, batch: int) -> tuple[nn.Module, Any, np.ndarray, np.ndarray]:
    """Returns the torch network, the same as a logits function, images and labels."""
    torch.manual_seed(0)
    net = Net(blocks).eval()
    weights = {k: v.numpy() for k, v in net.state_dict().items()}
    model = models.create("ssp_cifar", integrator="res", blocks=blocks)
    logits_fn = models.logits_fn(model, convert.from_torch(model, weights))
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(batch, 32, 32, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = net(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    np.testing.assert_allclose(logits_fn(jnp.asarray(x)), theirs, rtol=1e-3, atol=1e-4)
    return net, logits_fn, x, np.argmax(theirs, 1)


def main() -> None:
    """Prints the times and their ratio."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    net, logits_fn, x, y = build(args.blocks, args.batch)
    settings = {"eps": 8 / 255, "steps": args.steps, "random_start": False}
    theirs = torchattacks.PGD(net, alpha=2 / 255, **settings)
    for memory in (torch.contiguous_format, torch.channels_last):
        net = net.to(memory_format=memory)  # pyright: ignore[reportCallIssue]
        xt = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
        xt, yt = xt.contiguous(memory_format=memory), torch.from_numpy(y)
        xj, yj = jnp.asarray(x), jnp.asarray(y)
        ours = lambda xj=xj, yj=yj: attacks.pgd(  # noqa: E731
            logits_fn, xj, yj, step_size=2 / 255, **settings
        )
        other = lambda xt=xt, yt=yt: theirs(xt, yt)  # noqa: E731
        first = seconds(ours)
        seconds(other)
        times = [(seconds(ours), seconds(other)) for _ in range(args.repeats)]
        a, b = (statistics.median(t) for t in zip(*times, strict=True))
        same = np.mean(
            np.abs(np.asarray(ours()) - other().numpy().transpose(0, 2, 3, 1)) < 1e-5
        )
        print(
            f"torch {torch.__version__} {memory}: jaxrobust {a:.2f} s (first call "
            f"{first:.2f} s), torchattacks {b:.2f} s, ratio {a / b:.2f}; "
            f"{same:.1%} of the pixels equal"
        )


if __name__ == "__main__":
    main()
