import gc
import math
import weakref

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import models
from tests.marks import full_but

SMALL = {
    "ssp_cifar": {"blocks": 1, "width": 4},
    "ssp_mnist": {"blocks": 1, "width": 8},
    "ssp_tinyimagenet": {"blocks": 1, "width": 4, "num_classes": 10},
    "pcl_resnet": {"depth": 8, "width": 4, "embedding_size": 16},
    "lenet5": {},
    "lenet_sigmoid": {},
    "cnn3": {"width": 4},
    "ibp_cnn": {},
    "vgg": {"depth": 11, "width": 2},
    "alexnet": {"width": 1},
    "resnet": {"width": 4},
    "resnet_cifar": {"depth": 8, "width": 4},
    "fpd_resnet": {"layers": (1, 1, 1, 1), "width": 4},
    "fpd_resnext": {"layers": (1, 1, 1, 1), "width": 4},
    "preact_resnet": {"width": 4},
    "wide_resnet": {"depth": 10, "width": 1},
    "convnext": {"layers": (1, 1, 1, 1), "width": 4},
    "vit": {"blocks": 1, "width": 4, "heads": 2},
    "swin": {"layers": (1, 1, 1, 1), "width": 4, "head_size": 2, "window": 4},
    "xcit": {"blocks": 1, "width": 8, "heads": 2},
}
SHAPES = {
    "ssp_mnist": (2, 28, 28, 1),
    "ssp_tinyimagenet": (2, 64, 64, 3),
    "lenet5": (2, 28, 28, 1),
    "lenet_sigmoid": (2, 28, 28, 1),
    "cnn3": (2, 28, 28, 1),
    "ibp_cnn": (2, 28, 28, 1),
    "vit": (2, 224, 224, 3),
    "swin": (2, 224, 224, 3),
}
# Where 8x8 pixels are too few.
SMALL_SHAPES = {
    "lenet5": (2, 12, 12, 3),
    "lenet_sigmoid": (2, 12, 12, 3),
    "cnn3": (2, 20, 20, 3),
    "ibp_cnn": (2, 10, 10, 3),
    "vgg": (2, 32, 32, 3),
    "convnext": (2, 32, 32, 3),
    "vit": (2, 16, 16, 3),
    "swin": (2, 32, 32, 3),
}
COUNTS = {
    "ssp_cifar": 658_090,
    "ssp_mnist": 503_434,
    "ssp_tinyimagenet": 4_260_072,
    "pcl_resnet": 1_975_002,
    "lenet5": 61_706,
    "lenet_sigmoid": 61_706,
    "cnn3": 123_222,
    "ibp_cnn": 272 + 8_224 + 3_201 * 100 + 1_010,
    "vgg": 14_728_266 + 512 * 513,  # of VGG-16 with one dense layer; the other one
    "alexnet": 57_044_810,
    "resnet": 11_181_642,
    "resnet_cifar": 269_722,
    "fpd_resnet": 44_164_557,  # those of the originals, resnet101 and resnext50
    "fpd_resnext": 15_280_973,
    "preact_resnet": 11_172_170,
    "wide_resnet": 36_479_194,
    "convnext": 28_589_128 - 990 * 769,  # those of timm, with 10 classes
    "vit": 22_050_664 - 990 * 385,
    "swin": 28_288_354 - 990 * 769,
    "xcit": 26_253_304 - 990 * 385,
}


def parameters(model, shape):
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.ones(shape))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"]))


def made(name, shape=(2, 8, 8, 3), **fields):
    """A small network with ones for weights: nothing to compile."""
    model = models.create(name, **{**SMALL[name], **fields})
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.ones(shape))
    generator = np.random.default_rng(0)
    return model, jax.tree.map(
        lambda s: jnp.asarray(generator.uniform(0.2, 0.4, s.shape), s.dtype), shapes
    )


@pytest.mark.parametrize(
    "name", full_but(models.names(), ["lenet5", "ssp_cifar", "pcl_resnet"])
)
def test_parameter_count(name):
    shape = SHAPES.get(name, (2, 32, 32, 3))
    assert parameters(models.create(name), shape) == COUNTS[name]


def test_ark_adds_two_scalars_per_block():
    assert parameters(models.create("ssp_cifar", integrator="ark"), (1, 32, 32, 3)) == (
        658_090 + 2 * 6
    )


@pytest.mark.parametrize("name", models.names())
def test_outputs(name):
    shape = SMALL_SHAPES.get(name, (2, 8, 8, 3))
    model, variables = made(name, shape)
    x = jnp.full(shape, 0.5)
    out = jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, x)
    assert isinstance(out, models.Outputs)
    chex.assert_shape(out.logits, (2, 10))
    chex.assert_shape(out.features["penultimate"], (2, None))
    chex.assert_type(jax.tree.leaves(out), jnp.float32)
    if name.startswith("fpd"):
        chex.assert_shape(out.restored, shape)
    else:
        assert out.restored is None


@pytest.mark.parametrize("name", models.names())
def test_create_twice(name):
    one, two = (models.create(name, **SMALL[name], mean=[0.5]) for _ in range(2))
    assert one == two
    assert hash(one) == hash(two)
    assert weakref.ref(one)() is one


def test_stage_features_of_grey_digits():
    model, variables = made("ssp_cifar", (2, 8, 8, 1), integrator="ark")
    out = model.apply(variables, jnp.ones((2, 8, 8, 1)))
    shapes = {name: value.shape for name, value in out.features.items()}
    assert shapes == {
        "stage1/in": (2, 8, 8, 4), "stage1/out": (2, 8, 8, 4),
        "stage2/in": (2, 4, 4, 8), "stage2/out": (2, 4, 4, 8),
        "stage3/in": (2, 2, 2, 16), "stage3/out": (2, 2, 2, 16),
        "penultimate": (2, 16),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "fields", "error", "message"),
    [
        ("ssp_cifra", {}, ValueError, "unknown model 'ssp_cifra'.*'ssp_cifar'"),
        ("ssp_cifar", {"bloks": 2}, TypeError, "no field 'bloks'.*'blocks'"),
        ("ssp_cifar", {"blocks": 0}, ValueError, "`blocks`.*at least 1, got 0"),
        ("ssp_cifar", {"width": 2.5}, ValueError, "`width`.*integer.*2.5"),
        ("ssp_cifar", {"num_classes": "10"}, ValueError, "`num_classes`.*'10'"),
        ("ssp_cifar", {"integrator": "sp2"}, ValueError, "'sp2'.*'ssp2'"),
        ("ssp_cifar", {"integrator": "res,ark"}, ValueError, "2 kinds.* 3 stages"),
        ("ssp_cifar", {"norm": "batch"}, ValueError, "unknown norm 'batch'"),
        ("ssp_cifar", {"init": "ortho"}, ValueError, "unknown init 'ortho'.*upscale"),
        ("ssp_mnist", {"init": "kaiming"}, ValueError, "'kaiming'.*ortho"),
        ("preact_resnet", {"depth": 20}, ValueError, "`depth` must be 18 or 34.*20"),
        ("wide_resnet", {"depth": 20}, ValueError, "6n \\+ 4.*20"),
        ("wide_resnet", {"dropout": 1.0}, ValueError, "`dropout`.*1.0"),
    ],
)  # fmt: skip
def test_refusals(name, fields, error, message):
    with pytest.raises(error, match=message):
        models.create(name, **fields)


def test_images_of_impossible_size():
    model = models.create("ssp_mnist", **SMALL["ssp_mnist"])
    with pytest.raises(ValueError, match="at least 6x6 pixels"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 5, 8, 1)))


def test_eager_equals_jit_and_vmap():
    model, variables = made("ssp_cifar", integrator="ssp3")
    f = models.logits_fn(model, variables)
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 8, 8, 3)), jnp.float32)
    want = f(x)
    chex.assert_trees_all_close(jax.jit(f)(x), want, rtol=1e-4)
    stacked = jax.vmap(f)(jnp.stack([x, x[::-1]]))
    chex.assert_trees_all_close(stacked, jnp.stack([want, want[::-1]]), rtol=1e-4)


def test_dtypes():
    x = jnp.full((2, 8, 8, 3), 0.5)
    model, variables = made("ssp_cifar", mean=(0.5, 0.5, 0.5), std=(0.25,) * 3)
    low = models.create("ssp_cifar", **SMALL["ssp_cifar"], dtype="bfloat16")
    out, moved = jax.eval_shape(
        lambda v, x: low.apply(v, x, train=True, mutable=["batch_stats"]), variables, x
    )
    chex.assert_type(out.features["stage1/out"], jnp.bfloat16)
    shapes = jax.eval_shape(low.init, jax.random.key(0), x)
    chex.assert_type(jax.tree.leaves((out.logits, moved, shapes)), jnp.float32)
    with jax.enable_x64(True):
        wide = jax.ShapeDtypeStruct(x.shape, jnp.float64)
        out = jax.eval_shape(lambda v, x: model.apply(v, x), variables, wide)
        chex.assert_type(jax.tree.leaves(out), jnp.float64)


class Plain(nn.Module):
    """A network of someone else's: a bare array comes out."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Dropout(0.5, deterministic=not train)(x.reshape(x.shape[0], -1))
        return nn.Dense(3)(x)


class Noisy(nn.Module):
    """Random in evaluation too."""

    @nn.compact
    def __call__(self, x, *, train=False):
        del train
        x = x.reshape(x.shape[0], -1)
        noise = jax.random.normal(self.make_rng("dropout"), x.shape)
        return nn.Dense(3)(x + noise)


def test_logits_fn_is_a_pytree_of_its_weights():
    model, variables = made("ssp_cifar")
    other = models.create("ssp_cifar", **SMALL["ssp_cifar"])
    one = models.logits_fn(model, variables)
    two = models.logits_fn(other, jax.tree.map(lambda a: 2 * a, variables))
    assert isinstance(one, jax.tree_util.Partial)
    chex.assert_trees_all_equal_structs(one, two)
    chex.assert_trees_all_equal(jax.tree.leaves(one), jax.tree.leaves(variables))
    train = models.logits_fn(model, variables, True)
    assert jax.tree.structure(one) != jax.tree.structure(train)
    x = jnp.full((2, 8, 8, 3), 0.5)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def call(f, x):
        return f(x)

    assert (call(one, x) != call(two, x)).any()


@pytest.mark.parametrize(
    ("change", "shape", "error", "told"),
    [
        ("params alone", (1, 12, 12, 1), ValueError, "hold classifier, .*no `params`"),
        (None, (1, 12, 12, 1), TypeError, "`variables` must be .* got NoneType"),
        ("function", (1, 12, 12, 1), TypeError, "`model` must be .* got function"),
        ("other", (1, 12, 12, 1), ValueError, "`variables` do not fit LeNet"),
        ("", (1, 12, 12, 3), ValueError, r"images `x` of shape \(1, 12, 12, 3\)"),
        ("", (1, 20, 20, 1), ValueError, "images of another size or number"),
    ],
)
def test_weights_that_do_not_fit_are_told(change, shape, error, told):
    model = models.create("lenet5")
    variables = model.init(jax.random.key(0), jnp.ones((1, 12, 12, 1)))
    if change == "params alone":
        variables = variables["params"]
    elif change == "function":
        model = lambda x: x  # noqa: E731
    elif change == "other":
        model = models.create("lenet5", num_classes=3)
    elif change is None:
        variables = None
    with pytest.raises(error, match=told):
        models.logits_fn(model, variables)(jnp.ones(shape))


def test_train_mode_uses_the_batch_and_drops_updates():
    model, variables = made("ssp_cifar")
    before = jax.tree.map(np.asarray, variables)
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(4, 8, 8, 3)), jnp.float32)
    got = models.logits_fn(model, variables, train=True)(x)
    want, _ = model.apply(variables, x, train=True, mutable=["batch_stats"])
    chex.assert_trees_all_close(got, want.logits, rtol=1e-5)
    assert (got != models.logits_fn(model, variables)(x)).any()
    chex.assert_trees_all_equal(before, variables)


def test_dropout_key():
    x = jnp.ones((2, 2, 2, 1))
    model = Plain()
    variables = model.init(jax.random.key(0), x)
    first, again, other = (
        models.logits_fn(model, variables, train=True, key=jax.random.key(k))(x)
        for k in (1, 1, 2)
    )
    chex.assert_trees_all_equal(first, again)
    assert (first != other).any()
    bare = models.logits_fn(model, variables)(x)
    chex.assert_trees_all_equal(bare, model.apply(variables, x))


def test_keys_per_example():
    x = jnp.ones((3, 2, 2, 1))
    model = Noisy()
    variables = model.init(
        {"params": jax.random.key(0), "dropout": jax.random.key(1)}, x
    )
    f = models.logits_fn(model, variables)
    keys = jax.random.split(jax.random.key(5), 3)
    whole = f(x, keys)
    chex.assert_trees_all_close(f(x[1:], keys[1:]), whole[1:], rtol=1e-5)
    assert (whole[0] != whole[1]).any()

    def one_key(x, key):
        return model.apply(variables, x, rngs={"dropout": key})

    lifted = models.per_example(one_key)(x, keys)
    chex.assert_trees_all_close(lifted, whole, rtol=1e-5)
    bound = jax.tree_util.Partial(
        lambda v, x, key: model.apply(v, x, rngs={"dropout": key}), variables
    )
    lifted = models.per_example(bound)
    assert isinstance(lifted, jax.tree_util.Partial)
    assert len(jax.tree.leaves(lifted)) == len(jax.tree.leaves(variables))
    chex.assert_trees_all_close(lifted(x, keys), whole, rtol=1e-5)


def test_keys_in_train_mode_are_refused():
    model, variables = made("ssp_cifar")
    keys = jax.random.split(jax.random.key(0), 2)
    with pytest.raises(ValueError, match=r"`keys`.*train=False"):
        models.logits_fn(model, variables, train=True)(jnp.ones((2, 8, 8, 3)), keys)


def test_nothing_keeps_a_model_alive():
    model = Plain()
    x = jnp.ones((2, 2, 2, 1))
    f = models.logits_fn(model, model.init(jax.random.key(0), x))
    f(x)
    alive = weakref.ref(model)
    del model, f
    gc.collect()
    assert alive() is None
