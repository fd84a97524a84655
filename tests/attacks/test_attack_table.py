"""What every attack must do, one row per attack and norm."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxrobust import attacks, losses, threat
from jaxrobust.attacks import registry
from tests.attacks.small import needs_key, small
from tests.marks import full_but

EPS = {"linf": 0.06, "l2": 0.5, "l1": 3.0, "l0": 8.0, "l0_pixels": 5.0}
TRAITS = registry.table()
# JSMA's steps are as long as the box is wide: they leave such balls at once.
APART = [("jsma", "l2"), ("jsma", "linf")]
TABLE = [
    (name, norm)
    for name, of in TRAITS.items()
    for norm in of.norms
    if (name, norm) not in APART
]
# Compilations are what these tests cost. An attack that is not named here is run in all
# its norms by all tests; of these, rows that share all code with another are left to
# `-m full`, or out where a test takes a compilation of its own.
SHORT = {
    "admix": [],
    "apgd": ["l2"],
    "apgd_targeted": ["l1"],
    "bandits": [],
    "bim": [],
    "boundary": ["l2"],
    "brendel_bethge": ["l2"],
    "cw_l2": ["l2"],
    "cw_linf": ["linf"],
    "ddn": ["l2"],
    "deepfool": ["l2"],
    "dim": ["l2"],
    "ead": [],
    "fab": ["l2"],
    "fgsm": ["l2"],
    "fmn": ["l1"],
    "geoda": [],
    "hop_skip_jump": ["linf"],
    "jsma": ["l1"],
    "mim": ["linf"],
    "mixed_pgd": [],
    "multi_targeted": [],
    "nes": [],
    "nim": [],
    "one_pixel": ["l0_pixels"],
    "pgd": ["linf", "l2", "l1"],
    "pgd_0": ["l0_pixels"],
    "pixle": [],
    "rays": ["linf"],
    "sigma_zero": ["l0"],
    "sim": [],
    "simba": ["linf"],
    "sparse_rs": ["l0_pixels"],
    "sparsefool": [],
    "spsa": ["linf"],
    "square": ["linf", "l2"],
    "surfree": [],
    "tim": [],
    "uniform_noise": ["l1"],
    "vmim": [],
    "vnim": [],
    "zoo": ["l2"],
}
# Of these, one per kind without `-m full`.
SHORTER = [("pgd", "linf"), ("apgd", "l2"), ("fab", "l2"), ("square", "linf"),
           ("cw_l2", "l2"), ("hop_skip_jump", "linf")]  # fmt: skip
SOME = [row for row in TABLE if row[1] in SHORT.get(row[0], [row[1]])]
# In Linf, APGD's first step of 2 eps ends in the same corner from every start.
SAME_CORNER = ("apgd", "linf")
SHAPE = (5, 6, 6, 2)
CLASSES = 4
TRACES: list[int] = []


def rows(values, quick):
    of_all = [row for row in values if row in quick or row[0] not in SHORT]
    return pytest.mark.parametrize(("name", "norm"), full_but(values, of_all))


every_row = rows(TABLE, SOME)
some_rows = rows(SOME, SHORTER)
targeted_rows = rows(
    [row for row in SOME if "targeted" in registry.parameters(row[0])], SHORTER[1:]
)


class Net(nn.Module):
    """A small model that counts its traces."""

    width: int = 16

    @nn.compact
    def __call__(self, x):
        TRACES.append(1)
        flat = x.reshape(x.shape[0], -1)
        hidden = nn.tanh(nn.Dense(self.width, param_dtype=x.dtype)(flat))
        logits = nn.Dense(CLASSES, param_dtype=x.dtype, use_bias=False)(hidden)
        return 4 * logits


NET = Net()


def build(name, norm, eps=None, **more):
    eps = EPS[norm] if eps is None else eps
    return attacks.get(name, eps=eps, norm=norm, **(small(name, eps) | more))


@functools.cache
def weights(seed=0, dtype="float32"):
    return NET.init(jax.random.key(seed), jnp.zeros(SHAPE, dtype))


def model(seed=0, dtype="float32"):
    return jax.tree_util.Partial(NET.apply, weights(seed, dtype))


@functools.cache
def batch(dtype="float32"):
    x = jax.random.uniform(jax.random.key(1), SHAPE, dtype)
    # Corners of the box, where the ball is cut.
    x = x.at[0].set(0.0).at[1].set(1.0)
    return x, jnp.argmax(model(dtype=dtype)(x), axis=1)


def keys():
    return jax.random.split(jax.random.key(7), SHAPE[0])


def distance64(x_adv, x, norm):
    delta = np.asarray(x_adv, np.float64) - np.asarray(x, np.float64)
    if norm in threat.SPARSE:
        changed = delta.any(-1) if norm == "l0_pixels" else delta != 0
        return changed.reshape(len(delta), -1).sum(1)
    delta = delta.reshape(len(delta), -1)
    return np.linalg.norm(delta, {"linf": np.inf, "l2": 2, "l1": 1}[norm], axis=1)


@functools.cache
def eager(name, norm):
    """The result that most tests look at: one compilation per row."""
    return build(name, norm)(model(), *batch(), keys())


@functools.cache
def jitted(name, norm):
    """The attack under a caller's jit, image and radius traced."""
    x, y = batch()
    return jax.jit(
        lambda shift, eps: build(name, norm, eps)(
            model(), jnp.clip(x + shift, 0, 1), y, keys()
        )
    )


def least_or_most(name, gain):
    """Of all images where steps follow a gradient, whatever they find; else of some."""
    return gain.min() if name in registry.for_training() else gain.max()


@every_row
@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(
    shift=st.floats(-0.5, 0.5, width=32),
    eps=st.one_of(
        st.sampled_from([0.0, 1e-30, 1e-7, 8 / 255, 1e6]), st.floats(0, 40, width=32)
    ),
)
def test_stays_in_ball_and_bounds(name, norm, shift, eps):
    x = np.asarray(jnp.clip(batch()[0] + np.float32(shift), 0, 1))
    x_adv = np.asarray(jitted(name, norm)(np.float32(shift), eps))
    chex.assert_tree_all_finite(x_adv)
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert distance64(x_adv, x, norm).max() <= eps + 1e-6 * max(1, eps)


@some_rows
def test_jit_is_eager(name, norm):
    chex.assert_trees_all_close(
        eager(name, norm),
        jitted(name, norm)(np.float32(0), EPS[norm]),
        rtol=0,
        atol=1e-6,
    )


@some_rows
def test_raises_the_loss(name, norm):
    x, y = batch()
    fn = functools.partial(losses.cross_entropy, y=y)
    gain = np.asarray(fn(model()(eager(name, norm))) - fn(model()(x)))
    assert least_or_most(name, gain) > 0


@every_row
def test_repeats_per_key(name, norm):
    attack = functools.partial(build(name, norm), model(), *batch())
    one, two, other = (attack(jax.random.key(seed)) for seed in (3, 3, 4))
    chex.assert_trees_all_equal(one, two)
    random = needs_key(name) and (name, norm) != SAME_CORNER
    assert bool(jnp.any(jnp.abs(one - other) > 1e-3)) == random
    folded = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(3), jnp.arange(5))
    chex.assert_trees_all_equal(one, attack(folded))


@every_row
def test_independent_of_the_rest_of_the_batch(name, norm):
    x, y = batch()
    order = jnp.array([3, 1, 2, 4, 0])
    others = x[order].at[2:].set(0.5)
    x_adv = build(name, norm)(model(), others, y[order], keys()[order])
    chex.assert_trees_all_close(
        x_adv[:2], eager(name, norm)[order[:2]], rtol=0, atol=1e-6
    )


@every_row
def test_second_call_with_new_weights(name, norm, compilations):
    """A Partial of a Linen model is neither traced nor compiled again, nor stale."""
    before, new = np.asarray(eager(name, norm)), model(1)
    traced = len(TRACES)
    compiled = compilations()
    after = build(name, norm)(new, *batch(), keys())
    assert compilations() == compiled
    assert len(TRACES) == traced
    assert np.abs(after - before).max() > 1e-3
    x, y = batch()
    if TRAITS[name].goal == "smallest":
        moved = np.any(after != x, axis=(1, 2, 3))
        assert (jnp.argmax(new(after), axis=1) != y)[moved].all()
    else:
        value = functools.partial(losses.cross_entropy, y=y)
        assert (value(new(after)) > value(new(before))).any()


@every_row
def test_eps_zero_returns_the_image(name, norm):
    x, y = batch()
    chex.assert_trees_all_equal(build(name, norm, 0.0)(model(), x, y, keys()), x)
    chex.assert_trees_all_equal(jitted(name, norm)(np.float32(0), 0.0), x)


@some_rows
def test_vmap_over_eps_is_a_loop(name, norm):
    x, y = batch()
    radii = jnp.array([0.0, 0.5, 1.0]) * EPS[norm]
    together = jax.jit(
        jax.vmap(lambda eps: build(name, norm, eps)(model(), x, y, keys()))
    )(radii)
    for eps, x_adv in zip(radii, together, strict=True):
        alone = build(name, norm, float(eps))(model(), x, y, keys())
        chex.assert_trees_all_close(alone, x_adv, rtol=0, atol=1e-5)


@some_rows
def test_float64_is_kept(name, norm):
    with jax.enable_x64(True):
        x, y = batch("float64")
        x_adv = build(name, norm)(model(0, "float64"), x, y, keys())
        chex.assert_type(x_adv, jnp.float64)
        assert distance64(x_adv, x, norm).max() <= EPS[norm] * (1 + 1e-12)


@some_rows
def test_other_bounds(name, norm):
    x = batch()[0] * 5 - 2
    attack = build(name, norm, 5 * EPS[norm], bounds=(-2.0, 3.0))
    x_adv = attack(model(), x, batch()[1], keys())
    assert float(x_adv.min()) >= -2
    assert float(x_adv.max()) <= 3
    moved = distance64(x_adv, x, norm).max() / EPS[norm]
    assert moved <= 5 + 1e-5
    assert moved > 1 or TRAITS[name].goal == "smallest"


@pytest.mark.parametrize("norm", threat.NORMS)
@pytest.mark.parametrize("loss", ["margin", "dlr"])
def test_raises_a_named_loss(norm, loss):
    x, y = batch()
    fn = {"margin": losses.margin, "dlr": losses.dlr}[loss]
    x_adv = build("bim", norm, loss=loss)(model(), x, y, None)
    assert (fn(model()(x_adv), y) > fn(model()(x), y)).all()


@targeted_rows
def test_targeted_lowers_the_loss(name, norm):
    x, y = batch()
    target = (y + 1) % CLASSES
    x_adv = build(name, norm, targeted=True)(model(), x, target, keys())
    fn = functools.partial(losses.cross_entropy, y=target)
    gain = np.asarray(fn(model()(x)) - fn(model()(x_adv)))
    assert least_or_most(name, gain) > 0


@some_rows
def test_no_gradient_flows(name, norm):
    """And nothing inside is differentiated: nextafter has no rule for it."""
    x, y = batch()

    def total(variables, x):
        fn = functools.partial(NET.apply, variables)
        return jnp.sum(build(name, norm)(fn, x, y, keys()))

    grads = jax.jit(jax.grad(total, (0, 1)))(weights(), x)
    chex.assert_trees_all_equal(grads, jax.tree.map(np.zeros_like, grads))


@some_rows
def test_a_flat_model_gives_no_nan(name, norm):
    x, y = batch()
    x_adv = jax.jit(
        lambda x: build(name, norm)(lambda x: jnp.zeros((5, CLASSES)), x, y, keys())
    )(x)
    chex.assert_tree_all_finite(x_adv)
    if not needs_key(name):
        chex.assert_trees_all_equal(x_adv, x)


@pytest.mark.parametrize("norm", threat.NORMS)
def test_nan_gradients_give_no_nan(norm):
    x, y = batch()

    def broken(x):
        logits = model()(x)
        return jnp.where(jnp.arange(5)[:, None] == 2, jnp.nan, logits)

    x_adv = jax.jit(lambda x: build("mim", norm)(broken, x, y, None))(x)
    chex.assert_tree_all_finite(x_adv)
    chex.assert_trees_all_equal(x_adv[2], x[2])
    assert float(jnp.abs(x_adv[3] - x[3]).max()) > 0
