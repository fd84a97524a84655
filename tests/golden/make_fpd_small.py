"""Runs FPD's original code, a sixteenth as wide, and keeps its numbers.

    python tests/golden/make_fpd_small.py FOLDER

FOLDER is a checkout of github.com/GuanlinLee/FPD-for-Adversarial-Robustness; needs
torch. Its files are executed as they are, in a namespace where the layers' constructors
divide channels and groups by 16, the average pool is global (7x7 does not fit 32 px)
and dropout is off. Weights and inputs are random. Written beside this script:
fpd_small_{resnet,resnext,undefended}.npz, with the state dict (`sd/`), and from float64
runs stored as float32 the outputs in eval and train mode, the gradients of
MSE(p2, x) + CE (of CE alone for the undefended network; of parameters with up to 1024
entries), and the buffers after the train-mode run (`after/`).
"""

import pathlib
import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional

SCALE = 16
KEPT = (3, 10)  # image channels, classes
SOURCES = {  # file, network, block
    "resnet": ("ResNet-101/MNIST/resnet.py", "ResNet", "Bottleneck"),
    "resnext": ("ResNeXt-50/SVHN/resnet.py", "ResNext", "ResNextBottleNeckC"),
    "undefended": ("models.py", "ResNet", "Bottleneck"),
}
LAYERS = [1, 2, 1, 1]


def narrow(channels: int) -> int:
    """Returns the number of channels of the narrow network."""
    return channels if channels in KEPT else max(1, channels // SCALE)


def narrowed(kind: type[nn.Module]) -> type[nn.Module]:
    """Returns a layer class whose channel arguments are divided."""

    class Narrow(kind):
        def __init__(self, *sizes, **options):
            count = 1 if issubclass(kind, nn.BatchNorm2d) else 2
            if "groups" in options:
                options["groups"] = max(1, options["groups"] // SCALE)
            super().__init__(*map(narrow, sizes[:count]), *sizes[count:], **options)

    return Narrow


def load(path: pathlib.Path, network: str, block: str) -> nn.Module:
    """Executes an original file with narrow layers; returns its network."""
    kinds = ("Conv2d", "BatchNorm2d", "ConvTranspose2d", "Linear")
    originals = {kind: getattr(nn, kind) for kind in (*kinds, "AvgPool2d", "Dropout")}
    for kind in kinds:
        setattr(nn, kind, narrowed(originals[kind]))
    nn.AvgPool2d = lambda size: nn.AdaptiveAvgPool2d(1)
    nn.Dropout = lambda p: nn.Identity()
    try:
        namespace = {}
        exec(compile(path.read_text(), str(path), "exec"), namespace)
        return namespace[network](namespace[block], LAYERS)
    finally:
        for kind, original in originals.items():
            setattr(nn, kind, original)


def randomize(net: nn.Module) -> None:
    """Gives norms values that show; all values are exact in float16."""
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(tensor.half().to(tensor))


def run(net: nn.Module, x: torch.Tensor, y: torch.Tensor, train: bool):
    """Returns the outputs and the gradients of images and parameters."""
    net.train(train)
    net.zero_grad()
    x = x.clone().requires_grad_()
    out = net(x)
    p2, logits = out if isinstance(out, tuple) else (None, out)
    loss = functional.cross_entropy(logits, y)
    if p2 is not None:
        loss = loss + functional.mse_loss(p2, x.detach())
    loss.backward()
    found = {"logits": logits, "grad_x": x.grad, "loss": loss}
    if p2 is not None:
        found["p2"] = p2
    if train:
        grads = {f"grad/{k}": p.grad for k, p in net.named_parameters()}
        found |= {k: grad for k, grad in grads.items() if kept(grad)}
    return {k: v.detach().numpy().astype(np.float32) for k, v in found.items()}


def kept(grad: torch.Tensor | None) -> bool:
    """Leaves out layers that take no part, and the large ones."""
    return grad is not None and grad.numel() <= 1024


def main(folder: str) -> None:
    """Writes the three files."""
    for name, (path, network, block) in SOURCES.items():
        torch.manual_seed(0)
        net = load(pathlib.Path(folder, path), network, block).double()
        randomize(net)
        x = torch.rand(3, 3, 32, 32).half().double()
        y = torch.tensor([3, 0, 9])
        arrays = {"x": x.numpy().astype(np.float32), "y": y.numpy()}
        for key, value in net.state_dict().items():
            value = value.numpy()
            small = value.astype(np.float16) if value.dtype == np.float64 else value
            arrays[f"sd/{key}"] = small
        for mode in ("eval", "train"):
            found = run(net, x, y, mode == "train")
            arrays |= {f"{mode}/{k}": v for k, v in found.items()}
        for key, value in net.named_buffers():
            arrays[f"after/{key}"] = value.numpy().astype(np.float32)
        target = pathlib.Path(__file__).with_name(f"fpd_small_{name}.npz")
        np.savez_compressed(target, **arrays)
        print(target.name, target.stat().st_size)


if __name__ == "__main__":
    main(sys.argv[1])
