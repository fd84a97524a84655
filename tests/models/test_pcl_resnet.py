"""`pcl_resnet` against the original's numbers (tests/golden/pcl_resnet_*)."""

import functools
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import convert, models
from jaxrobust.models._residual import ResidualBlock
from tests.marks import full_but

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
FEATURES = {"m": "auxiliary", "z": "pooled", "x1024": "embedding"}
CASES = {"basic": 14, "bottleneck_step": 56}

# Parity needs no fast code, only code that is compiled fast.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def load(case):
    with np.load(GOLDEN / f"pcl_resnet_{case}.npz") as data:
        arrays = dict(data)
    state_dict = {k[3:]: v for k, v in arrays.items() if k.startswith("sd/")}
    return arrays, state_dict


def assert_close(got, want, rtol):
    chex.assert_trees_all_close(got, want, rtol=0, atol=rtol * np.abs(want).max())


@pytest.mark.parametrize(
    ("case", "mode", "dtype"),
    full_but(
        [
            ("basic", "eval", "float32"),
            ("basic", "train", "float32"),
            ("basic", "train", "float64"),
            ("bottleneck_step", "eval", "float32"),
        ],
        [("basic", "train", "float32")],
    ),
)
def test_golden(case, mode, dtype):
    arrays, state_dict = load(case)
    with jax.enable_x64(dtype == "float64"):
        model = models.create("pcl_resnet", depth=CASES[case])
        variables = convert.from_torch(model, state_dict)
        variables = jax.tree.map(lambda a: jnp.asarray(a, dtype), variables)
        count = len(arrays[f"{mode}/y"])
        x = jnp.asarray(arrays["x"][:count].transpose(0, 2, 3, 1), dtype)
        y = jnp.asarray(arrays["labels"][:count], jnp.int32)

        @jit
        def run(variables, x):
            def loss(x):
                out, moved = model.apply(
                    variables, x, train=mode == "train", mutable=["batch_stats"]
                )
                ce = optax.softmax_cross_entropy_with_integer_labels(out.logits, y)
                return ce.mean(), (out, moved)

            return jax.value_and_grad(loss, has_aux=True)(x)

        (ce, (out, moved)), gradient = run(variables, x)
    double = dtype == "float64"
    suffix, rtol = ("64", 1e-9) if double else ("", 1e-4)
    for theirs, ours in FEATURES.items():
        want = arrays[f"{mode}/{theirs}{suffix}"]
        assert_close(out.features[ours], want, rtol)
    chex.assert_type([out.logits, gradient], dtype)
    chex.assert_equal_shape([gradient, x])
    assert_close(out.logits, arrays[f"{mode}/y{suffix}"], rtol)
    assert_close(ce, arrays[f"{mode}/ce{suffix}"], rtol)
    want = arrays[f"{mode}/grad_x"].transpose(0, 2, 3, 1)
    assert_close(gradient, want, 2e-7 if double else 1e-3)
    if mode == "train":
        assert_statistics(moved, arrays, model, state_dict)


def assert_statistics(moved, arrays, model, state_dict):
    after = {k: arrays.get(f"after/{k}64", v) for k, v in state_dict.items()}
    assert sum(f"after/{k}64" in arrays for k in after) == 30
    want = convert.from_torch(model, after)["batch_stats"]
    leaves = zip(*map(jax.tree.leaves, (moved["batch_stats"], want)), strict=True)
    for got, ref in leaves:
        assert_close(got, np.asarray(ref), 1e-5)


def shapes(model, shape=(2, 32, 32, 3)):
    def run(x):
        return model.init_with_output(jax.random.key(0), x)[0]

    out = jax.eval_shape(run, jax.ShapeDtypeStruct(shape, jnp.float32))
    return {name: value.shape for name, value in out.features.items()}


@pytest.mark.full
def test_features_of_the_papers_network():
    found = shapes(models.create("pcl_resnet", depth=110))
    assert found["pooled"] == (2, 256)
    assert found["embedding"] == found["penultimate"] == (2, 1024)
    assert found["auxiliary"] == (2, 128)
    assert found["stage3/out"] == (2, 8, 8, 256)


def test_branches():
    fields = {"depth": 8, "width": 4, "embedding_size": 16, "branch_size": 5}
    bare = shapes(models.create("pcl_resnet", **fields, branches=()))
    every = models.create(
        "pcl_resnet", **fields, branches=["auxiliary", "stage1", "stage2", "stage3"]
    )
    found = shapes(every)
    extra = {name: found[name] for name in found.keys() - bare.keys()}
    assert extra == {
        "auxiliary": (2, 8),
        "branch_stage1": (2, 5),
        "branch_stage2": (2, 5),
        "branch_stage3": (2, 5),
    }


@pytest.mark.parametrize("shape", [(2, 32, 32, 1), (1, 8, 8, 1), (3, 48, 40, 3)])
def test_image_sizes(shape):
    found = shapes(models.create("pcl_resnet", depth=8, width=4), shape)
    assert found["pooled"] == (shape[0], 16)
    assert found["auxiliary"] == (shape[0], 8)


def test_initial_values():
    block = ResidualBlock(64, bottleneck=True, strides=2)
    x = jnp.ones((1, 2, 2, 128))
    init = jit(lambda key: block.init(key, x)["params"])
    params = init(jax.random.key(0))
    for layer, shape in (("layer2", (3, 3, 64, 64)), ("shortcut", (1, 1, 128, 256))):
        kernel = np.asarray(params[layer]["conv"]["kernel"])
        chex.assert_shape(kernel, shape)
        deviation = np.sqrt(2 / (shape[0] * shape[1] * shape[3]))
        assert kernel.std() == pytest.approx(deviation, rel=0.03)
        assert abs(kernel).max() > 3.5 * kernel.std()  # normal, not truncated at 2
        assert (params[layer]["norm"]["scale"] == 1).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depth": 109}, r"`depth` must be 6n \+ 2.*109; the nearest is 110"),
        ({"depth": 2}, r"`depth` must be 6n \+ 2.*got 2; the nearest is 8"),
        ({"depth": "110"}, "`depth` must be an integer.*'110'"),
        ({"branches": ("stage4",)}, "`branches`.*stage3.*'stage4'"),
        ({"branches": "auxiliary"}, "`branches` must be a tuple.*'auxiliary'"),
        ({"embedding_size": 0}, "`embedding_size`.*at least 1"),
    ],
)
def test_refusals(fields, message):
    with pytest.raises(ValueError, match=message):
        models.create("pcl_resnet", **fields)
