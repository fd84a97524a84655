"""Makes this folder's files from the original code of PC-LC and SSC-DM.

    python make.py PC-LC/PC_Loss_Code/models SSC-DM/model

Needs torch, and torchvision for the ResNets. Weights and images are exact in float16;
all else is computed in float64. `grad` is of the sum of squared logits.
"""

import importlib.util
import json
import math
import pathlib
import sys

import numpy as np
import torch
from torch import nn

HERE = pathlib.Path(__file__).parent


def load(folder, name):
    """Imports one file of an original."""
    path = pathlib.Path(folder) / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"original_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def narrow(net, factor):
    """Divides the channels of every layer, those of images and logits left out."""
    last = [m for m in net.modules() if isinstance(m, nn.Linear)][-1]
    for parent in list(net.modules()):
        for name, layer in list(parent.named_children()):
            new = _narrow_layer(layer, factor, layer is last)
            if new is not None:
                setattr(parent, name, new)
    return net


def _narrow_layer(layer, factor, last):
    if isinstance(layer, nn.BatchNorm2d):
        return nn.BatchNorm2d(layer.num_features // factor)
    if isinstance(layer, nn.Linear):
        out = layer.out_features if last else layer.out_features // factor
        return nn.Linear(layer.in_features // factor, out)
    if isinstance(layer, nn.Conv2d):
        inputs = layer.in_channels
        return nn.Conv2d(
            inputs if inputs <= 3 else inputs // factor,
            layer.out_channels // factor,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            bias=layer.bias is not None,
        )
    return None


def fill(net):
    """Draws every entry anew, exact in float16."""
    for name, entry in net.state_dict().items():
        if entry.ndim > 1:
            entry.normal_(0, math.sqrt(2 / entry[0].numel()))
        elif name.endswith("running_var") or name.endswith("weight"):
            entry.uniform_(0.5, 1.5)
        elif entry.ndim == 1:
            entry.normal_(0, 0.1)
        if entry.is_floating_point():
            entry.copy_(entry.half())
    return net.double()


def run(net, x):
    """Returns logits and what enters the last dense layer."""
    seen = []
    last = [m for m in net.modules() if isinstance(m, nn.Linear)][-1]
    hook = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    out = net(x)
    hook.remove()
    logits = out[0] if isinstance(out, tuple) else out
    if isinstance(out, tuple):
        assert torch.equal(out[1], seen[0]), "the features that the original returns"
    return logits, seen[0]


def write(name, net, shape):
    """Writes weights, images and what the original makes of them."""
    torch.manual_seed(0)
    net = fill(net)
    state = {k: v for k, v in net.state_dict().items() if v.is_floating_point()}
    data = {f"sd/{k}": v.numpy().astype(np.float16) for k, v in state.items()}
    x = torch.randint(0, 257, shape).double() / 256
    x.requires_grad_()
    logits, penultimate = run(net.eval(), x)
    (grad,) = torch.autograd.grad((logits**2).sum(), x)
    net.train()
    for layer in net.modules():
        if isinstance(layer, nn.Dropout):
            layer.eval()
    train_logits, _ = run(net, x)
    data |= {
        "x": x.detach().numpy().astype(np.float16),
        "logits": logits.detach().numpy(),
        "penultimate": penultimate.detach().numpy(),
        "train_logits": train_logits.detach().numpy(),
        "grad": grad.numpy().astype(np.float32),
    }
    np.savez_compressed(HERE / f"{name}.npz", **data)


def layout(net):
    """Returns names and shapes of a state dict, counters left out."""
    return {k: list(v.shape) for k, v in net.state_dict().items() if v.ndim}


def main(pc_lc, ssc_dm):
    files = ("lenet5_adv", "cnn3", "vgg", "vgg_tiny", "resnet")
    lenet5, cnn3, vgg, tiny, resnet = (load(pc_lc, name) for name in files)
    lenet, alexnet, imagenet = (
        load(ssc_dm, name) for name in ("lenet", "alexnet", "resnet")
    )
    write("lenet5", lenet5.LeNet5_adv(), (2, 1, 28, 28))
    write("lenet_sigmoid", lenet.LeNet(), (2, 1, 28, 28))
    write("cnn3", cnn3.CNN(), (2, 1, 28, 28))
    write("vgg11", narrow(vgg.VGG("VGG11", num_classes=10), 16), (4, 3, 32, 32))
    write("vgg13_tiny", narrow(tiny.VGG("VGG13"), 32), (2, 3, 64, 64))
    write("resnet_cifar8", resnet.ResNet(resnet.BasicBlock, [1, 1, 1]), (4, 3, 16, 16))
    write("alexnet", narrow(alexnet.AlexNet(10), 32), (1, 3, 80, 80))
    write("resnet18", narrow(imagenet.resnet18(10), 16), (4, 3, 32, 32))
    write("resnet50", narrow(imagenet.resnet50(10), 32), (2, 3, 40, 40))
    whole = {f"vgg{d}": vgg.VGG(f"VGG{d}") for d in (11, 13, 16, 19)}
    whole |= {"vgg13_tiny": tiny.VGG("VGG13"), "alexnet": alexnet.AlexNet(10)}
    whole |= {f"resnet_cifar{d}": getattr(resnet, f"resnet{d}")() for d in (20, 56)}
    whole |= {f"resnet{d}": getattr(imagenet, f"resnet{d}")(100) for d in (18, 50, 101)}
    lines = [f'"{k}": {json.dumps(layout(net))}' for k, net in whole.items()]
    (HERE / "layouts.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
