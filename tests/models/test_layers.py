import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxrobust import models
from jaxrobust.models import layers, ssp


def features(dtype=np.float64, batch=8):
    return np.random.default_rng(0).normal(2, 3, (batch, 4, 4, 6)).astype(dtype)


def test_batch_norm_is_torchs():
    x = features(np.float32)
    norm = layers.BatchNorm()
    variables = norm.init(jax.random.key(0), x)
    out, moved = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    chex.assert_trees_all_close(
        out, (x - mean) / np.sqrt(var + 1e-5), rtol=0, atol=1e-5
    )
    n = x.size // 6
    stats = moved["batch_stats"]
    chex.assert_trees_all_close(stats["mean"], 0.1 * mean, rtol=1e-5)
    chex.assert_trees_all_close(stats["var"], 0.9 + 0.1 * var * n / (n - 1), rtol=1e-5)
    out = norm.apply({**variables, **moved}, x)
    mean, var = (np.asarray(stats[name]) for name in ("mean", "var"))
    want = (x - mean) / np.sqrt(var + 1e-5)
    chex.assert_trees_all_close(out, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("updates", [2, 3])
def test_updates_count_as_calls(updates):
    x = features(np.float32)
    norm = layers.BatchNorm()
    once = several = norm.init(jax.random.key(0), x)
    _, once = norm.apply(
        once, x, train=True, updates=updates, mutable=["params", "batch_stats"]
    )
    for _ in range(updates):
        _, several = norm.apply(
            several, x, train=True, mutable=["params", "batch_stats"]
        )
    chex.assert_trees_all_close(once, several, rtol=1e-6)


def test_batch_norm_statistics_are_global():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    with jax.enable_x64(True):
        x = jnp.asarray(features())
        norm = layers.BatchNorm()
        variables = norm.init(jax.random.key(0), x)

        @jax.jit
        def run(x):
            return norm.apply(variables, x, train=True, mutable=["batch_stats"])

        split = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
        chex.assert_trees_all_close(run(x), run(split), rtol=1e-12)


@pytest.mark.parametrize(("kind", "groups"), [("g", 6), ("l", 1), ("i", 6)])
def test_group_norms(kind, groups):
    x = features(np.float32)
    norm = ssp.Parts(kind).make_norm("norm")
    out = norm.apply(norm.init(jax.random.key(0), x), x)
    grouped = x.reshape(8, 16, groups, -1)
    mean, var = (f(grouped, (1, 3), keepdims=True) for f in (np.mean, np.var))
    want = ((grouped - mean) / np.sqrt(var + 1e-5)).reshape(x.shape)
    chex.assert_trees_all_close(out, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", layers.NORMS)
def test_bfloat16_norms_keep_float32_parameters(kind):
    x = jnp.asarray(features(np.float32), jnp.bfloat16)
    norm = ssp.Parts(kind, computing=layers.Computing("bfloat16")).make_norm("norm")
    variables = norm.init(jax.random.key(0), x)
    out, moved = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    chex.assert_equal_shape([out, x])
    chex.assert_type(out, jnp.bfloat16)
    chex.assert_type(jax.tree.leaves((variables, moved)), jnp.float32)


def test_unknown_norm_and_bad_groups():
    with pytest.raises(ValueError, match=r"unknown norm 'x'.*'b'"):
        ssp.Parts("x")
    norm = ssp.Parts("g").make_norm("norm")
    with pytest.raises(ValueError, match="divisible by 32, got 48"):
        jax.eval_shape(norm.init, jax.random.key(0), jnp.ones((1, 2, 2, 48)))


def test_normalize():
    x = jnp.full((1, 2, 2, 3), 0.5)
    out = layers.normalize(x, (0.5, 0.25, 0.0), (1.0, 0.5, 2.0))
    chex.assert_trees_all_close(out[0, 0, 0], np.asarray([0.0, 0.5, 0.25]), rtol=1e-7)
    assert layers.normalize(x, None, None) is x
    with pytest.raises(ValueError, match="`mean` has 2 values, the images 3"):
        layers.normalize(x, (0.5, 0.5), None)
    with pytest.raises(ValueError, match=r"`std`.*above 0"):
        layers.normalize(x, None, (0.5, 0.0, 0.5))


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"mean": 0.5}, TypeError, r"`mean` must be a tuple of 3 .*got 0\.5"),
        ({"std": 0.5}, TypeError, r"`std` must be a tuple of 3 .*got 0\.5"),
        ({"std": ("a", "b", "c")}, TypeError, "`std` must be a tuple of 3 numbers"),
        ({"std": (0.5, 0.5)}, ValueError, "`std` has 2 values, the images 3 ch.*of 3"),
        ({"std": (0.0, 0.5, 0.5)}, ValueError, "`std` must be above 0"),
        ({"std": (float("nan"),) * 3}, ValueError, "`std` must be finite"),
    ],
)
def test_mean_and_std_are_checked(fields, error, message):
    model = models.create("preact_resnet", width=4, **fields)
    with pytest.raises(error, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 8, 8, 3)))


@pytest.mark.parametrize("name", models.names())
def test_networks_refuse_images_of_another_kind(name):
    model, key = models.create(name), jax.random.key(0)
    side = 64 if name == "ssp_tinyimagenet" else 32
    channels = 1 if name == "ssp_mnist" else 3
    images = jnp.ones((2, side, side, channels))
    for dtype in ("uint8", "int32"):
        with pytest.raises(TypeError, match=f"`images` .*{dtype}; .*divide by 255"):
            model.init(key, images.astype(dtype))
    with pytest.raises(ValueError, match=r"`images` must have shape.*batch axis"):
        model.init(key, images[0])
