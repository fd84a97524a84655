"""bfloat16 and recomputation in every network: what they must leave as it is."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import jaxprs_in_params

from jaxrobust import losses, models
from jaxrobust.defenses import base
from jaxrobust.training import check, compute, config, state, step
from tests.marks import full_but

SIZE = {
    "lenet5": 12,
    "lenet_sigmoid": 12,
    "cnn3": 20,
    "ibp_cnn": 10,
    "vgg": 32,
    "alexnet": 63,
}
SIZE |= {"convnext": 32, "vit": 16, "swin": 32}
NETWORKS = {
    "ssp_cifar": {"integrator": "ark", "blocks": 1, "width": 4, "stages": 2},
    "ssp_mnist": {"blocks": 1, "width": 4},
    "ssp_tinyimagenet": {"blocks": 1, "width": 4, "stages": 1, "num_classes": 10},
    "pcl_resnet": {"depth": 8, "width": 4, "embedding_size": 8},
    "lenet5": {},
    "lenet_sigmoid": {},
    "cnn3": {"width": 4},
    "ibp_cnn": {},
    "vgg": {"depth": 11, "width": 2},
    "alexnet": {"width": 2, "resize": None},
    "resnet": {"width": 2, "stem": "cifar"},
    "resnet_cifar": {"depth": 8, "width": 2},
    "fpd_resnet": {"layers": (1, 1, 1, 1), "width": 2, "stem": "cifar"},
    "fpd_resnext": {"layers": (1, 1, 1, 1), "width": 2},
    "preact_resnet": {"width": 2},
    "wide_resnet": {"depth": 10, "width": 1},
    "convnext": {"layers": (1, 1, 1, 1), "width": 4},
    "vit": {"blocks": 2, "width": 4, "heads": 2},
    "swin": {"layers": (1, 1, 1, 1), "width": 4, "head_size": 2, "window": 4},
    "xcit": {"blocks": 2, "width": 8, "heads": 2},
}
# Half precision loses the sum of many terms, and these blow up rounding.
QUICKLY = {"xla_backend_optimization_level": 0}
UNSAFE = {"reduce_sum", "cumsum", "log", "log1p", "sqrt", "rsqrt", "exp", "reduce_prod"}


def settings(**train):
    fields = config.base().to_dict()
    fields["train"] |= train
    fields["attack"]["steps"] = 2
    return fields


def problem(name, objective="standard", **train):
    """Returns a defence of a network, the first state and a batch."""
    fields = settings(**train)
    model = compute.training_model(models.create(name, **NETWORKS[name]), fields)
    defense = check.make_defense(fields, model, objective)
    shape = (SIZE.get(name, 8),) * 2 + (1,)
    x = jnp.zeros((1, *shape))
    shapes = jax.eval_shape(lambda k: model.init(k, x, train=False), jax.random.key(0))
    rng = np.random.default_rng(0)

    def draw(like):  # unit gain; initialisers would have to be compiled
        fan_in = max(1, np.prod(like.shape[:-1]))
        drawn = rng.normal(size=like.shape) / fan_in**0.5
        return jnp.asarray(drawn if len(like.shape) > 1 else np.ones(like.shape), "f4")

    variables = jax.tree.map(draw, shapes)
    first = state.create(variables, defense, optax.sgd(1.0), x, key=jax.random.key(1))
    batch = {
        "image": jnp.asarray(rng.integers(0, 256, (4, *shape)), jnp.uint8),
        "label": jnp.arange(4, dtype=jnp.int32),
        "index": jnp.arange(4, dtype=jnp.int32),
    }
    return defense, first, batch


def equations(jaxpr):
    """Yields every equation, inner ones too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


@pytest.mark.parametrize(
    "name",
    full_but(models.names(), ("lenet5",)),
)
def test_a_step_in_bfloat16(name):
    """Loss finite; state and loss float32; nothing unsafe in bfloat16."""
    defense, first, batch = problem(name, compute_dtype="bfloat16")
    run = step.make_train_step(
        defense, optax.sgd(1.0), optax.constant_schedule(0.1), lambda x, keys: x
    )
    traced = run.trace(first, batch, jax.random.key(2))
    low = {
        equation.primitive.name
        for equation in equations(traced.jaxpr.jaxpr)
        if any(getattr(v.aval, "dtype", None) == jnp.bfloat16 for v in equation.invars)
    }
    assert low & {"conv_general_dilated", "dot_general"}
    # ELU's is of numbers below 0, in newer versions of jax: nothing can overflow.
    elu = {"exp"} if name.startswith("fpd") else set()
    assert not low & (UNSAFE - elu)
    new, metrics = traced.out_info
    chex.assert_shape(metrics["loss"], ())
    chex.assert_type(metrics["loss"], jnp.float32)
    chex.assert_type(jax.tree.leaves((new.params, new.model_state)), jnp.float32)
    chex.assert_trees_all_equal_shapes_and_dtypes(new, first)
    # The forward pass alone is compiled in a fifth of the time.
    images = step.prepare(batch, jax.random.key(2), lambda x, keys: x, jnp.float32)
    forward = jax.jit(defense.phases[0].loss, compiler_options=QUICKLY)
    state_of = (first.params, first.model_state)
    loss, _ = forward(*state_of, images, jax.random.key(2), first.step)
    chex.assert_tree_all_finite(loss)


def test_attacked_images_stay_float32():
    """A perturbation has no place in bfloat16, whose steps are 1/256 below 1."""
    defense, first, batch = problem("ssp_mnist", "pgd", compute_dtype="bfloat16")
    images = step.prepare(batch, jax.random.key(2), lambda x, keys: x, jnp.float32)
    made = jax.eval_shape(
        defense.phases[0].prepare,
        first.params,
        first.model_state,
        images,
        jax.random.key(2),
        jnp.int32(0),
    )
    chex.assert_equal_shape([made["attacked"], images["image"]])
    chex.assert_type(made["attacked"], jnp.float32)


class Half(nn.Module):
    """Someone's network that returns logits in bfloat16."""

    @nn.compact
    def __call__(self, x, *, train=False):
        return nn.Dense(3, dtype=jnp.bfloat16)(x.reshape(len(x), -1))


def test_logits_of_half_precision_reach_losses_and_attacks_widened():
    x = jnp.ones((2, 2, 2, 1))
    variables = Half().init(jax.random.key(0), x)
    params = {"model": variables["params"], "extra": {}}
    out, _ = base.forward(Half(), params, {}, x, jax.random.key(1))
    chex.assert_type([out.logits, models.logits_fn(Half(), variables)(x)], jnp.float32)


def test_the_gradient_of_a_bias_is_summed_in_float32():
    """512 ones: a bfloat16 sum in order would stay at 256."""
    x = jnp.zeros((512, 3), jnp.bfloat16)
    grad = jax.grad(lambda b: models.layers.add_bias(x, b).astype("f4").sum())
    chex.assert_trees_all_equal(grad(jnp.zeros(3)), 512.0)
    chex.assert_type(models.layers.add_bias(x, jnp.zeros(3)), jnp.bfloat16)


def test_structure_of_low_precision_embeddings_is_computed_in_float32():
    h = jax.random.normal(jax.random.key(0), (6, 4)).astype(jnp.bfloat16)
    other = h[::-1]
    got = losses.spatial_structure(h, other)
    want = losses.spatial_structure(h.astype(jnp.float32), other.astype(jnp.float32))
    chex.assert_trees_all_equal(got, want)


def gradient(model, x):
    """Returns variables' shapes and a traced gradient in them, dropout on."""
    shapes = jax.eval_shape(lambda k: model.init(k, x), jax.random.key(1))
    shapes = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, x.dtype), shapes)

    def loss(params, state_of):
        out, moved = model.apply(
            {"params": params, **state_of},
            x,
            train=True,
            mutable=list(state_of),
            rngs={"dropout": jax.random.key(3)},
        )
        return jnp.square(out.logits).sum(), moved

    state_of = {k: v for k, v in shapes.items() if k != "params"}
    run = jax.jit(jax.grad(loss, has_aux=True), compiler_options=QUICKLY)
    return shapes, run.trace(shapes["params"], state_of)


@pytest.mark.parametrize(
    ("name", "blocks"),
    full_but(
        [
            ("ssp_cifar", 3),
            ("ssp_mnist", 1),
            ("pcl_resnet", 3),
            ("vgg", 5),
            ("resnet", 8),
            ("resnet_cifar", 3),
            ("fpd_resnet", 8),
            ("preact_resnet", 8),
            ("wide_resnet", 3),
            ("convnext", 4),
            ("vit", 2),
            ("swin", 4),
            ("xcit", 2),
        ],
        [("ssp_cifar", 3), ("ssp_mnist", 1), ("pcl_resnet", 3), ("preact_resnet", 8)],
    ),
)
def test_recomputed_blocks_change_nothing(name, blocks):
    """Same variables; of one network, the same float64 statistics and gradients."""
    fields = {**NETWORKS[name], **({"dropout": 0.3} if name == "wide_resnet" else {})}
    plain = models.create(name, **fields)
    again = compute.training_model(plain, settings(remat=True))
    side = SIZE.get(name, 8)
    with jax.enable_x64(True):
        x = jax.random.uniform(jax.random.key(0), (3, side, side, 1), jnp.float64)
        # Tracing is enough to see that a family recomputes; one is compiled.
        shapes, recomputing = gradient(again, x)
        names = [e.primitive.name for e in equations(recomputing.jaxpr.jaxpr)]
        assert names.count("remat2") == blocks
        fresh = jax.eval_shape(lambda k: plain.init(k, x), jax.random.key(1))
        chex.assert_trees_all_equal_shapes(shapes, fresh)
        if name != "wide_resnet":
            return
        _, keeping = gradient(plain, x)
        rng = np.random.default_rng(0)
        drawn = jax.tree.map(lambda v: rng.uniform(0.1, 0.5, v.shape), shapes)
        state_of = {k: v for k, v in drawn.items() if k != "params"}
        found = [
            traced.lower().compile()(drawn["params"], state_of)
            for traced in (keeping, recomputing)
        ]
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        scale = np.abs(a).max()
        chex.assert_trees_all_close(a, b, rtol=1e-12, atol=1e-12 * scale)


@pytest.mark.full
def test_recomputing_keeps_less_for_the_backward_pass():
    """Bytes of what a pull-back holds; XLA's CPU backend shares them again."""
    sizes = []
    for remat in (False, True):
        model = models.create(
            "ssp_cifar", integrator="ssp2", blocks=3, width=4, remat=remat
        )
        x = jax.ShapeDtypeStruct((8, 16, 16, 3), jnp.float32)
        variables = jax.eval_shape(lambda x, m=model: m.init(jax.random.key(0), x), x)

        def pull_back(variables, x, m=model):
            return jax.vjp(lambda v: m.apply(v, x).logits, variables)[1]

        held = jax.tree.leaves(jax.eval_shape(pull_back, variables, x))
        sizes.append(sum(leaf.size * leaf.dtype.itemsize for leaf in held))
    assert sizes[1] < sizes[0] / 3


class Levels(nn.Module):
    """An encoder of somebody else's."""

    def __call__(self, x, train=False):
        return dict.fromkeys(("c2", "c3", "c4", "c5"), x)


def test_a_network_without_the_field_is_told(tmp_path):
    for train, message in (
        ({"remat": True}, r"`train\.remat`: Half has no field `remat`"),
        ({"compute_dtype": "bfloat16"}, "Half has no field `dtype`; use float32"),
        ({"compute_dtype": "float64"}, "float64 needs .* JAX_ENABLE_X64=1"),
    ):
        with pytest.raises(ValueError, match=message):
            compute.training_model(Half(), settings(**train))


def test_a_network_without_blocks_is_told():
    with pytest.raises(ValueError, match=r"`train\.remat`: LeNet has no blocks"):
        compute.training_model(models.create("lenet5"), settings(remat=True))
    with pytest.raises(ValueError, match="`remat`: LeNet has no blocks to compute"):
        models.create("lenet5", remat=True)
    around = models.fpd(Levels(), front_denoising=False, back_denoising=False)
    with pytest.raises(ValueError, match="FPD has no blocks"):
        compute.training_model(around, settings(remat=True))


@pytest.mark.parametrize("name", ["ssp_cifar", "fpd_resnet"])
def test_fields_of_computing_are_given_by_their_own_names(name):
    """As they are in configs; the encoder inside FPD gets them too."""
    given = {"dtype": "bfloat16", "remat": True, "loop_safe": False}
    model = models.create(name, **NETWORKS[name], **given)
    assert model.computing == models.layers.Computing(**given)
    if name == "fpd_resnet":
        assert model.encoder.computing == model.computing
    whole = models.Computing(**given)
    assert models.create(name, **NETWORKS[name], computing=whole) == model
    with pytest.raises(TypeError, match=r"must be a `models.Computing`, got \{"):
        models.create(name, **NETWORKS[name], computing=given)
    assert given.keys() < models.defaults(name).keys()
