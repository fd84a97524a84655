"""Networks of the golden file, from torch's weights; random ones."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxrobust._conv import conv_general_dilated

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "certify_lirpa.npz"
LAYOUT = ("NHWC", "HWIO", "NHWC")


def load(dtype=np.float32):
    """Returns arrays of the golden file by network and name; images are NHWC."""
    found = {}
    with np.load(GOLDEN) as file:
        for key in file.files:
            network, name = key.split("/", 1)
            value = file[key]
            if value.dtype == np.float32:
                value = value.astype(dtype)
            if name == "x" and value.ndim == 4:
                value = value.transpose(0, 2, 3, 1)
            found.setdefault(network, {})[name] = value
    return found


def network(name, arrays):
    """Returns a network of the golden file as a function of `[B, ...]`."""
    weights = {k.split("/")[1]: v for k, v in arrays.items() if k.startswith("weight")}
    return {"mlp": _dense, "curved": _dense, "cnn": _cnn, "residual": _residual}[name](
        weights, jnp.tanh if name == "curved" else jax.nn.relu
    )


def add(x, bias):
    return x + bias.reshape((1,) * (x.ndim - 1) + (-1,))


def conv(x, weights, name, stride=1, pad=1, own=True):
    kernel = weights[f"{name}.weight"].transpose(2, 3, 1, 0)
    convolve = conv_general_dilated if own else lax.conv_general_dilated
    out = convolve(
        x, jnp.asarray(kernel), (stride,) * 2, [(pad, pad)] * 2,
        dimension_numbers=LAYOUT,
    )  # fmt: skip
    return add(out, weights[f"{name}.bias"])


def dense(x, weights, name, flat=()):
    kernel = weights[f"{name}.weight"]
    if flat:  # torch's order of channels, rows and columns
        kernel = kernel.reshape(-1, *flat).transpose(0, 2, 3, 1)
        kernel = kernel.reshape(len(kernel), -1)
    return add(x.reshape(len(x), -1) @ kernel.T, weights[f"{name}.bias"])


def _dense(weights, act):
    def apply(x):
        acts = (act, jax.nn.sigmoid if act is jnp.tanh else act, act)
        for i, one in zip((0, 2, 4), acts, strict=True):
            x = one(dense(x, weights, str(i)))
        return dense(x, weights, "6")

    return apply


def _cnn(weights, act):
    def apply(x):
        x = act(conv(x, weights, "0"))
        x = act(conv(x, weights, "2", stride=2, own=False))
        x = act(dense(x, weights, "5", flat=(8, 4, 4)))
        return dense(x, weights, "7")

    return apply


def _residual(weights, act):
    def apply(x):
        x = act(conv(x, weights, "stem"))
        x = act(conv(act(conv(x, weights, "one")), weights, "two") + x)
        y = act(conv(x, weights, "three", stride=2))
        short = conv(x, weights, "short", stride=2, pad=0)
        x = act(conv(y, weights, "four") + short)
        return dense(x, weights, "head", flat=(6, 4, 4))

    return apply
