"""Small digit classifiers: sound ones, and ones whose gradients are damaged.

What a robust accuracy of the first says is true; of the second it is not, each for a
reason of its own. All are made of few weights, trained here within seconds.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from jaxrobust import attacks, losses

EPS = 0.15
HELD_OUT = 100
_OPTIMIZER = optax.adam(3e-3)
_HE = jax.nn.initializers.he_normal()

Network = Callable[[Any], Any]


@functools.cache
def digits() -> tuple[Any, Any]:
    """All digits on 8-bit levels, shuffled; the first 100 are held out."""
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    images = np.round(found.images[order] / 16 * 255) / 255
    labels = found.target[order]
    with jax.ensure_compile_time_eval():  # also where a network is being traced
        return jnp.asarray(images[..., None], jnp.float32), jnp.asarray(labels, "int32")


def mlp(params, x, activation=jax.nn.relu):
    """Two hidden layers."""
    h = x.reshape(len(x), -1)
    for w, b in params[:-1]:
        h = activation(h @ w.astype(h.dtype) + b.astype(h.dtype)[None])
    w, b = params[-1]
    return h @ w.astype(h.dtype) + b.astype(h.dtype)[None]


def conv(params, x, activation=jax.nn.relu):
    """Two convolutions with max-pooling, and a linear layer."""
    (k1, b1), (k2, b2), (w, b) = params
    layout = ("NHWC", "HWIO", "NHWC")
    for k, c in ((k1, b1), (k2, b2)):
        x = jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=layout)
        x = activation(x + c[None, None, None])
        x = x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).max((2, 4))
    return x.reshape(len(x), -1) @ w + b[None]


def linear(params, x):
    """One linear layer."""
    w, b = params
    return x.reshape(len(x), -1) @ w + b[None]


def _dense(seed, *sizes):
    keys = jax.random.split(jax.random.key(seed), len(sizes))
    pairs = zip(keys, sizes[:-1], sizes[1:], strict=False)
    return [(_HE(k, (n, m)), jnp.zeros(m)) for k, n, m in pairs]


def _kernels(seed):
    keys = jax.random.split(jax.random.key(seed))
    first, second = _HE(keys[0], (3, 3, 1, 8)), _HE(keys[1], (3, 3, 8, 16))
    [head] = _dense(seed, 64, 10)
    return [(first, jnp.zeros(8)), (second, jnp.zeros(16)), head]


@functools.partial(jax.jit, static_argnums=(0, 4))
def _train(apply, params, eps, decay, classes, steps):
    x, y = digits()
    x, y = x[HELD_OUT:], y[HELD_OUT:] % classes

    def loss(params, x, y):
        weights = sum(jnp.sum(w**2) for w in jax.tree.leaves(params))
        return losses.cross_entropy(apply(params, x), y).mean() + decay * weights

    def step(i, state):
        params, moments = state
        key = jax.random.fold_in(jax.random.key(1), i)
        rows = jax.random.randint(key, (100,), 0, len(x))
        x_adv = attacks.pgd(
            functools.partial(apply, params),
            x[rows],
            y[rows],
            key=key,
            eps=eps,
            step_size=eps / 3,
            steps=5,
        )
        grads = jax.grad(loss)(params, x_adv, y[rows])
        updates, moments = _OPTIMIZER.update(grads, moments)
        return optax.apply_updates(params, updates), moments

    return jax.lax.fori_loop(0, steps, step, (params, _OPTIMIZER.init(params)))[0]


@functools.cache
def weights(kind: str) -> Any:
    """Trains one of the networks, also where one is being traced."""
    with jax.ensure_compile_time_eval():
        return _trained(kind)


def _trained(kind: str) -> Any:
    apply, params, eps, decay, classes, steps = {
        "mlp": (mlp, _dense(0, 64, 96, 96, 10), EPS, 0.0, 10, 300),
        "standard": (mlp, _dense(0, 64, 96, 96, 10), 0.0, 0.0, 10, 300),
        "short": (mlp, _dense(0, 64, 96, 96, 10), 0.0, 0.0, 10, 8),
        "conv": (conv, _kernels(2), EPS, 0.0, 10, 300),
        "gelu": (_gelu_mlp, _dense(3, 64, 96, 96, 10), 0.0, 0.0, 10, 300),
        "binary": (mlp, _dense(4, 64, 96, 96, 2), EPS, 0.0, 2, 300),
        "linear": (linear, _dense(5, 64, 10)[0], EPS, 1e-3, 10, 300),
    }[kind]
    return jax.block_until_ready(
        _train(apply, params, eps, decay, classes, jnp.int32(steps))
    )


def _gelu_mlp(params, x):
    return mlp(params, x, jax.nn.gelu)


def network(kind: str) -> Network:
    """Returns a sound network as a function of images."""
    apply = {"conv": conv, "linear": linear, "gelu": _gelu_mlp}.get(kind, mlp)
    return functools.partial(apply, weights(kind))


def _normed(x):
    """A linear network with the statistics of BatchNorm fixed."""
    mean, std = digits()[0].mean(0), digits()[0].std(0) + 0.1
    return network("linear")((x - mean[None]) / std[None] * 0.3 + 0.3)


def _median(x):
    """Of 3 x 3 pixels: a kink where they tie, as those of the background do."""
    h, w = x.shape[1:3]
    around = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    parts = [around[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    return jnp.median(jnp.stack(parts), 0)


def padded(f: Network, value: float) -> Network:
    """Adds two classes that cannot win."""
    return lambda x: jnp.pad(f(x), ((0, 0), (0, 2)), constant_values=value)


def half(kind: str, dtype: Any) -> Network:
    """Computes in half precision."""
    f = network(kind)
    return lambda x: f(x.astype(dtype))


SOUND: Mapping[str, Callable[[], Network]] = {
    "adversarially trained": lambda: network("mlp"),
    "standard": lambda: network("standard"),
    "after eight steps": lambda: network("short"),
    "convolutions and max-pooling": lambda: network("conv"),
    "gelu": lambda: network("gelu"),
    "linear": lambda: network("linear"),
    "batch statistics fixed": lambda: _normed,
    "two classes": lambda: network("binary"),
    "padded with -30": lambda: padded(network("mlp"), -30.0),
    "padded with -1e9": lambda: padded(network("mlp"), -1e9),
    "padded with -inf": lambda: padded(network("mlp"), -jnp.inf),
    "shifted by 1e3": lambda: lambda x: network("mlp")(x) + 1e3,
    "shifted by 1e6": lambda: lambda x: network("mlp")(x) + 1e6,
    "shifted by 1e7": lambda: lambda x: network("mlp")(x) - 1e7,
    "scaled by 1e-6": lambda: lambda x: network("mlp")(x) * 1e-6,
    "scaled by 1e-3": lambda: lambda x: network("mlp")(x) * 1e-3,
    "scaled by 5": lambda: lambda x: network("mlp")(x) * 5,
    "log-probabilities": lambda: lambda x: jax.nn.log_softmax(network("mlp")(x)),
    "bfloat16": lambda: half("mlp", jnp.bfloat16),
    "float16": lambda: half("mlp", jnp.float16),
    "median of windows": lambda: lambda x: network("mlp")((x + _median(x)) / 2),
    "clipped input": lambda: lambda x: network("mlp")(jnp.clip(x, 0, 1)),
}


def with_gradient_of(forward: Network, backward: Network) -> Network:
    """Gives a function the gradient of another one."""

    def call(x):
        near = backward(x)
        return near + jax.lax.stop_gradient(forward(x) - near)

    return call


def through(change: Network, f: Network, near: Network = lambda x: x) -> Network:
    """Changes the input, with the gradient of `near` in place of the change's."""
    return lambda x: f(with_gradient_of(change, near)(x))


def damaged(f: Network, damage: Callable[[Any, Any], Any]) -> Network:
    """Changes the input gradient: `damage(gradient, images)`."""

    @jax.custom_vjp
    def same(x):
        return x

    same.defvjp(lambda x: (x, x), lambda x, g: (damage(g, x),))
    return lambda x: f(same(x))


def rounded(levels: int) -> Network:
    """Rounds to so many levels above 0."""
    return lambda x: jnp.round(levels * x) / levels


def hashed(x):
    """Noise of each pixel that looks random but is decided by the image."""
    return jnp.sin(1e4 * x) * jnp.cos(3e4 * jnp.roll(x, 1, 2))


def _winners(h):
    """Keeps the largest fifth of the activations."""
    least = jnp.sort(h, -1)[:, -(h.shape[-1] // 5)][:, None]
    return jnp.where(h >= least, h, 0)


def _coarse(h):
    """Activations on few levels, with a gradient of the wrong slope."""
    smooth = jax.nn.sigmoid(h)
    steps = jnp.round(2 * jax.nn.relu(h)) / 2
    return smooth + jax.lax.stop_gradient(steps - smooth)


def _on_levels(x):
    return (jnp.abs(255 * x - jnp.round(255 * x)) < 1e-3).all((1, 2, 3), keepdims=True)


def _smooth_steps(x):
    """What rounding to 5 levels looks like through sigmoids."""
    edges = ((jnp.arange(5) + 0.5) / 5)[None, None, None, None]
    return jax.nn.sigmoid(60 * (x[..., None] - edges)).sum(-1) / 5


_HALF = (np.indices((8, 8)).sum(0) % 2)[None, :, :, None]
_ORDER = np.random.default_rng(3).permutation(64)


def _shuffled(g, x):
    del x
    return g.reshape(len(g), -1)[:, _ORDER].reshape(g.shape)


def _turned(g, x):
    """Right where pixels are on 8-bit levels, turned around elsewhere."""
    return jnp.where(_on_levels(x), g, g[:, ::-1, ::-1])


def _branches(x):
    f, g = network("mlp"), network("standard")
    return 0.3 * f(x) + g(jax.lax.stop_gradient(x))


def _smaller_branch(x):
    f, g = network("mlp"), network("standard")
    return 0.65 * f(x) + 0.35 * jax.lax.stop_gradient(g(x))


def _where(asked: Callable[[Any], Any]) -> Network:
    """Has the gradient of a linear network where logits are as asked."""
    other = with_gradient_of(network("mlp"), network("linear"))

    def call(x):
        logits = network("mlp")(x)
        return jnp.where(asked(logits)[:, None], other(x), logits)

    return call


def _of_two_classes(logits):
    return logits.argmax(-1) < 2


def _near_the_boundary(logits):
    second, first = jnp.sort(logits)[:, -2:].T
    return first - second < 1


MASKED: Mapping[str, Callable[[], Network]] = {
    "8-bit input": lambda: lambda x: network("mlp")(rounded(255)(x)),
    "8-bit input, passed through": lambda: through(rounded(255), network("mlp")),
    "5 levels, passed through": lambda: through(rounded(5), network("mlp")),
    "5 levels, smooth gradient": lambda: through(
        rounded(5), network("mlp"), _smooth_steps
    ),
    "coarse activations": lambda: functools.partial(
        mlp, weights("mlp"), activation=_coarse
    ),
    "winners take all": lambda: functools.partial(
        mlp, weights("mlp"), activation=_winners
    ),
    "half of the pixels": lambda: damaged(network("mlp"), lambda g, x: g * _HALF),
    "pixels in another order": lambda: damaged(network("mlp"), _shuffled),
    "turned around": lambda: damaged(network("mlp"), lambda g, x: -g),
    "right on 8-bit levels": lambda: damaged(network("mlp"), _turned),
    "clipped gradient": lambda: damaged(
        network("standard"), lambda g, x: jnp.clip(g, -1e-4, 1e-4)
    ),
    "tiny gradient": lambda: damaged(network("mlp"), lambda g, x: 1e-12 * g),
    "stopped branch": lambda: _branches,
    "stopped smaller branch": lambda: _smaller_branch,
    "another's for two classes": lambda: _where(_of_two_classes),
    "another's near the boundary": lambda: _where(_near_the_boundary),
    "another network's": lambda: with_gradient_of(network("mlp"), network("linear")),
    "a linear network's": lambda: with_gradient_of(
        network("standard"), network("linear")
    ),
    "hashed noise on pixels": lambda: lambda x: network("mlp")(x + 0.05 * hashed(x)),
    "hashed noise, gradient passed": lambda: through(
        lambda x: x + 0.05 * hashed(x), network("mlp")
    ),
    "hashed noise on logits": lambda: (
        lambda x: (
            network("mlp")(x)
            + jax.lax.stop_gradient(
                jnp.sin(1e5 * x.sum((1, 2, 3)))[:, None] * jnp.arange(10)[None] / 3
            )
        )
    ),
    "large logits": lambda: lambda x: 1000 * network("standard")(x),
    "tanh": lambda: lambda x: jnp.tanh(network("mlp")(x)),
    "saturated tanh": lambda: lambda x: jnp.tanh(1000 * network("mlp")(x)),
    "probabilities": lambda: lambda x: jax.nn.softmax(network("mlp")(x)),
    "one-hot": lambda: lambda x: jax.nn.one_hot(network("mlp")(x).argmax(-1), 10),
}
