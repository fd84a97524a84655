"""ConvNeXt and the vision transformers against timm's own numbers."""

import importlib.util
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import convert, models
from tests.marks import full_but

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "timm"
CONVNEXT = {"layers": (1, 1, 2, 1), "width": 8}
VIT = {"blocks": 2, "width": 12, "heads": 3}
XCIT = {"blocks": 2, "width": 16, "heads": 2}
SWIN = {"layers": (2, 2, 2, 1), "width": 8, "head_size": 4, "window": 4}
CASES = {
    "convnext": ("convnext", CONVNEXT),
    "convnext_conv2": ("convnext", {**CONVNEXT, "stem": "conv2"}),
    "convnext_conv3": ("convnext", {**CONVNEXT, "stem": "conv3"}),
    "vit": ("vit", VIT),
    "swin": ("swin", SWIN),
    "xcit": ("xcit", XCIT),
    "xcit_cifar": ("xcit", {**XCIT, "patch": 4}),
}
LARGE = {
    "vit_conv": ("vit", {**VIT, "stem": "conv"}),
    "convnext_sparse": ("convnext", {**CONVNEXT, "mean_sparse": True}),
    "swin_sparse": ("swin", {**SWIN, "mean_sparse": True}),
}
QUICKLY = {"xla_backend_optimization_level": 0}


def read(case):
    """Returns the network, its state dict, and what the original made of images."""
    with np.load(GOLDEN / f"{case}.npz") as data:
        data = dict(data)
    state = {k[3:]: v.astype("f") for k, v in data.items() if k[:3] == "sd/"}
    name, fields = CASES[case]
    return models.create(name, **fields), state, data


def assert_equal_to(model, state, x, want, gradients=True):
    """Compares logits and the gradient of the sum of their squares."""
    variables = convert.from_torch(model, state)

    def loss(x):
        logits = model.apply(variables, x).logits
        return jnp.square(logits).sum(), logits

    x = jnp.asarray(x.transpose(0, 2, 3, 1).astype("f"))
    with jax.default_matmul_precision("highest"):
        if gradients:
            run = jax.jit(jax.grad(loss, has_aux=True), compiler_options=QUICKLY)
            grad, logits = run(x)
            assert_close(grad, want["grad"].transpose(0, 2, 3, 1), 1e-3)
        else:
            _, logits = jax.jit(loss, compiler_options=QUICKLY)(x)
    assert_close(logits, want["logits"], 1e-4)


def assert_close(got, want, tolerance):
    chex.assert_trees_all_close(got, want, rtol=0, atol=tolerance * np.abs(want).max())


@pytest.mark.parametrize(
    "case", full_but(["convnext_conv2", "swin", "xcit_cifar"], ["swin"])
)
def test_logits_equal_to_the_original(case):
    """Quickly; their gradients, slow to compile, are among the following."""
    model, state, data = read(case)
    assert_equal_to(model, state, data["x"], data, gradients=False)


@pytest.mark.parametrize("case", full_but(CASES, ["vit"]))
def test_gradients_equal_to_the_original(case):
    model, state, data = read(case)
    assert_equal_to(model, state, data["x"], data)


@pytest.mark.full
@pytest.mark.parametrize("case", [*CASES, *LARGE])
def test_random_weights_in_timm(case):
    pytest.importorskip("timm")
    torch = pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("make_timm", GOLDEN / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    torch.manual_seed(1)
    net = make.fill((make.NETS | make.LARGE)[case]())
    side = make.side_of(case)
    x = torch.rand(2, 3, side, side)
    state = {f"module.{k}": v.clone() for k, v in net.state_dict().items()}
    name, fields = (CASES | LARGE)[case]
    model = models.create(name, **fields)
    assert_equal_to(model, state, x.numpy(), make.results(net, x))


@pytest.mark.parametrize("case", CASES)
def test_every_entry_is_used_and_missed(case):
    model, state, _ = read(case)
    leaves = jax.tree.leaves(convert.from_torch(model, state))
    assert sum(leaf.size for leaf in leaves) == sum(v.size for v in state.values())
    with pytest.raises(ValueError, match="does not fit") as caught:
        convert.from_torch(model, {})
    lines = str(caught.value).splitlines()[1:]
    assert {line.split()[1] for line in lines} == set(state)


def test_the_names_of_swin_in_other_code():
    """A merge there belongs to the stage before it, and tables are kept."""
    model, state, _ = read("swin")
    other = {}
    for name, value in state.items():
        for k in (1, 2, 3):
            name = name.replace(f"layers.{k}.downsample", f"layers.{k - 1}.downsample")
        other[name.replace("head.fc.", "head.")] = value
    other["layers.0.blocks.1.attn_mask"] = np.zeros((4, 16, 16), "f")
    other["layers.0.blocks.0.attn.relative_position_index"] = np.zeros((16, 16), int)
    want = convert.from_torch(model, state)
    chex.assert_trees_all_equal(convert.from_torch(model, other), want)


@pytest.mark.parametrize(
    ("name", "fields", "side", "told"),
    [
        ("vit", {}, 40, "multiples of 16 pixels, got 40x40"),
        ("vit", {}, 8, "at least 16x16 pixels"),
        ("swin", {}, 33, "multiples of 32 pixels, got 33x33"),
        ("swin", {}, 64, r"multiple of 7 patches .*\(`window`\), .* has 16x16"),
        ("convnext", {}, 16, "at least 32x32 pixels"),
        ("convnext", {"stem": "conv"}, 0, "`stem` must be 'patch', 'conv2' or 'conv3'"),
        ("convnext", {"width": 6, "stem": "conv2"}, 0, "multiple of 4, got 6"),
        ("convnext", {"layers": (1, 2)}, 0, r"of four stages, got \(1, 2\)"),
        ("vit", {"heads": 5}, 0, "`width` must be a multiple of `heads`, got 384 and"),
        ("xcit", {"patch": 8}, 0, "`patch` must be 16 or 4, got 8"),
    ],
)
def test_impossible_sizes(name, fields, side, told):
    def make():
        model = models.create(name, **fields)
        jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, side, side, 3)))

    with pytest.raises(ValueError, match=told):
        make()
