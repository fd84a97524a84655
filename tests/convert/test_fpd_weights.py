"""FPD against its original: whole networks, weights imported.

`fpd_small_*`: made by tests/golden/make_fpd_small.py. The two of the full width are too
large to be kept here; they are found in ../shared.
"""

import functools
import itertools
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import convert, losses, models
from tests.marks import full_but

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
LARGE = ROOT.parent / "shared" / "golden" / "large"
SMALL = {"layers": (1, 2, 1, 1), "width": 4, "dropout": 0.0}
NETS = {
    "resnet": models.create("fpd_resnet", **SMALL),
    "resnext": models.create("fpd_resnext", **SMALL),
    "undefended": models.create("fpd_resnet", **SMALL, defended=False),
}
# Parity needs no fast code, only code that is compiled fast.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def load(path):
    with np.load(path) as data:
        arrays = dict(data)
    state_dict = {k[3:]: v for k, v in arrays.items() if k.startswith("sd/")}
    return arrays, {
        k: v.astype(np.float32) if v.dtype == np.float16 else v
        for k, v in state_dict.items()
    }


def nhwc(array):
    return jnp.asarray(array.transpose(0, 2, 3, 1))


def assert_close(got, want, rtol, floor=0.0):
    atol = rtol * max(np.abs(want).max(), floor)
    chex.assert_trees_all_close(got, want, rtol=0, atol=atol)


def run(model, variables, arrays, prefix, train):
    """Returns the loss, outputs, statistics and gradients of images and parameters."""
    x, y = nhwc(arrays["x"]), jnp.asarray(arrays["y"], jnp.int32)

    def loss(params, x):
        out, state = model.apply(
            {**variables, "params": params}, x, train=train, mutable=["batch_stats"]
        )
        total = losses.cross_entropy(out.logits, y).mean()
        if out.restored is not None:
            total += jnp.mean((out.restored - nhwc(arrays["x"])) ** 2)
        return total, (out, state)

    function = jax.value_and_grad(loss, (0, 1), has_aux=True) if train else loss
    with jax.default_matmul_precision("highest"):
        found = jit(function)(variables["params"], x)
    (total, (out, state)), grads = found if train else (found, (None, None))
    chex.assert_trees_all_close(total, arrays[f"{prefix}/loss"], rtol=1e-5)
    return out, state, grads


@pytest.mark.parametrize(
    ("case", "mode"),
    full_but(
        itertools.product(NETS, ("eval", "train")),
        [("resnext", "eval"), ("undefended", "eval")],
    ),
)
def test_narrow_networks(case, mode):
    arrays, state_dict = load(GOLDEN / f"fpd_small_{case}.npz")
    model, train = NETS[case], mode == "train"
    variables = convert.from_torch(model, state_dict)
    # BatchNorm over three numbers, as in c5 here, magnifies float32's rounding.
    with jax.enable_x64(train):
        dtype = jnp.float64 if train else jnp.float32
        variables = jax.tree.map(lambda leaf: leaf.astype(dtype), variables)
        arrays = {
            k: v.astype(dtype) if v.dtype == np.float32 else v
            for k, v in arrays.items()
        }
        out, state, (grads, grad_x) = run(model, variables, arrays, mode, train)
    assert_close(out.logits, arrays[f"{mode}/logits"], 1e-6 if train else 1e-4)
    if case != "undefended":
        want = arrays[f"{mode}/p2"].transpose(0, 2, 3, 1)
        assert_close(out.restored, want, 1e-6 if train else 1e-4)
    if train:
        want = arrays[f"{mode}/grad_x"].transpose(0, 2, 3, 1)
        assert_close(grad_x, want, 1e-5)
        assert_statistics(model, state, arrays, state_dict)
        assert_gradients(model, grads, arrays, state_dict)


def assert_statistics(model, state, arrays, state_dict):
    """Compares the running statistics, which each pass has moved once."""
    after = {k[6:]: v for k, v in arrays.items() if k.startswith("after/")}
    want = convert.from_torch(model, {**state_dict, **after})["batch_stats"]
    for got, wanted in zip(
        *map(jax.tree.leaves, (state["batch_stats"], want)), strict=True
    ):
        assert_close(got, wanted, 1e-4)


def assert_gradients(model, grads, arrays, state_dict):
    """Compares the stored gradients of parameters."""
    stored = {k[11:]: v for k, v in arrays.items() if k.startswith("train/grad/")}
    zeros = {k: np.zeros_like(v) for k, v in state_dict.items()}
    marks = {k: np.full(v.shape, k in stored) for k, v in state_dict.items()}
    want = convert.from_torch(model, {**zeros, **stored})["params"]
    marks = convert.from_torch(model, marks)["params"]
    largest = max(np.abs(v).max() for v in stored.values())
    compared = 0
    for got, wanted, mark in zip(
        *map(jax.tree.leaves, (grads, want, marks)), strict=True
    ):
        if np.all(mark):
            # Some are 0 but for rounding.
            assert_close(got, wanted, 1e-3, floor=1e-3 * largest)
            compared += 1
    assert compared == len(stored) > 20


@pytest.mark.full
@pytest.mark.parametrize(
    ("case", "prefix"), [("resnet", "in64"), ("resnet", "in196"), ("resnext", "in32")]
)
def test_networks_of_full_width(case, prefix):
    path = LARGE / f"fpd_{case}_full.npz"
    if not path.exists():
        pytest.skip(f"{path.name} is not kept in the repository (8 MB)")
    arrays, state_dict = load(path)
    model = models.create(f"fpd_{case}", layers=(1, 1, 1, 1))
    variables = convert.from_torch(model, state_dict)
    x, y = nhwc(arrays[f"{prefix}/x"]), jnp.asarray(arrays[f"{prefix}/y"], jnp.int32)

    def loss(x):
        out = model.apply(variables, x)
        return losses.cross_entropy(out.logits, y).mean(), out

    # At 196 px a near tie in the max pool moves the gradient of a few pixels in
    # float32, and float64 is slow.
    gradient = prefix != "in196"
    with jax.default_matmul_precision("highest"):
        grad, out = jit(jax.grad(loss, has_aux=True) if gradient else loss)(x)
    assert_close(out.logits, arrays[f"{prefix}/class_pre64"], 1e-4)
    assert_close(out.restored, nhwc(arrays[f"{prefix}/p264"]), 1e-4)
    if gradient:
        assert_close(grad, nhwc(arrays[f"{prefix}/grad_x64"]), 1e-3)


def test_what_does_not_fit_is_named():
    _, state_dict = load(GOLDEN / "fpd_small_resnet.npz")
    missing = dict(state_dict)
    del missing["trans_conv.1.weight"]
    missing["latlayer1.weight"] = missing["latlayer1.weight"][:, :-1]
    missing["trans_conv.0.weight"] = missing["trans_conv.0.weight"][:, :2]
    missing["toplayre.weight"] = np.zeros(3)
    with pytest.raises(ValueError, match="does not fit FPD") as error:
        convert.from_torch(NETS["resnet"], missing)
    text = str(error.value)
    assert "missing: trans_conv.1.weight" in text
    assert "unexpected: toplayre.weight" in text
    assert "trans_conv.0.weight is (16, 2, 2, 2), expected (16, 4, 2, 2)" in text
    assert "latlayer1.weight is (16, 63, 1, 1), expected (16, 64, 1, 1)" in text


def test_the_unused_layer_of_the_undefended_network_alone_is_left_out():
    _, state_dict = load(GOLDEN / "fpd_small_undefended.npz")
    assert "toplayer.weight" in state_dict
    with pytest.raises(ValueError, match=r"unexpected: toplayer2\.weight"):
        convert.from_torch(
            NETS["undefended"], {**state_dict, "toplayer2.weight": np.zeros(2)}
        )


def test_other_encoders_have_no_names_in_torch():
    model = models.fpd(models.create("preact_resnet"), front_denoising=False)
    with pytest.raises(TypeError, match="FPD on PreActResNet; known: fpd_resnet"):
        convert.from_torch(model, {})
