"""Makes this folder's files: small networks of timm, and what they give.

    python make.py

Needs timm (1.0) and so torch. The stems of convolutions are written anew after those of
Singh, Croce and Hein in RobustBench's zoo (`convstem_models`). Weights and images are
exact in float16; logits and gradients are computed in float64.
"""

import functools
import pathlib

import numpy as np
import torch
from timm.layers import LayerNorm2d
from timm.models import convnext, swin_transformer, vision_transformer, xcit
from torch import nn

HERE = pathlib.Path(__file__).parent
SIDES = {"convnext": 40, "vit": 32, "swin": 64}


class ConvStem(nn.Module):
    """3x3 convolutions with norm and GELU; in their code the list is called `stem`."""

    def __init__(self, channels, strides, project=0):
        super().__init__()
        parts, inputs = [], 3
        for outputs, stride in zip(channels, strides, strict=True):
            parts += [nn.Conv2d(inputs, outputs, 3, stride, 1)]
            parts += [LayerNorm2d(outputs), nn.GELU()]
            inputs = outputs
        if project:
            parts.append(nn.Conv2d(inputs, project, 1))
        self.stem = nn.Sequential(*parts)

    def forward(self, x):
        return self.stem(x)


def conv_next(stem=None):
    dims = (8, 16, 32, 64)
    net = convnext.ConvNeXt(depths=(1, 1, 2, 1), dims=dims, num_classes=10)
    if stem == "conv2":
        net.stem = ConvStem((4, 8), (2, 2))
    if stem == "conv3":
        net.stem = ConvStem((4, 6, 8), (2, 2, 1))
    return net


def vit(stem=None):
    sizes = {"embed_dim": 12, "depth": 2, "num_heads": 3, "num_classes": 10}
    net = vision_transformer.VisionTransformer(img_size=32, patch_size=16, **sizes)
    if stem:
        net.patch_embed.proj = ConvStem((48, 96, 192, 384), (2, 2, 2, 2), 12)
    return net


def swin():
    sizes = {"embed_dim": 8, "depths": (2, 2, 2, 1), "num_heads": (2, 4, 8, 16)}
    sizes |= {"img_size": 64, "window_size": 4, "num_classes": 10}
    return swin_transformer.SwinTransformer(**sizes)


def x_cit(patch=16):
    sizes = {"embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 10}
    net = xcit.Xcit(img_size=32, tokens_norm=True, **sizes)
    if patch == 4:  # as RobustBench does for CIFAR
        for n in (0, 2):
            net.patch_embed.proj[n][0].stride = (1, 1)
    return net


class MeanSparse(nn.Module):
    """Sets what is near the mean of its channel, the last axis or the one given, to it.

    As RobustBench's zoo puts it into other networks.
    """

    def __init__(self, channels, axis=-1):
        super().__init__()
        self.axis = axis
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.zeros(channels))
        self.register_buffer("threshold", torch.tensor(0.5))
        self.register_buffer("batch_num", torch.tensor(3.0))
        self.register_buffer("flag_update_statistics", torch.tensor(0))

    def forward(self, x):
        shape = [1] * x.ndim
        shape[self.axis] = -1
        mean, var = self.running_mean.view(shape), self.running_var.view(shape)
        near = (x - mean).abs() < self.threshold * var.sqrt()
        return torch.where(near, mean, x)


def sparse_conv_next():
    net = conv_next()
    for stage in net.stages:
        for block in stage.blocks:
            channels = block.mlp.fc2.out_features
            block.mlp.act = nn.Sequential(MeanSparse(4 * channels), block.mlp.act)
            block.drop_path = nn.Sequential(block.drop_path, MeanSparse(channels, 1))
    return net


class SparseMlp(nn.Module):
    def __init__(self, mlp):
        super().__init__()
        self.fc1, self.act, self.fc2 = mlp.fc1, mlp.act, mlp.fc2
        self.meansparse1 = MeanSparse(mlp.fc1.out_features)
        self.meansparse2 = MeanSparse(mlp.fc2.out_features)

    def forward(self, x):
        x = self.act(self.meansparse1(self.fc1(x)))
        return self.meansparse2(self.fc2(x))


def sparse_swin():
    net = swin()
    for layer in net.layers:
        for block in layer.blocks:
            channels = block.mlp.fc2.out_features
            block.mlp = SparseMlp(block.mlp)
            block.meansparse1 = MeanSparse(channels)
            block.meansparse2 = MeanSparse(channels)
            block.forward = functools.partial(forward_sparse_swin, block)
    return net


def forward_sparse_swin(block, x):
    x = block.meansparse1(x + block._attn(block.norm1(x)))
    return block.meansparse2(x + block.mlp(block.norm2(x)))


NETS = {
    "convnext": conv_next,
    "convnext_conv2": lambda: conv_next("conv2"),
    "convnext_conv3": lambda: conv_next("conv3"),
    "vit": vit,
    "swin": swin,
    "xcit": x_cit,
    "xcit_cifar": lambda: x_cit(4),
}
# Not kept: compared where there is timm.
LARGE = {"vit_conv": lambda: vit("conv")}
LARGE |= {"convnext_sparse": sparse_conv_next, "swin_sparse": sparse_swin}


def fill(net):
    """Draws every weight anew, exact in float16."""
    for name, entry in net.state_dict().items():
        if not entry.is_floating_point() or entry.ndim == 0:
            continue
        small = name.endswith(("bias", "running_mean", "bias_table", "embed", "token"))
        if entry.ndim == 1 and not small:
            entry.uniform_(0.5, 1.5)  # scales and variances
        elif small or name.endswith("temperature"):
            entry.normal_(1 - small, 0.3)
        else:
            entry.normal_(0, entry[0].numel() ** -0.5)
        entry.copy_(entry.half())
    return net.eval()


def side_of(name):
    return SIDES.get(name.split("_")[0], 32)


def results(net, x):
    """Returns logits and the gradient of the sum of their squares."""
    x = x.double().requires_grad_()
    logits = net.double()(x)
    logits.square().sum().backward()
    return {"logits": logits.detach().numpy(), "grad": x.grad.numpy()}


def main():
    for name, build in NETS.items():
        torch.manual_seed(0)
        net = fill(build())
        side = side_of(name)
        x = torch.randint(0, 257, (2, 3, side, side)) / 256
        state = {k: v for k, v in net.state_dict().items() if v.is_floating_point()}
        data = {f"sd/{k}": v.numpy().astype(np.float16) for k, v in state.items()}
        found = results(net, x)
        found["grad"] = found["grad"].astype("f")
        data |= {"x": x.numpy().astype(np.float16), **found}
        np.savez_compressed(HERE / f"{name}.npz", **data)


if __name__ == "__main__":
    main()
