"""What torchattacks' transfer attacks do, for tests/attacks/test_transfer_attacks.py.

    python tests/golden/make_ta_transfer.py

needs torch and torchattacks 3.5.1. On network and images of ta_mifgsm.npz, in float64,
it keeps the images of attacks without randomness (NCHW, stored as float32) and which of
them rounding does not move (`stable`: equal where the weights change by 1e-9); the
images that torch's bilinear resizing makes; and, for attacks that draw at random, the
share of images that each of some runs leaves right on the zoo's digits_ssp_standard (a
JAX network, called through a torch function; DI draws once for all images, so it has
more runs). Written beside this script: ta_transfer.npz.
"""

import pathlib

import jax
import numpy as np
import torch
import torchattacks
from torch.nn import functional

from jaxrobust import models, zoo

HERE = pathlib.Path(__file__).parent
EPS, STEP = 8 / 255, 2 / 255
DIGITS = {"eps": 0.1, "alpha": 0.02, "steps": 10}


class Net(torch.nn.Module):
    """Three tanh convolutions and a linear layer."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        """Takes the weights."""
        super().__init__()
        for name, value in state.items():
            self.register_buffer(name.replace(".", "_"), value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes logits."""
        for i, stride in enumerate((1, 2, 2), 1):
            weight, bias = (getattr(self, f"conv{i}_{p}") for p in ("weight", "bias"))
            x = torch.tanh(functional.conv2d(x, weight, bias, stride, 1))
        return x.flatten(1) @ self.fc_weight.T + self.fc_bias


def cases(net: Net) -> dict[str, torchattacks.attack.Attack]:
    """Returns the attacks without randomness: no neighbourhood, no resizing."""
    same = {"eps": EPS, "alpha": STEP, "steps": 10, "decay": 1.0}

    def smooth(kernel: str, length: int) -> torchattacks.attack.Attack:
        options = {"kernel_name": kernel, "len_kernel": length, "diversity_prob": 0.0}
        attack = torchattacks.TIFGSM(net, **same, **options)
        make = {
            "gaussian": attack.gkern,
            "uniform": attack.ukern,
            "linear": attack.lkern,
        }
        one = torch.from_numpy(make[kernel](length))
        attack.stacked_kernel = one.expand(3, 1, length, length).contiguous()
        return attack

    return {
        "nim": torchattacks.NIFGSM(net, **same),
        "sim": torchattacks.SINIFGSM(net, **same, m=5),
        "vmim": torchattacks.VMIFGSM(net, **same, N=2, beta=0.0),
        "vnim": torchattacks.VNIFGSM(net, **same, N=2, beta=0.0),
        "tim_gaussian": smooth("gaussian", 15),
        "tim_uniform": smooth("uniform", 7),
        "tim_linear": smooth("linear", 5),
    }


class Called(torch.autograd.Function):
    """A JAX function of NHWC images, with its gradient."""

    @staticmethod
    def forward(ctx, x, apply):
        """Computes it, and keeps how it is pulled back."""
        out, ctx.pull = jax.vjp(apply, x.detach().numpy().transpose(0, 2, 3, 1))
        return torch.from_numpy(np.array(out))

    @staticmethod
    def backward(ctx, grad):
        """Pulls a gradient back."""
        (x,) = ctx.pull(grad.numpy())
        return torch.from_numpy(np.array(x).transpose(0, 3, 1, 2)), None


class Digits(torch.nn.Module):
    """The zoo's network."""

    def __init__(self) -> None:
        """Loads it."""
        super().__init__()
        model, variables, self.card = zoo.load("digits_ssp_standard")
        self.apply_ = jax.jit(models.logits_fn(model, variables))
        self.device = torch.device("cpu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes logits."""
        return Called.apply(x, self.apply_)


def rates() -> dict[str, np.ndarray]:
    """Returns the share of images that each run leaves right."""
    net = Digits()
    x, y = zoo.images(net.card)
    x = torch.from_numpy(np.array(x).transpose(0, 3, 1, 2).copy())
    y = torch.from_numpy(np.array(y)).long()
    found = {}
    for name, make in {
        "dim": lambda: torchattacks.DIFGSM(net, **DIGITS, decay=1.0, resize_rate=0.5),
        "vmim": lambda: torchattacks.VMIFGSM(net, **DIGITS),
        "vnim": lambda: torchattacks.VNIFGSM(net, **DIGITS),
        "mim": lambda: torchattacks.MIFGSM(net, **DIGITS),
    }.items():
        runs = []
        for seed in range(20 if name == "dim" else 3):
            torch.manual_seed(seed)
            attack = make()
            attack.set_device("cpu")
            runs.append((net(attack(x, y)).argmax(1) == y).double().mean().item())
        print(name, runs)
        found[f"rate/{name}"] = np.array(runs)
    return found


def main() -> None:
    """Writes the file."""
    with np.load(HERE / "ta_mifgsm.npz") as data:
        state = {k[3:]: torch.from_numpy(data[k]).double() for k in data if "sd/" in k}
        x, y = torch.from_numpy(data["x"]).double(), torch.from_numpy(data["y"])
    torch.manual_seed(0)
    nudged = {k: v * (1 + 1e-9 * torch.randn_like(v)) for k, v in state.items()}
    found = {}
    for name in cases(Net(state)):
        images = []
        for weights in (state, nudged):
            attack = cases(Net(weights))[name]
            attack.set_device("cpu")
            images.append(attack(x, y).numpy())
        found[f"adv/{name}"] = images[0].astype(np.float32)
        moved = np.abs(images[0] - images[1]).reshape(len(x), -1).max(1)
        found[f"stable/{name}"] = moved < 1e-6
        print(name, int((moved < 1e-6).sum()), "stable")
    for size in (9, 13, 15):
        small = functional.interpolate(x[:1], size=[size] * 2, mode="bilinear")
        left, top = 16 - size, (16 - size) // 2
        padded = functional.pad(small, [left, 0, top, 16 - size - top])
        found[f"small/{size}"] = padded.numpy()
    np.savez_compressed(HERE / "ta_transfer.npz", **found, **rates())


if __name__ == "__main__":
    main()
