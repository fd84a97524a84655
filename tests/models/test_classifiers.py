"""The classifiers of the PC loss and of SSC-DM."""

import functools
import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import losses, models
from jaxrobust.models import _pool
from tests.marks import full_but

# Small forms, with the smallest images each takes.
SMALL = {
    "lenet5": ({}, 12, 1),
    "lenet_sigmoid": ({}, 12, 1),
    "cnn3": ({"width": 2}, 20, 1),
    "ibp_cnn": ({}, 10, 1),
    "vgg": ({"depth": 11, "width": 2}, 32, 3),
    "alexnet": ({"width": 1}, 63, 3),
    "resnet": ({"width": 2}, 8, 3),
    "resnet_cifar": ({"depth": 8, "width": 4}, 8, 3),
}


def images(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(size=shape), jnp.float32)


def made(name, batch=3, **fields):
    """A small network with random weights, and images for it."""
    small, side, channels = SMALL[name]
    model = models.create(name, **{**small, **fields})
    x = images(batch, side, side, channels)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    generator = np.random.default_rng(0)

    def draw(leaf):
        scale = math.sqrt(2 / max(1, math.prod(leaf.shape[:-1])))
        if len(leaf.shape) == 1:
            return jnp.asarray(generator.uniform(0.5, 1.5, leaf.shape), leaf.dtype)
        return jnp.asarray(scale * generator.normal(size=leaf.shape), leaf.dtype)

    return model, jax.tree.map(draw, shapes), x


def quick(f):
    """Compiles with little effort: these tests run everything once."""
    return jax.jit(f, compiler_options={"xla_backend_optimization_level": 0})


def count(name, side, **fields):
    model = models.create(name, **fields)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, side, side, 3)))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"]))


PUBLISHED = [
    # torchvision's documentation, 1000 classes.
    ("resnet", {"depth": 18, "num_classes": 1000}, 224, 11_689_512),
    ("resnet", {"depth": 34, "num_classes": 1000}, 224, 21_797_672),
    ("resnet", {"depth": 50, "num_classes": 1000}, 224, 25_557_032),
    ("resnet", {"depth": 101, "num_classes": 1000}, 224, 44_549_160),
    ("alexnet", {"num_classes": 1000}, 224, 61_100_840),
    # He et al., table 6: 0.27, 0.46, 0.66, 0.85 and 1.7 million.
    ("resnet_cifar", {"depth": 20}, 32, 269_722),
    ("resnet_cifar", {"depth": 32}, 32, 464_154),
    ("resnet_cifar", {"depth": 44}, 32, 658_586),
    ("resnet_cifar", {"depth": 56}, 32, 853_018),
    ("resnet_cifar", {"depth": 110}, 32, 1_727_962),
]


@pytest.mark.parametrize(
    ("name", "fields", "side", "published"),
    full_but(PUBLISHED, [row for row in PUBLISHED if row[3] in (11_689_512, 269_722)]),
)
def test_published_counts(name, fields, side, published):
    assert count(name, side, **fields) == published


@pytest.mark.parametrize(("depth", "side"), [(11, 32), (13, 64), (16, 32), (19, 64)])
def test_count_of_vgg(depth, side):
    plan = {11: (1, 1, 2, 2, 2), 13: (2,) * 5, 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
    total, before = 0, 3
    for convolutions, channels in zip(plan[depth], (64, 128, 256, 512, 512)):  # noqa: B905
        for _ in range(convolutions):
            total += 9 * before * channels + 3 * channels
            before = channels
    flat = 512 * (side // 32) ** 2
    total += (flat + 1) * 512 + 513 * 100
    assert count("vgg", side, depth=depth, num_classes=100) == total


def test_penultimate_sizes():
    sizes = {
        ("lenet5", 28): 84, ("lenet_sigmoid", 28): 84, ("cnn3", 28): 100,
        ("vgg", 32): 512, ("vgg", 64): 512, ("alexnet", 64): 4096,
        ("resnet", 32): 512, ("resnet_cifar", 32): 64,
    }  # fmt: skip
    for (name, side), size in sizes.items():
        model = models.create(name)
        x = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
        variables = jax.eval_shape(model.init, jax.random.key(0), x)
        out = jax.eval_shape(model.apply, variables, x)
        chex.assert_shape(out.features["penultimate"], (2, size))
    bottlenecks = models.create("resnet", depth=50)
    out, _ = jax.eval_shape(bottlenecks.init_with_output, jax.random.key(0), x)
    chex.assert_shape(out.features["penultimate"], (2, 2048))


@pytest.mark.parametrize("name", full_but(SMALL, ["lenet_sigmoid"]))
def test_gradients_are_finite_and_eager_equals_jit(name):
    model, variables, x = made(name, batch=2, mean=(0.5,), std=(0.25,))

    def loss(variables, x):
        logits = model.apply(variables, x, train=False).logits
        return losses.cross_entropy(logits, jnp.arange(2)).sum(), logits

    grads, logits = quick(jax.grad(loss, (0, 1), has_aux=True))(variables, x)
    chex.assert_trees_all_equal_shapes_and_dtypes(grads, (variables, x))
    chex.assert_tree_all_finite(grads)
    assert all(np.any(part) for part in grads[1])  # every image has a gradient
    if name in ("lenet_sigmoid", "resnet_cifar"):
        eager = models.logits_fn(model, variables)(x)
        chex.assert_trees_all_close(logits, eager, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_float64_and_low_precision(name):
    model, variables, x = made(name)
    low = models.create(name, **SMALL[name][0], dtype="bfloat16")
    out = jax.eval_shape(lambda v, x: low.apply(v, x), variables, x)
    chex.assert_type(
        [out.logits, out.features["penultimate"]], [jnp.float32, jnp.bfloat16]
    )
    with jax.enable_x64(True):
        wide = jax.ShapeDtypeStruct(x.shape, jnp.float64)
        out = jax.eval_shape(lambda v, x: model.apply(v, x), variables, wide)
        chex.assert_type(jax.tree.leaves(out), jnp.float64)


@pytest.mark.parametrize("name", ["vgg", "alexnet"])
def test_dropout_needs_train_mode_and_a_key(name):
    model, variables, x = made(name)
    state = [k for k in variables if k != "params"]

    @functools.cache
    def compiled(model, train):
        return quick(
            lambda rngs: model.apply(
                variables, x, train=train, mutable=state, rngs=rngs
            )[0]
        )

    def run(train, model=model, **rngs):
        return compiled(model, train)(rngs)

    key = jax.random.key(0)
    chex.assert_trees_all_equal(run(False, dropout=key).logits, run(False).logits)
    first, again = run(True, dropout=key), run(True, dropout=key)
    chex.assert_trees_all_equal(first.logits, again.logits)
    without = run(True).logits
    assert (first.logits != without).any()
    assert (first.logits != run(True, dropout=jax.random.key(1)).logits).any()
    if name == "alexnet":  # no batch statistics: train mode alone changes nothing
        chex.assert_trees_all_equal(without, run(False).logits)
    off, _, _ = made(name, dropout=0.0)
    chex.assert_trees_all_equal(run(True, off, dropout=key).logits, without)


def test_flattening_is_in_the_order_of_torch():
    """A dense layer's row for channel 1, row 0, column 1 is 1 * 9 + 0 * 3 + 1."""
    model = models.create("cnn3", width=1)
    x = images(1, 28, 28, 1)
    params = jax.tree.map(
        jnp.zeros_like, quick(model.init)(jax.random.key(0), x)["params"]
    )
    params["conv3"]["bias"] = jnp.arange(4.0)
    params["dense1"]["kernel"] = params["dense1"]["kernel"].at[10, 0].set(1.0)
    features = quick(model.apply)({"params": params}, x).features["penultimate"]
    chex.assert_trees_all_equal(features, np.eye(1, 100))


def test_shortcut_without_parameters():
    """With zero scales a stage is its shortcut: every other pixel, zero channels."""
    model, variables, x = made("resnet_cifar", width=3)
    params = variables["params"]
    for name in [k for k in params if "block" in k]:
        params[name]["layer2"]["norm"]["scale"] *= 0
        params[name]["layer2"]["norm"]["bias"] *= 0
    features = quick(model.apply)(variables, x).features
    padded = np.zeros((3, 4, 4, 6))
    padded[..., 1:4] = features["stage1/out"][:, ::2, ::2]
    chex.assert_trees_all_equal(features["stage2/out"], padded)
    assert not any("shortcut" in k for name in params for k in params[name])


@pytest.mark.parametrize(("stem", "side"), [("imagenet", 8), ("cifar", 32)])
def test_stems(stem, side):
    model = models.create("resnet", stem=stem)
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    out, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), x)
    chex.assert_shape(out.features["stage1/out"], (1, side, side, 64))
    taps = 7 if stem == "imagenet" else 3
    kernel = variables["params"]["stem"]["conv"]["kernel"]
    chex.assert_shape(kernel, (taps, taps, 3, 64))


def test_alexnet_enlarges_small_images():
    model, variables, _ = made("alexnet")
    given, exact = (
        quick(net.apply)
        for net in (model, models.create("alexnet", width=1, resize=None))
    )
    small, large = images(2, 32, 32, 3), images(2, 64, 64, 3)
    by_hand = jax.image.resize(small, (2, 64, 64, 3), "linear")
    chex.assert_trees_all_close(
        given(variables, small).logits, exact(variables, by_hand).logits, rtol=1e-5
    )
    chex.assert_trees_all_equal(
        given(variables, large).logits, exact(variables, large).logits
    )


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("vgg", {"depth": 12}, "`depth` must be 11, 13, 16 or 19, got 12"),
        ("vgg", {"dropout": 1.0}, r"`dropout` must lie in \[0, 1\), got 1.0"),
        ("vgg", {"width": 0}, "`width`.*at least 1, got 0"),
        ("alexnet", {"dropout": -0.1}, "`dropout`.*-0.1"),
        ("alexnet", {"resize": 32}, "`resize` must be at least 63 or None, got 32"),
        ("resnet", {"depth": 20}, "`depth` must be 18, 34, 50 or 101, got 20"),
        ("resnet", {"stem": "tiny"}, "`stem` must be 'imagenet'.*'cifar'.*'tiny'"),
        ("resnet_cifar", {"depth": 18}, r"`depth` must be 6n \+ 2.*18.*nearest is 20"),
        ("resnet_cifar", {"depth": 2}, r"`depth` must be 6n \+ 2.*2.*nearest is 8"),
        ("resnet_cifar", {"depth": 20.0}, "`depth` must be an integer.*20.0"),
        ("lenet5", {"num_classes": 0}, "`num_classes`.*got 0"),
        ("lenet5", {"activation": "tanh"}, "`activation`.*'sigmoid'.*'tanh'"),
        ("lenet5", {"pool": "min"}, "`pool` must be 'max' or 'avg', got 'min'"),
        ("cnn3", {"width": 1.5}, "`width`.*1.5"),
    ],
)
def test_impossible_networks(name, fields, message):
    with pytest.raises(ValueError, match=message):
        models.create(name, **fields)


@pytest.mark.parametrize(
    ("name", "fields", "side", "least"),
    [
        ("lenet5", {}, 11, 12),
        ("lenet_sigmoid", {}, 8, 12),
        ("cnn3", {}, 19, 20),
        ("vgg", {}, 28, 32),
        ("alexnet", {"resize": None}, 32, 63),
    ],
)
def test_images_too_small(name, fields, side, least):
    model = models.create(name, **fields)
    with pytest.raises(ValueError, match=f"at least {least}x{least} pixels.*{side}x"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, side, 64, 3)))
    # One pixel less would be too few for the layers themselves.
    x = jnp.ones((1, least, least, 3))
    assert jax.eval_shape(model.init, jax.random.key(0), x)


@pytest.mark.parametrize("name", SMALL)
def test_images_that_are_none(name):
    model = models.create(name)
    with pytest.raises(TypeError, match=r"`images` must be floating.*uint8"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 64, 64, 3), "uint8"))


@pytest.mark.parametrize(
    ("side", "window", "strides", "padding"),
    full_but([(7, 2, 2, 0), (7, 3, 2, 1), (5, 3, 1, 1)], [(7, 3, 2, 1)]),
)
def test_max_pool_is_that_of_xla(side, window, strides, padding):
    x = images(2, side, side + 1, 3)

    def ours(x):
        return _pool.max_pool(x, window, strides, padding)

    def theirs(x):
        pads = [(padding, padding)] * 2
        return nn.max_pool(x, (window,) * 2, (strides,) * 2, pads)

    chex.assert_trees_all_equal(ours(x), theirs(x))
    weights = images(*ours(x).shape, seed=1)
    got, want = (
        jax.grad(lambda x, f=f: (f(x) * weights).sum())(x) for f in (ours, theirs)
    )
    chex.assert_trees_all_close(got, want, rtol=1e-6)


def test_max_pool_of_ties_and_nan():
    tied = jnp.asarray([[1.0, 3.0], [3.0, 3.0]])[None, :, :, None]
    grad = jax.grad(lambda x: _pool.max_pool(x, 2).sum())(tied)
    chex.assert_trees_all_equal(grad[0, :, :, 0], np.asarray([[0, 1], [0, 0]]))
    for place in ((0, 0), (1, 1)):
        x = tied.at[0, *place, 0].set(jnp.nan)
        assert np.isnan(_pool.max_pool(x, 2)).all()


def test_averages():
    x = images(2, 7, 5, 3)
    want = nn.avg_pool(x, (2, 2), (2, 2))
    chex.assert_trees_all_close(_pool.avg_pool(x, 2), want, rtol=1e-6)
    # Of 7 rows, cells of floor(7 i / 3) to ceil(7 (i + 1) / 3).
    rows, columns = ((0, 3), (2, 5), (4, 7)), ((0, 2), (1, 4), (3, 5))
    got = _pool.adaptive_avg_pool(x, 3)
    for i, (top, bottom) in enumerate(rows):
        for j, (left, right) in enumerate(columns):
            cell = x[:, top:bottom, left:right].mean((1, 2))
            chex.assert_trees_all_close(got[:, i, j], cell, rtol=1e-6)
    one = x[:, :1, :1]
    same = _pool.adaptive_avg_pool(one, 6)
    chex.assert_trees_all_equal(same, jnp.broadcast_to(one, (2, 6, 6, 3)))


@pytest.mark.parametrize("pool", [_pool.max_pool, _pool.avg_pool])
def test_window_larger_than_the_features(pool):
    with pytest.raises(ValueError, match=r"3x3 window.*\(1, 2, 4, 3\).*too small"):
        pool(jnp.ones((1, 2, 4, 3)), 3)


def test_initial_values_of_the_cifar_resnet():
    """kaiming_normal_ of torch: N(0, sqrt(2 / fan_in)), the classifier's too."""
    model = models.create("resnet_cifar", depth=8, num_classes=100)
    params = quick(model.init)(jax.random.key(0), images(1, 8, 8, 3))["params"]
    kernel = params["stage3_block0"]["layer1"]["conv"]["kernel"]
    assert kernel.std() == pytest.approx(math.sqrt(2 / (9 * 32)), rel=0.05)
    head = params["classifier"]
    assert head["kernel"].std() == pytest.approx(math.sqrt(2 / 64), rel=0.05)
    assert 0.1 < np.abs(head["bias"]).max() <= 1 / 8


@pytest.mark.full
def test_initial_values_of_the_imagenet_resnet():
    """torchvision's: N(0, sqrt(2 / fan_out)); scales 1, biases 0."""
    model = models.create("resnet", width=16)
    params = quick(model.init)(jax.random.key(0), images(1, 8, 8, 3))["params"]
    kernel = params["stage3_block0"]["layer1"]["conv"]["kernel"]
    chex.assert_shape(kernel, (3, 3, 32, 64))
    assert kernel.std() == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.05)
    assert (params["stem"]["norm"]["scale"] == 1).all()
