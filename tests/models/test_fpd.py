"""FPD: its parts in closed form, its golden blocks, its switches and refusals."""

import functools
import math
import pathlib

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust import models
from jaxrobust.models import _residual
from jaxrobust.models._decoder import Decoder, TransposedConv, upsample_add
from jaxrobust.models.fpd import Classifier, gram_denoise, spectral_norm
from tests.marks import full_but

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
TINY = {"layers": (1, 1, 1, 1), "width": 4}
# Parity needs no fast code, only code that is compiled fast.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(params=full_but(["float32", "float64"], ["float32"]))
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield np.dtype(request.param)


def load(case):
    with np.load(GOLDEN / f"fpd_{case}.npz") as arrays:
        return dict(arrays)


def nhwc(array):
    return array.transpose(0, 2, 3, 1)


def assert_close(got, want, rtol):
    chex.assert_trees_all_close(got, want, rtol=0, atol=rtol * np.abs(want).max())


def tolerance(dtype, loose=1e-5):
    return loose if dtype == np.float32 else 1e-10


def weights(model, shape=(1, 8, 8, 3)):
    """Random weights without a compilation."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.ones(shape))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key.endswith("kernel"):
            deviation = math.prod(leaf.shape[:-1]) ** -0.5
            return jnp.asarray(rng.normal(0, deviation, leaf.shape), leaf.dtype)
        low, high = {"bias": (-0.1, 0.1), "mean": (-0.1, 0.1)}.get(
            path[-1].key, (0.5, 1.5)
        )
        return jnp.asarray(rng.uniform(low, high, leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.mark.parametrize("n", range(4))
def test_gram_denoising(n, dtype):
    arrays = load("gram")
    x, c = (jnp.asarray(nhwc(arrays[f"{n}/{k}"]), dtype) for k in "xc")
    with jax.default_matmul_precision("highest"):
        out = jit(gram_denoise)(x)
        grad = jit(jax.grad(lambda x: jnp.sum(gram_denoise(x) * c)))(x)
    chex.assert_equal_shape([out, grad, x])
    chex.assert_type([out, grad], dtype)
    assert_close(out, nhwc(arrays[f"{n}/out64"]), tolerance(dtype))
    assert_close(grad, nhwc(arrays[f"{n}/grad_x64"]), tolerance(dtype))


def test_gram_denoising_of_one_position_is_its_norm():
    x = jnp.asarray([1.0, 2.0, 3.0]).reshape(1, 1, 1, 3)
    chex.assert_trees_all_close(gram_denoise(x), 15 * x, rtol=1e-7)
    half = gram_denoise(x.astype(jnp.bfloat16))
    chex.assert_type(half, jnp.bfloat16)


def test_denoising_of_the_second_input(dtype):
    arrays = load("input_denoise")
    x, restored = (jnp.asarray(nhwc(arrays[k]), dtype) for k in ("x", "p2"))
    assert_close(gram_denoise(x, restored), nhwc(arrays["out64"]), tolerance(dtype))


@pytest.mark.parametrize("n", range(7))
def test_upsample_add(n, dtype):
    arrays = load("upsample_add")
    x, lateral = (jnp.asarray(nhwc(arrays[f"{n}/{k}"]), dtype) for k in "xy")
    assert_close(upsample_add(x, lateral), nhwc(arrays[f"{n}/out64"]), tolerance(dtype))


@pytest.mark.parametrize(("case", "ratio"), [("resnet", 4), ("resnext", 1)])
def test_transposed_convolutions(case, ratio, dtype):
    arrays = load(f"transconv_{case}")
    x = jnp.asarray(nhwc(arrays["x"]), dtype)
    for n, (features, *sizes) in enumerate(Decoder(3, ratio).plan()):
        variables = {
            "transposed_kernel": arrays[f"sd/{n}.weight"].transpose(2, 3, 0, 1),
            "bias": arrays[f"sd/{n}.bias"],
        }
        cast = jax.tree.map(lambda a: jnp.asarray(a, dtype), variables)
        with jax.default_matmul_precision("highest"):
            x = TransposedConv(features, *sizes).apply({"params": cast}, x)
    assert_close(x, nhwc(arrays["out64"]), tolerance(dtype))


BLOCKS = {
    "bottleneck": ({"features": 8, "strides": 2}, "group1.conv{}", "group1.bn{}"),
    "bottleneck_id": ({"features": 8}, "group1.conv{}", "group1.bn{}"),
    "resnext_block": (
        {"features": 32, "strides": 2, "groups": 32, "inner": 64},
        "",
        "",
    ),
}


def block_variables(case, arrays, prefix="sd/", suffix=""):
    """Reads a block's weights, or its buffers after a train-mode run."""
    _, conv, norm = BLOCKS[case]
    places = {f"layer{n}": (conv.format(n), norm.format(n)) for n in (1, 2, 3)}
    places["shortcut"] = ("downsample.0", "downsample.1")
    if not conv:
        names = [f"split_transforms.{n}" for n in (0, 1, 3, 4, 6, 7)]
        places = {f"layer{n + 1}": tuple(names[2 * n : 2 * n + 2]) for n in range(3)}
        places["shortcut"] = ("shortcut.0", "shortcut.1")
    params, stats = {}, {}
    for name, (conv_name, norm_name) in places.items():
        if f"sd/{conv_name}.weight" not in arrays:
            continue
        params[name] = {
            "conv": {"kernel": arrays[f"sd/{conv_name}.weight"].transpose(2, 3, 1, 0)},
            "norm": {
                "scale": arrays[f"sd/{norm_name}.weight"],
                "bias": arrays[f"sd/{norm_name}.bias"],
            },
        }
        stats[name] = {
            "norm": {
                "mean": arrays[f"{prefix}{norm_name}.running_mean{suffix}"],
                "var": arrays[f"{prefix}{norm_name}.running_var{suffix}"],
            }
        }
    return {"params": params, "batch_stats": stats}


@pytest.mark.parametrize("case", BLOCKS)
def test_blocks(case, dtype):
    arrays = load(case)
    fields = BLOCKS[case][0]
    block = _residual.ResidualBlock(bottleneck=True, activation=nn.elu, **fields)
    cast = functools.partial(jax.tree.map, lambda a: jnp.asarray(a, dtype))
    variables = cast(block_variables(case, arrays))
    x, c = (jnp.asarray(nhwc(arrays[k]), dtype) for k in "xc")

    def loss(x, train):
        out, state = block.apply(variables, x, train=train, mutable=["batch_stats"])
        return jnp.sum(out * c), (out, state)

    for mode in ("eval", "train"):
        with jax.default_matmul_precision("highest"):
            grad, (out, state) = jit(
                jax.grad(functools.partial(loss, train=mode == "train"), has_aux=True)
            )(x)
        assert_close(out, nhwc(arrays[f"{mode}/out64"]), tolerance(dtype, 1e-4))
        assert_close(grad, nhwc(arrays[f"{mode}/grad_x64"]), tolerance(dtype, 1e-3))
    after = block_variables(case, arrays, "after/", "64")["batch_stats"]
    chex.assert_trees_all_close(
        state["batch_stats"], after, rtol=0, atol=10 * tolerance(dtype)
    )


NORM = jax.jit(spectral_norm)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([(6, 3), (3, 6), (1, 4), (5, 5)]), st.integers(0, 10**6))
def test_spectral_norm_is_that_of_the_singular_values(shape, seed):
    kernel = np.random.default_rng(seed).normal(size=shape)
    want = np.linalg.norm(kernel, 2)
    with jax.enable_x64(True):
        got = float(NORM(jnp.asarray(kernel)))
    chex.assert_trees_all_close(got, want, rtol=1e-4)
    assert got <= want * (1 + 1e-9)


def test_spectral_norm_has_a_gradient_and_survives_zero():
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(7, 4)), jnp.float32)
    u, s, vt = np.linalg.svd(kernel)
    chex.assert_trees_all_close(spectral_norm(kernel), s[0], rtol=1e-5)
    want = np.outer(u[:, 0], vt[0])
    chex.assert_trees_all_close(
        jax.grad(spectral_norm)(kernel), want, rtol=0, atol=1e-3
    )
    zero = jnp.zeros((7, 4))
    assert spectral_norm(zero) == 0
    chex.assert_tree_all_finite(jax.grad(spectral_norm)(zero))


def test_bounded_classifier_is_lipschitz():
    classifier = Classifier(4, squash=False, spectral_bound=0.5)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6)), jnp.float32)
    kernel = jnp.asarray(np.random.default_rng(1).normal(size=(6, 4)), jnp.float32)
    u, *_ = np.linalg.svd(kernel)
    x = jnp.stack([x[0], x[0] + u[:, 0]])
    for factor in (1.0, 10.0):
        params = {"kernel": factor * kernel, "bias": jnp.ones(4)}
        first, second = classifier.apply({"params": params}, x)
        chex.assert_trees_all_close(np.linalg.norm(second - first), 0.5, rtol=1e-4)
    small = {"kernel": 1e-3 * kernel, "bias": jnp.zeros(4)}
    plain = Classifier(4, squash=False)
    chex.assert_trees_all_close(
        classifier.apply({"params": small}, x),
        plain.apply({"params": small}, x),
        rtol=1e-7,
    )
    params = {"kernel": kernel, "bias": jnp.ones(4)}
    squashed = Classifier(4).apply({"params": params}, x)
    assert np.abs(squashed).max() <= 1


class Plain(nn.Module):
    """An encoder that knows nothing of denoising and returns a tuple."""

    @nn.compact
    def __call__(self, x, *, train=False):
        levels = []
        for strides in (2, 2, 2, 1):
            x = nn.elu(nn.Conv(4, (3, 3), strides)(x))
            levels.append(x)
        return tuple(levels)


class Denoising(nn.Module):
    """An encoder of four convolutions, which compile fast."""

    @nn.compact
    def __call__(self, x, *, train=False, denoise=lambda x: x):
        levels = {}
        for level, strides in (("c2", 2), ("c3", 2), ("c4", 2), ("c5", 1)):
            x = levels[level] = nn.elu(nn.Conv(4, (3, 3), strides)(x))
            x = denoise(x) if level == "c2" else x
        return levels


def test_any_encoder():
    model = models.fpd(Plain(), num_classes=3, pyramid=8)
    assert not model.front_denoising
    assert not model.back_denoising
    x = jnp.ones((2, 8, 12, 1))
    variables = weights(model, x.shape)
    out = jit(model.apply)(variables, x)
    chex.assert_shape(out.logits, (2, 3))
    chex.assert_equal_shape([out.restored, x])
    chex.assert_shape(out.features["c2"], (2, 4, 6, 4))
    chex.assert_shape(out.features["penultimate"], (2, 4))
    chex.assert_tree_all_finite(out)
    with pytest.raises(ValueError, match="Plain takes no `denoise`"):
        models.fpd(Plain(), back_denoising=True)


def test_an_encoder_without_its_levels():
    class Wrong(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            return {"c2": x, "c3": x}

    model = models.fpd(Wrong())
    with pytest.raises(TypeError, match=r"`encoder` Wrong must return.*c5, got .*'c3'"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 8, 8, 3)))


SWITCHES = (
    "restoration", "front_denoising", "back_denoising", "input_denoising",
    "constrained",
)  # fmt: skip


@pytest.mark.parametrize("off", SWITCHES)
def test_each_module_can_be_left_out(off):
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 8, 8, 3)), jnp.float32)
    full = models.fpd(Denoising(), pyramid=4, widths=(4, 4))
    less = models.fpd(Denoising(), pyramid=4, widths=(4, 4), **{off: False})
    variables = weights(full)
    out, other = (jit(m.apply)(variables, x) for m in (full, less))
    changed = not np.allclose(
        out.features["penultimate"], other.features["penultimate"], rtol=1e-4
    )
    assert changed == (off != "constrained")
    if off == "constrained":
        chex.assert_trees_all_close(out.logits, np.tanh(other.logits), rtol=1e-5)
    assert (other.restored is None) == (off == "restoration")
    if off == "restoration":
        assert "decoder" not in weights(less)["params"]
    elif off == "front_denoising":
        assert not np.allclose(out.restored, other.restored)
    else:
        chex.assert_trees_all_equal(out.restored, other.restored)


def test_undefended_is_a_plain_network():
    model = models.create("fpd_resnet", **TINY, defended=False)
    assert model.encoder.activation == "relu"
    assert not any(getattr(model, name) for name in SWITCHES)
    assert model.dropout == 0
    assert set(weights(model)["params"]) == {"encoder", "classifier"}


@pytest.mark.parametrize(
    ("name", "fields", "classes", "pyramid", "dropout"),
    [
        ("fpd_resnet", {}, 10, 256, 0.0),
        ("fpd_resnet", {"depth": 50, "variant": "svhn"}, 10, 128, 0.5),
        ("fpd_resnet", {"depth": 50, "layers": (1, 1, 1, 1)}, 10, 128, 0.0),
        ("fpd_resnet", {"variant": "caltech101"}, 102, 256, 0.5),
        ("fpd_resnet", {"variant": "caltech256", "num_classes": 5}, 5, 256, 0.5),
        ("fpd_resnext", {}, 10, 128, 0.5),
        ("fpd_resnext", {"depth": 101, "pyramid": 64}, 10, 64, 0.5),
    ],
)
def test_variants(name, fields, classes, pyramid, dropout):
    model = models.create(name, **fields)
    found = (model.num_classes, model.pyramid, model.dropout)
    assert found == (classes, pyramid, dropout)


def test_train_mode_drops_as_its_key_says():
    model = models.fpd(Denoising(), pyramid=4, widths=(4, 4), dropout=0.9)
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(4, 8, 8, 3)), jnp.float32)
    variables = weights(model)
    apply = jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
    runs = [apply(variables, x, rngs={"dropout": jax.random.key(n)}) for n in (0, 0, 1)]
    chex.assert_trees_all_equal(runs[0][0].logits, runs[1][0].logits)
    assert not np.array_equal(runs[0][0].logits, runs[2][0].logits)


def test_normalisation_is_inside_and_restores_pixels():
    fields = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)}
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(1, 8, 8, 3)), jnp.float32)
    plain = models.create("fpd_resnet", **TINY, restoration=False)
    normed = models.create("fpd_resnet", **TINY, restoration=False, **fields)
    variables = weights(plain)
    mean, std = (jnp.asarray(fields[k]).reshape(1, 1, 1, 3) for k in ("mean", "std"))
    chex.assert_trees_all_close(
        jit(normed.apply)(variables, x).logits,
        jit(plain.apply)(variables, (x - mean) / std).logits,
        rtol=1e-4,
    )


def test_bfloat16_keeps_parameters_and_logits_wide():
    model = models.create("fpd_resnext", **TINY, dtype=jnp.bfloat16)
    variables = weights(model)
    out = jax.eval_shape(model.apply, variables, jnp.ones((1, 8, 8, 3)))
    chex.assert_type([out.logits, out.restored], jnp.float32)
    chex.assert_type(out.features["c5"], jnp.bfloat16)
    chex.assert_type(jax.tree.leaves(variables), jnp.float32)


def test_gradients_in_loops_are_fast_convolutions():
    """As in test_conv: no layout that XLA's CPU backend runs in its naive kernel."""
    import re

    model = models.create("fpd_resnext", **TINY)
    variables, x = weights(model), jnp.ones((2, 8, 8, 3))

    def body(_, x):
        return x + jax.grad(lambda x: jnp.sum(model.apply(variables, x).logits))(x)

    text = jax.jit(lambda x: jax.lax.fori_loop(0, 2, body, x)).lower(x).as_text()
    layouts = set(re.findall(r"dim_numbers = (\[.*?\]x\[.*?\]->\[.*?\])", text))
    assert layouts == {"[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"}


@pytest.mark.parametrize(
    ("name", "fields", "error", "message"),
    [
        ("fpd_resnet", {"depth": 51}, ValueError, "`depth` must be one of 50.*51"),
        ("fpd_resnext", {"depth": 18}, ValueError, "`depth`.*layers.*18"),
        ("fpd_resnet", {"layers": (1, 1, 1)}, ValueError, "`layers` must be four"),
        ("fpd_resnet", {"layers": (1, 1, 0, 1)}, ValueError, "`layers`.*got 0"),
        ("fpd_resnet", {"variant": "mnits"}, ValueError, "'mnits'.*'mnist'"),
        ("fpd_resnet", {"dropout": 1.0}, ValueError, "`dropout`.*1.0"),
        ("fpd_resnet", {"spectral_bound": -1.0}, ValueError, "`spectral_bound`"),
        ("fpd_resnet", {"constrain": False}, TypeError, "'constrain'.*'constrained'"),
        ("fpd_resnet", {"pyramid": 0}, ValueError, "`pyramid`.*0"),
        ("fpd_resnet", {"widths": (4,)}, ValueError, "`widths` needs at least two"),
        ("fpd_resnet", {"widths": 4}, ValueError, "`widths` needs at least two"),
        ("fpd_resnext", {"cardinality": 7}, ValueError, "`cardinality` must divide"),
    ],
)
def test_refusals(name, fields, error, message):
    with pytest.raises(error, match=message):
        models.create(name, **fields)


@pytest.mark.parametrize("shape", [(1, 30, 32, 3), (1, 32, 34, 3)])
def test_images_of_impossible_size(shape):
    model = models.create("fpd_resnet", **TINY)
    with pytest.raises(ValueError, match=r"3\dx3\d pixels.*multiples of 4"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.ones(shape))
    less = models.create("fpd_resnet", **TINY, restoration=False)
    jax.eval_shape(less.init, jax.random.key(0), jnp.ones(shape))
