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
from tests.marks import full_but

EPS = {"linf": 0.06, "l2": 0.5, "l1": 3.0}
TRAITS = registry.table()
ITERATED = ("bim", "mim", "pgd")
APGD = ("apgd", "apgd_targeted")
# In its own norm where an attack has one, else in all.
TABLE = [
    (name, norm)
    for name, of in TRAITS.items()
    for norm in of.norms
    if of.norm in (None, norm) or name == "deepfool"
]
WHITE = [
    name
    for name, of in TRAITS.items()
    if of.access == "gradient" and of.goal == "smallest" and name != "fab"
]
BLACK = [name for name in registry.without_gradient() if TRAITS[name].norm] + [
    "hop_skip_jump"
]
# Where a test takes a compilation of its own, rows that share all code are left out.
SHORT = [("pgd", "linf"), ("pgd", "l2"), ("pgd", "l1"), ("mim", "linf"),
         ("fgsm", "l2"), ("uniform_noise", "l1"), ("apgd", "l2"),
         ("apgd_targeted", "l1"), ("fab", "l1"), ("fab", "l2"), ("square", "linf"),
         ("square", "l2")]  # fmt: skip
SHORT += [("cw_l2", "l2"), ("cw_linf", "linf"), ("deepfool", "l2"), ("jsma", "l1"),
          ("spsa", "l2"), ("zoo", "l2"), ("hop_skip_jump", "linf")]  # fmt: skip
# Of these, one per kind without `-m full`.
SHORTER = [("pgd", "linf"), ("apgd", "l2"), ("fab", "l2"), ("square", "linf"),
           ("cw_l2", "l2"), ("hop_skip_jump", "linf")]  # fmt: skip
RANDOM = ("pgd", "uniform_noise", "square", *APGD, *BLACK)
# Noise is no ascent, and the others return the image where they do not fool the model.
SOMETIMES = ("uniform_noise", "fab", "square", *APGD, *WHITE, *BLACK)
FEW = {"apgd": {"steps": 5}, "apgd_targeted": {"steps": 5, "targets": 2},
       "fab": {"steps": 4, "targets": 2}, "square": {"queries": 12},
       "uniform_noise": {"draws": 2}}  # fmt: skip
FEW |= {"cw_l2": {"binary_steps": 2, "steps": 15, "lr": 0.05, "initial_const": 1.0},
        "cw_linf": {"rounds": 3, "steps": 15, "lr": 0.02, "initial_const": 1.0},
        "deepfool": {"steps": 4}, "jsma": {"gamma": 0.2}}  # fmt: skip
# These end as near to the image as they can, whatever the loss there.
NEAREST = ("zoo", "hop_skip_jump")
FEW |= {"spsa": {"steps": 4, "samples": 16}, "hop_skip_jump": {"queries": 150},
        "zoo": {"steps": 8, "binary_steps": 2, "coordinates": 40}}  # fmt: skip
SHAPE = (5, 6, 6, 2)
CLASSES = 4
TRACES: list[int] = []

# Of SPSA the table has its own norm, `SHORT` another.
every_row = pytest.mark.parametrize(
    ("name", "norm"),
    full_but(TABLE, [row for row in TABLE if row in SHORT or row[0] == "spsa"]),
)
some_rows = pytest.mark.parametrize(("name", "norm"), full_but(SHORT, SHORTER))


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
    if name in ITERATED:
        more = {"step_size": eps / 3, "steps": 4} | more
    if name == "spsa":
        more = {"lr": eps} | more
    return attacks.get(name, eps=eps, norm=norm, **(FEW.get(name, {}) | more))


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


@every_row
def test_raises_the_loss(name, norm):
    x, y = batch()
    fn = functools.partial(losses.cross_entropy, y=y)
    gain = np.asarray(fn(model()(eager(name, norm))) - fn(model()(x)))
    assert (gain.max() if name in SOMETIMES else gain.min()) > 0


@every_row
def test_repeats_per_key(name, norm):
    attack = functools.partial(build(name, norm), model(), *batch())
    one, two, other = (attack(jax.random.key(seed)) for seed in (3, 3, 4))
    chex.assert_trees_all_equal(one, two)
    # In Linf, APGD's first step of 2 eps ends in the same corner from every start.
    random = name in RANDOM and (name, norm) != ("apgd", "linf")
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
    if name != "uniform_noise":
        assert np.abs(after - before).max() > 1e-3
        value = losses.cross_entropy
        x, y = batch()
        if name in NEAREST:
            moved = np.any(after != x, axis=(1, 2, 3))
            assert (jnp.argmax(new(after), axis=1) != y)[moved].all()
            return
        assert (value(new(after), y) > value(new(before), y)).any()


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


@pytest.mark.parametrize(
    ("name", "norm"),
    full_but(
        [r for r in SHORT if r[0] not in WHITE],
        [r for r in SHORTER if r[0] not in WHITE],
    ),
)
def test_other_bounds(name, norm):
    x = batch()[0] * 5 - 2
    attack = build(name, norm, 5 * EPS[norm], bounds=(-2.0, 3.0))
    x_adv = attack(model(), x, batch()[1], keys())
    assert float(x_adv.min()) >= -2
    assert float(x_adv.max()) <= 3
    least = 0 if name in NEAREST else 1
    assert least < distance64(x_adv, x, norm).max() / EPS[norm] <= 5 + 1e-5


@pytest.mark.parametrize("norm", threat.NORMS)
@pytest.mark.parametrize("loss", ["margin", "dlr"])
def test_raises_a_named_loss(norm, loss):
    x, y = batch()
    fn = {"margin": losses.margin, "dlr": losses.dlr}[loss]
    x_adv = build("bim", norm, loss=loss)(model(), x, y, None)
    assert (fn(model()(x_adv), y) > fn(model()(x), y)).all()


@pytest.mark.parametrize(
    ("name", "norm"),
    full_but(
        [r for r in SHORT if r[0] not in ("pgd", "apgd_targeted", "fab", "deepfool")],
        [r for r in SHORTER if r[0] not in ("pgd", "fab", "deepfool")],
    ),
)
def test_targeted_lowers_the_loss(name, norm):
    x, y = batch()
    target = (y + 1) % CLASSES
    x_adv = build(name, norm, targeted=True)(model(), x, target, keys())
    fn = functools.partial(losses.cross_entropy, y=target)
    gain = np.asarray(fn(model()(x)) - fn(model()(x_adv)))
    assert (gain.max() if name in SOMETIMES else gain.min()) > 0


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
    if name not in RANDOM:
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
