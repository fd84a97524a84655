"""Makes this folder's files: small networks in the names of RobustBench's zoo.

    python make.py

Needs torch. The networks are written anew after the architectures `wide_resnet`,
`resnet` (PreAct) and `dm_wide_resnet` there, narrow. Weights and images are exact in
float16; logits are computed in float64.
"""

import math
import pathlib

import numpy as np
import torch
from torch import nn
from torch.nn import functional

HERE = pathlib.Path(__file__).parent
MU, SIGMA = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)


def conv(inputs, outputs, kernel, stride=1, padding=None):
    padding = kernel // 2 if padding is None else padding
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)


class Trades(nn.Module):
    """A block of TRADES' WideResNet or of the PreActResNets."""

    def __init__(self, inputs, outputs, stride, shortcut, activation=torch.relu):
        super().__init__()
        self.activation = activation
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, outputs, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), conv(outputs, outputs, 3)
        self.shortcut_on_input = shortcut == "input"
        self.projected = inputs != outputs or (shortcut != "wide" and stride != 1)
        if self.projected and shortcut == "wide":
            self.convShortcut = conv(inputs, outputs, 1, stride)
        elif self.projected:
            self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride))

    def forward(self, x):
        h = self.activation(self.bn1(x))
        out = self.conv2(self.activation(self.bn2(self.conv1(h))))
        if not self.projected:
            return out + x
        project = self.convShortcut if hasattr(self, "convShortcut") else self.shortcut
        return out + project(x if self.shortcut_on_input else h)


class MeanSparse(nn.Module):
    """Sets what is near the mean of its channel to it."""

    def __init__(self, channels):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.zeros(channels))
        self.register_buffer("threshold", torch.tensor(0.5))
        self.register_buffer("batch_num", torch.tensor(3.0))
        self.register_buffer("flag_update_statistics", torch.tensor(0))

    def forward(self, x):
        mean, var = (v[:, None, None] for v in (self.running_mean, self.running_var))
        near = (x - mean).abs() < self.threshold * var.sqrt()
        return torch.where(near, mean, x)


class SqueezeExcitation(nn.Module):
    """Of torchvision: channels times what their means say."""

    def __init__(self, channels, inner):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, inner, 1)
        self.fc2 = nn.Conv2d(inner, channels, 1)

    def forward(self, x):
        h = self.fc1(x.mean((2, 3), keepdim=True))
        return x * torch.sigmoid(self.fc2(torch.relu(h)))


class PSSiLU(nn.Module):
    """An activation with two numbers that are learnt."""

    def __init__(self):
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor([1.0]))
        self.beta = nn.Parameter(torch.tensor([0.1]))

    def forward(self, x):
        beta = self.beta.abs()
        return x * (torch.sigmoid(self.alpha.abs() * x) - beta) / (1 - beta)


class DeepMind(nn.Module):
    """A block of DeepMind's networks: swish, and zeros only after the image."""

    def __init__(self, inputs, outputs, stride, preact, sparse=False, squeeze=0):
        super().__init__()
        names = ("conv_2d_1", "conv_2d_2") if preact else ("conv_0", "conv_1")
        self.batchnorm_0 = nn.BatchNorm2d(inputs)
        self.add_module(names[0], conv(inputs, outputs, 3, stride, 0))
        self.batchnorm_1 = nn.BatchNorm2d(outputs)
        self.add_module(names[1], conv(outputs, outputs, 3))
        self.convs, self.preact = names, preact
        for n, channels in enumerate((inputs, outputs, outputs)):
            part = MeanSparse(channels) if sparse else nn.Identity()
            self.add_module(f"meansparse_{n}", part)
        inner = round(squeeze * outputs)
        self.se = SqueezeExcitation(outputs, inner) if squeeze else nn.Identity()
        self.pads = (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1)
        if inputs != outputs or (preact and stride != 1):
            self.shortcut = conv(inputs, outputs, 3 if preact else 1, stride, 0)

    def forward(self, x):
        first, second = (getattr(self, name) for name in self.convs)
        h = functional.silu(self.meansparse_0(self.batchnorm_0(x)))
        out = first(functional.pad(h, self.pads))
        out = second(functional.silu(self.meansparse_1(self.batchnorm_1(out))))
        out = self.se(out)
        if not hasattr(self, "shortcut"):
            return self.meansparse_2(out + x)
        source = functional.pad(x, self.pads) if self.preact else h
        return self.meansparse_2(out + self.shortcut(source))


class Net(nn.Module):
    """A stem, stages of blocks, and a head; `names` are those of their modules."""

    def __init__(self, stem, stages, head, act=torch.relu):
        super().__init__()
        self.parts, self.activation = (stem[0], [k for k, _ in stages], head), act
        self.per_image = self.unit_head = False
        self.add_module(*stem)
        for name, stage in stages:
            parent = self
            *folders, last = name.split(".")
            for folder in folders:
                if not hasattr(parent, folder):
                    parent.add_module(folder, nn.Module())
                parent = getattr(parent, folder)
            parent.add_module(last, stage)
        for name, layer in head.items():
            self.add_module(name, layer)

    def forward(self, x):
        stem, stages, head = self.parts
        if hasattr(self, "mu"):
            x = (x - self.mu) / self.sigma
        if self.per_image:
            std = x.std((1, 2, 3), keepdim=True)
            least = torch.ones_like(std) / x[0].numel() ** 0.5
            x = (x - x.mean((1, 2, 3), keepdim=True)) / torch.maximum(std, least)
        x = self.get_submodule(stem)(x)
        for name in stages:
            x = self.get_submodule(name)(x)
        *norm, dense = (self.get_submodule(name) for name in head)
        for n, layer in enumerate(norm, 1):
            x = layer(x)
            x = self.activation(x) if n == len(norm) else x
        x = x.mean((2, 3))
        if self.unit_head:
            x, weight = (functional.normalize(v, dim=1) for v in (x, dense.weight))
            return x @ weight.T
        return dense(x)


def stages(names, sizes, make):
    """Returns `(name, Sequential)` of stages of so many channels, blocks."""
    found, inputs = [], sizes[0]
    for k, (name, outputs, count) in enumerate(zip(names, *sizes[1:], strict=True)):
        blocks = []
        for n in range(count):
            blocks.append(make(inputs, outputs, 2 if k and n == 0 else 1))
            inputs = outputs
        found.append((name, nn.Sequential(*blocks)))
    return found


def pssilu():
    """An activation that every block holds, and the network."""
    act, channels = PSSiLU(), [8, 16, 32]
    names = [f"block{k}.layer" for k in (1, 2, 3)]
    parts = stages(
        names,
        (16, channels, [1] * 3),
        lambda *sizes: Trades(*sizes, shortcut="wide", activation=act),
    )
    head = {"bn1": nn.BatchNorm2d(channels[-1]), "fc": nn.Linear(channels[-1], 10)}
    return Net(("conv1", conv(3, 16, 3)), parts, head, act)


def boosting():
    """Cosines for logits, and images normalised by themselves."""
    channels = [8, 16, 32]
    names = [f"block{k}.layer" for k in (1, 2, 3)]
    parts = stages(
        names, (16, channels, [1] * 3), lambda *sizes: Trades(*sizes, shortcut="wide")
    )
    dense = nn.Linear(channels[-1], 10, bias=False)
    head = {"bn1": nn.BatchNorm2d(channels[-1]), "fc": dense}
    net = Net(("conv1", conv(3, 16, 3)), parts, head)
    net.per_image = net.unit_head = True
    return net


def mean_sparse():
    """DeepMind's Wide ResNet with `MeanSparse` after norms and sums."""
    channels = [8, 16, 32]
    parts = stages(
        [f"layer.{k}.block" for k in range(3)],
        (16, channels, [1] * 3),
        lambda *sizes: DeepMind(*sizes, preact=False, sparse=True),
    )
    norm, dense = nn.BatchNorm2d(channels[-1]), nn.Linear(channels[-1], 10)
    head = {"batchnorm": norm, "meansparse_end": MeanSparse(channels[-1])}
    head["logits"] = dense
    return Net(("init_conv", conv(3, 16, 3)), parts, head, functional.silu)


def ra_wrn():
    """RobustArch's: stages of other depths, squeeze and excitation, and MeanSparse."""
    channels = [8, 12, 16]
    parts = stages(
        [f"layer.{k}.block" for k in range(3)],
        (12, channels, [1, 2, 1]),
        lambda *sizes: DeepMind(*sizes, preact=False, sparse=True, squeeze=0.25),
    )
    norm, dense = nn.BatchNorm2d(channels[-1]), nn.Linear(channels[-1], 10)
    head = {"batchnorm": norm, "meansparse_end": MeanSparse(channels[-1])}
    head["logits"] = dense
    return Net(("init_conv", conv(3, 12, 3)), parts, head, functional.silu)


def wide(depth=10, width=1, classes=10):
    """TRADES' form with what comes with it: a stage that never runs, mu and sigma."""
    count = (depth - 4) // 6
    channels = [16 * width, 32 * width, 64 * width]

    def make(inputs, outputs, stride):
        return Trades(inputs, outputs, stride, "wide")

    names = [f"block{k}.layer" for k in (1, 2, 3)]
    parts = stages(names, (16, channels, [count] * 3), make)
    head = {"bn1": nn.BatchNorm2d(channels[-1]), "fc": nn.Linear(channels[-1], classes)}
    net = Net(("conv1", conv(3, 16, 3)), parts, head)
    net.sub_block1 = nn.Module()
    first = stages(["layer"], (16, channels[:1], [count]), make)
    net.sub_block1.add_module(*first[0])
    net.register_buffer("mu", torch.tensor(MU).view(1, 3, 1, 1))
    net.register_buffer("sigma", torch.tensor(SIGMA).view(1, 3, 1, 1))
    return net


def preact(final_norm, width=4, classes=10):
    """Shortcuts start at the input where there is no last norm, as in the zoo."""
    channels = [width * 2**k for k in range(4)]
    shortcut = "output" if final_norm else "input"

    def make(inputs, outputs, stride):
        return Trades(inputs, outputs, stride, shortcut)

    names = [f"layer{k}" for k in (1, 2, 3, 4)]
    parts = stages(names, (width, channels, [2] * 4), make)
    norm = {"bn": nn.BatchNorm2d(channels[-1])} if final_norm else {}
    head = {**norm, "linear": nn.Linear(channels[-1], classes)}
    return Net(("conv1", conv(3, width, 3)), parts, head)


def deepmind_wide(depth=10, width=1, classes=10):
    """DMWideResNet."""
    channels = [16 * width, 32 * width, 64 * width]
    parts = stages(
        [f"layer.{k}.block" for k in range(3)],
        (16, channels, [(depth - 4) // 6] * 3),
        lambda *sizes: DeepMind(*sizes, preact=False),
    )
    norm, dense = nn.BatchNorm2d(channels[-1]), nn.Linear(channels[-1], classes)
    head = {"batchnorm": norm, "logits": dense}
    return Net(("init_conv", conv(3, 16, 3)), parts, head, functional.silu)


def deepmind_preact(width=4, classes=10):
    """DMPreActResNet."""
    channels = [width * 2**k for k in range(4)]
    parts = stages(
        [f"layer_{k}" for k in range(4)],
        (width, channels, [2] * 4),
        lambda *sizes: DeepMind(*sizes, preact=True),
    )
    norm, dense = nn.BatchNorm2d(channels[-1]), nn.Linear(channels[-1], classes)
    head = {"batchnorm": norm, "logits": dense}
    return Net(("conv_2d", conv(3, width, 3)), parts, head, functional.silu)


class Residual(nn.Module):
    """A block of kuangliu's ResNets, or with `downsample` of torchvision's.

    Bottlenecks have `inner` channels inside.
    """

    def __init__(self, inputs, outputs, stride, inner=0, shortcut="shortcut"):
        super().__init__()
        plan = [(inputs, outputs, 3, stride), (outputs, outputs, 3, 1)]
        if inner:
            plan = [(inputs, inner, 1, 1), (inner, inner, 3, stride)]
            plan += [(inner, outputs, 1, 1)]
        self.depth = len(plan)
        for n, sizes in enumerate(plan, 1):
            self.add_module(f"conv{n}", conv(*sizes))
            self.add_module(f"bn{n}", nn.BatchNorm2d(sizes[1]))
        self.projected = inputs != outputs or stride != 1
        self.name = shortcut
        if self.projected:
            parts = conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
            self.add_module(shortcut, nn.Sequential(*parts))

    def forward(self, x):
        h = x
        for n in range(1, self.depth + 1):
            h = getattr(self, f"conv{n}")(h if n == 1 else torch.relu(h))
            h = getattr(self, f"bn{n}")(h)
        return torch.relu(h + (getattr(self, self.name)(x) if self.projected else x))


class ResNet(nn.Module):
    """Blocks in four stages; norm and ReLU follow the stem."""

    def __init__(self, block, counts, channels, stem, head):
        super().__init__()
        self.conv1, self.pools = stem, stem.kernel_size[0] == 7
        self.bn1 = nn.BatchNorm2d(stem.out_channels)
        inputs = stem.out_channels
        for k, (outputs, count) in enumerate(zip(channels, counts, strict=True), 1):
            parts = []
            for n in range(count):
                parts.append(block(inputs, outputs, 2 if k > 1 and n == 0 else 1))
                inputs = outputs
            self.add_module(f"layer{k}", nn.Sequential(*parts))
        self.head = head
        self.add_module(head, nn.Linear(inputs, 10))

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = functional.max_pool2d(x, 3, 2, 1) if self.pools else x
        for k in range(1, 5):
            x = getattr(self, f"layer{k}")(x)
        return getattr(self, self.head)(x.mean((2, 3)))


def kuangliu(width=4):
    """ResNet18 of the zoo's `resnet`."""
    channels = [width * 2**k for k in range(4)]
    return ResNet(Residual, [2] * 4, channels, conv(3, width, 3), "linear")


def wide_resnet50(width=2):
    """Torchvision's wide_resnet50_2: bottlenecks are twice as wide inside."""

    def block(inputs, outputs, stride):
        return Residual(inputs, outputs, stride, outputs // 2, "downsample")

    channels = [4 * width * 2**k for k in range(4)]
    return ResNet(block, (3, 4, 6, 3), channels, conv(3, width, 7, 2), "fc")


def robust_wrn():
    """RobustWideResNet, whose last stage is narrower."""
    channels = [8, 16, 12]
    parts = stages(
        [f"blocks.{k}.layer" for k in range(3)],
        (16, channels, [1] * 3),
        lambda *sizes: Trades(*sizes, shortcut="wide"),
    )
    head = {"bn1": nn.BatchNorm2d(channels[-1]), "fc": nn.Linear(channels[-1], 10)}
    return Net(("stem_conv", conv(3, 16, 3)), parts, head)


NETS = {
    "kuangliu": kuangliu,
    "wide_resnet50": wide_resnet50,
    "robust_wrn": robust_wrn,
    "pssilu": pssilu,
    "boosting": boosting,
    "mean_sparse": mean_sparse,
    "ra_wrn": ra_wrn,
    "wide": wide,
    "preact": lambda: preact(final_norm=False),
    "preact_norm": lambda: preact(final_norm=True),
    "deepmind_wide": deepmind_wide,
    "deepmind_preact": deepmind_preact,
}


def fill(net):
    """Draws every weight anew, exact in float16."""
    for name, entry in net.state_dict().items():
        if name in ("mu", "sigma"):
            continue
        if entry.ndim > 1:
            entry.normal_(0, math.sqrt(2 / entry[0].numel()))
        elif name.endswith("running_var") or name.endswith("weight"):
            entry.uniform_(0.5, 1.5)
        elif entry.ndim == 1:
            entry.normal_(0, 0.1)
        if entry.is_floating_point():
            entry.copy_(entry.half())
    return net.eval()


def main():
    for name, build in NETS.items():
        torch.manual_seed(0)
        net = fill(build())
        x = torch.randint(0, 257, (3, 3, 16, 16)) / 256
        state = {k: v for k, v in net.state_dict().items() if v.is_floating_point()}
        exact = ("mu", "sigma")
        data = {
            f"sd/{k}": v.numpy().astype("f" if k in exact else np.float16)
            for k, v in state.items()
        }
        with torch.no_grad():
            logits = net.double()(x.double())
        data |= {"x": x.numpy().astype(np.float16), "logits": logits.numpy()}
        np.savez_compressed(HERE / f"{name}.npz", **data)


if __name__ == "__main__":
    main()
