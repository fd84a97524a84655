"""The classifiers of PC-LC and SSC-DM against their originals' own numbers."""

import json
import math
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import convert, models
from tests.marks import full_but

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "classifiers"
LAYOUTS = json.loads((GOLDEN / "layouts.json").read_text())
# File -> name and fields; all but the first four are narrower than published.
CASES = {
    "lenet5": ("lenet5", {}),
    "lenet_sigmoid": ("lenet_sigmoid", {}),
    "cnn3": ("cnn3", {}),
    "resnet_cifar8": ("resnet_cifar", {"depth": 8}),
    "vgg11": ("vgg", {"depth": 11, "width": 4}),
    "vgg13_tiny": ("vgg", {"depth": 13, "width": 2, "num_classes": 200}),
    "alexnet": ("alexnet", {"width": 2}),
    "resnet18": ("resnet", {"depth": 18, "width": 4}),
    "resnet50": ("resnet", {"depth": 50, "width": 2}),
}
WHOLE = {
    **{f"vgg{d}": ("vgg", {"depth": d, "num_classes": 100}) for d in (11, 13, 16, 19)},
    "vgg13_tiny": ("vgg", {"depth": 13, "num_classes": 200}),
    "alexnet": ("alexnet", {}),
    **{f"resnet_cifar{d}": ("resnet_cifar", {"depth": d}) for d in (20, 56)},
    **{
        f"resnet{d}": ("resnet", {"depth": d, "num_classes": 100})
        for d in (18, 50, 101)
    },
}


def read(case):
    """Returns the model, its weights, and what the original made of the images."""
    with np.load(GOLDEN / f"{case}.npz") as data:
        data = dict(data)
    state = {k[3:]: v.astype(np.float32) for k, v in data.items() if k[:3] == "sd/"}
    name, fields = CASES[case]
    model = models.create(name, **fields)
    for key in ("x", "grad"):
        data[key] = data[key].transpose(0, 2, 3, 1)
    return model, convert.from_torch(model, state), data


def assert_close(got, want, tolerance):
    chex.assert_trees_all_close(got, want, rtol=0, atol=tolerance * np.abs(want).max())


def run(model, variables, x, train=False):
    """Returns the gradient of the sum of squared logits, and the outputs."""
    state = [name for name in variables if name != "params"]

    def loss(x):
        out, _ = model.apply(variables, x, train=train, mutable=state)
        return (out.logits**2).sum(), out

    # Compiling costs more than running here.
    quickly = {"xla_backend_optimization_level": 0}
    return jax.jit(jax.grad(loss, has_aux=True), compiler_options=quickly)(x)


@pytest.mark.parametrize("case", full_but(CASES, ("lenet5", "resnet_cifar8", "vgg11")))
def test_equal_to_the_original(case):
    model, variables, want = read(case)
    with jax.enable_x64(True):
        x = jnp.asarray(want["x"], jnp.float64)
        grad, out = run(model, variables, x)
        assert grad.dtype == out.logits.dtype == jnp.float64
        assert_close(out.logits, want["logits"], 1e-12)
        assert_close(out.features["penultimate"], want["penultimate"], 1e-12)
        assert_close(grad, want["grad"], 1e-6)  # stored in float32


@pytest.mark.parametrize("case", ["lenet5", "cnn3", "resnet_cifar8"])
def test_equal_in_float32(case):
    model, variables, want = read(case)
    with jax.default_matmul_precision("highest"):
        x = jnp.asarray(want["x"], jnp.float32)
        grad, out = run(model, variables, x)
    assert_close(out.logits, want["logits"], 1e-4)
    assert_close(out.features["penultimate"], want["penultimate"], 1e-4)
    assert_close(grad, want["grad"], 1e-3)


@pytest.mark.parametrize("case", ["vgg11", "resnet_cifar8"])
def test_batch_statistics_without_dropout(case):
    model, variables, want = read(case)
    with jax.enable_x64(True):
        x = jnp.asarray(want["x"], jnp.float64)
        _, out = run(model, variables, x, True)
        # Narrow layers of few pixels have variances near 0: rounding grows.
        assert_close(out.logits, want["train_logits"], 1e-7)


@pytest.mark.parametrize("case", WHOLE)
def test_names_and_shapes_of_the_whole_network(case):
    """Of published width: every entry fits, and none is left over."""
    name, fields = WHOLE[case]
    model = models.create(name, **fields)
    zero = np.zeros((), np.float16)
    state = {k: np.broadcast_to(zero, shape) for k, shape in LAYOUTS[case].items()}
    variables = convert.from_torch(model, state)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == sum(
        math.prod(shape) for shape in LAYOUTS[case].values()
    )


def test_vgg_of_another_image_size():
    with np.load(GOLDEN / "vgg13_tiny.npz") as data:
        state = {k[3:]: data[k] for k in data.files if k.startswith("sd/")}
    model = models.create("vgg", depth=13, width=2, num_classes=200)
    with pytest.raises(ValueError, match=r"classifier\.1\.weight is \(16, 64\)"):
        convert.from_torch(model, state, input_shape=(1, 32, 32, 3))
    same = convert.from_torch(model, state, input_shape=(1, 64, 64, 3))
    chex.assert_trees_all_equal(same, convert.from_torch(model, state))


@pytest.mark.parametrize(
    ("case", "edge"), [("lenet5", (12, 16)), ("cnn3", (20, 24)), ("vgg11", (32, 96))]
)
def test_side_and_channels_are_read_off_the_weights(case, edge):
    """Any image that leaves as many cells fits the weights of any other."""
    name, fields = CASES[case]
    model = models.create(name, **fields)
    for side in edge:
        shapes = jax.eval_shape(
            model.init, jax.random.key(0), jnp.ones((1, side, side, 2))
        )
        state = _as_torch(model, shapes)
        got = convert.from_torch(model, state)
        assert jax.tree.map(jnp.shape, got) == jax.tree.map(jnp.shape, dict(shapes))


def _as_torch(model, shapes):
    """Zeros in torch's names and layouts, from what an empty state dict lacks."""
    with pytest.raises(ValueError, match="missing") as caught:
        convert.from_torch(model, {})
    state = {}
    for line in str(caught.value).splitlines()[1:]:
        _, theirs, _, ours = line.rstrip(")").split()
        leaf = shapes
        for part in ours.split("/"):
            leaf = leaf[part]
        shape = leaf.shape
        if len(shape) > 1:
            shape = (shape[-1], shape[-2], *shape[:-2])
        state[theirs] = np.zeros(shape, np.float32)
    return state


def test_weights_of_another_network():
    """The two LeNets have the same shapes under other names."""
    with np.load(GOLDEN / "lenet_sigmoid.npz") as data:
        state = {k[3:]: data[k] for k in data.files if k.startswith("sd/")}
    with pytest.raises(ValueError, match=r"missing: conv1\.weight") as caught:
        convert.from_torch(models.create("lenet5"), state)
    assert "unexpected: conv1.0.weight" in str(caught.value)
    with pytest.raises(ValueError, match=r"missing: layer3\.1\.conv1\.weight"):
        convert.from_torch(
            models.create("resnet_cifar"), {}, input_shape=(1, 32, 32, 3)
        )
