"""What every attack must do, one row per attack and norm."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxrobust import attacks, losses, threat

EPS = {"linf": 0.06, "l2": 0.5, "l1": 3.0}
ITERATED = ("bim", "mim", "pgd")
TABLE = [
    (name, norm)
    for name in ("bim", "fgsm", "mim", "pgd", "uniform_noise")
    for norm in threat.NORMS
]
SHAPE = (5, 6, 6, 2)
CLASSES = 4


def build(name, norm, eps=None, **more):
    eps = EPS[norm] if eps is None else eps
    if name in ITERATED:
        more = {"step_size": eps / 3, "steps": 4} | more
    if name == "uniform_noise":
        more = {"draws": 4} | more
    return attacks.get(name, eps=eps, norm=norm, **more)


def weights(seed, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(seed), 2)
    first = jax.random.normal(keys[0], (72, 16), dtype) / 3
    return first, jax.random.normal(keys[1], (16, CLASSES), dtype)


def logits_of(w, x):
    return jnp.tanh(x.reshape(x.shape[0], -1) @ w[0]) @ w[1]


def model(seed=0, dtype=jnp.float32):
    return functools.partial(logits_of, weights(seed, dtype))


def batch(seed=1, dtype=jnp.float32):
    x = jax.random.uniform(jax.random.key(seed), SHAPE, dtype)
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
def compiled_over_eps(name, norm):
    x, y = batch()
    return jax.jit(
        lambda shift, eps: build(name, norm, eps, bounds=(0.0, 1.0))(
            model(), jnp.clip(x + shift, 0, 1), y, keys()
        )
    )


@pytest.mark.parametrize(("name", "norm"), TABLE)
@settings(
    max_examples=15,
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
    x_adv = np.asarray(compiled_over_eps(name, norm)(np.float32(shift), eps))
    assert np.isfinite(x_adv).all()
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert distance64(x_adv, x, norm).max() <= eps + 1e-6 * max(1, eps)


@pytest.mark.parametrize(("name", "norm"), TABLE)
def test_other_bounds(name, norm):
    bounds = (-2.0, 3.0)
    x = jax.random.uniform(jax.random.key(1), SHAPE, minval=-2.0, maxval=3.0)
    attack = build(name, norm, 5 * EPS[norm], bounds=bounds)
    x_adv = attack(model(), x, batch()[1], keys())
    assert float(x_adv.min()) >= -2
    assert float(x_adv.max()) <= 3
    assert distance64(x_adv, x, norm).max() <= 5 * EPS[norm] + 5e-6


@pytest.mark.parametrize(("name", "norm"), TABLE)
@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
def test_raises_the_loss(name, norm, loss):
    x, y = batch()
    fn = {"ce": losses.cross_entropy, "margin": losses.margin, "dlr": losses.dlr}[loss]
    x_adv = build(name, norm, loss=loss)(model(), x, y, keys())
    gain = np.asarray(fn(model()(x_adv), y) - fn(model()(x), y))
    # Noise is no ascent: it only has to help somewhere.
    assert (gain.max() if name == "uniform_noise" else gain.min()) > 0


@pytest.mark.parametrize(("name", "norm"), TABLE)
def test_targeted_lowers_the_loss(name, norm):
    x, y = batch()
    target = (y + 1) % CLASSES
    x_adv = build(name, norm, targeted=True)(model(), x, target, keys())
    before = losses.cross_entropy(model()(x), target)
    after = losses.cross_entropy(model()(x_adv), target)
    gain = np.asarray(before - after)
    assert (gain.max() if name == "uniform_noise" else gain.min()) > 0


@pytest.mark.parametrize(("name", "norm"), TABLE)
def test_jit_is_eager(name, norm):
    x, y = batch()
    attack = build(name, norm)
    eager = attack(model(), x, y, keys())
    jitted = jax.jit(lambda x: attack(model(), x, y, keys()))(x)
    np.testing.assert_allclose(eager, jitted, atol=1e-6)


@pytest.mark.parametrize(("name", "norm"), TABLE)
def test_repeats_per_key(name, norm, compiled):
    x, y = batch()
    attack = compiled(functools.partial(build(name, norm), model()))
    one, two, other = (attack(x, y, jax.random.key(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, two)
    if name in ("pgd", "uniform_noise"):
        assert float(jnp.abs(one - other).max()) > 1e-3


@pytest.mark.parametrize(("name", "norm"), TABLE)
def test_one_key_is_folded_per_row(name, norm):
    x, y = batch()
    attack, key = build(name, norm), jax.random.key(3)
    folded = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(SHAPE[0]))
    np.testing.assert_array_equal(
        attack(model(), x, y, key), attack(model(), x, y, folded)
    )


@pytest.mark.parametrize(("name", "norm"), TABLE)
def test_independent_of_the_rest_of_the_batch(name, norm):
    x, y = batch()
    attack = build(name, norm)
    whole = attack(model(), x, y, keys())
    rows = jnp.array([3, 1])
    part = attack(model(), x[rows], y[rows], keys()[rows])
    np.testing.assert_allclose(whole[rows], part, atol=2e-6)


@pytest.mark.parametrize(("name", "norm"), TABLE)
def test_eps_zero_returns_the_image(name, norm, compiled):
    x, y = batch()
    attack = compiled(functools.partial(build(name, norm, 0.0), model()))
    np.testing.assert_array_equal(attack(x, y, keys()), x)


@pytest.mark.parametrize(("name", "norm"), TABLE)
def test_vmap_over_eps_is_a_loop(name, norm):
    x, y = batch()
    radii = jnp.array([0.0, 0.5, 1.0]) * EPS[norm]

    def attack(eps):
        return build(name, norm, eps)(model(), x, y, keys())

    together = jax.jit(jax.vmap(attack))(radii)
    for eps, x_adv in zip(radii, together, strict=True):
        np.testing.assert_allclose(attack(float(eps)), x_adv, atol=1e-5)


@pytest.mark.parametrize(("name", "norm"), TABLE)
def test_float64_is_kept(name, norm, compiled):
    with jax.enable_x64(True):
        x, y = batch(dtype=jnp.float64)
        attack = compiled(functools.partial(build(name, norm), model(0, jnp.float64)))
        x_adv = attack(x, y, keys())
        assert x_adv.dtype == jnp.float64
        assert distance64(x_adv, x, norm).max() <= EPS[norm] * (1 + 1e-12)


@pytest.mark.parametrize(("name", "norm"), TABLE)
def test_no_gradient_flows(name, norm):
    x, y = batch()

    def total(w):
        fn = functools.partial(logits_of, w)
        return jnp.sum(build(name, norm)(fn, x, y, keys()))

    (first, _) = jax.jit(jax.grad(total))(weights(0))
    assert float(jnp.abs(first).max()) == 0


@pytest.mark.parametrize(("name", "norm"), TABLE)
def test_a_flat_model_moves_nothing_but_the_start(name, norm):
    x, y = batch()
    attack = jax.jit(
        lambda x: build(name, norm)(lambda x: jnp.zeros((5, CLASSES)), x, y, keys())
    )
    x_adv = attack(x)
    assert np.isfinite(x_adv).all()
    if name in ("fgsm", "bim", "mim"):
        np.testing.assert_array_equal(x_adv, x)


@pytest.mark.parametrize(("name", "norm"), TABLE)
def test_quantized_stays_on_the_grid_and_in_the_ball(name, norm):
    levels = jax.random.randint(jax.random.key(2), SHAPE, 0, 256)
    x = jnp.asarray(np.asarray(levels, np.float32) / 255)
    eps = 20 / 255 if norm == "linf" else EPS[norm]
    x_adv = build(name, norm, eps, quantize=True)(model(), x, batch()[1], keys())
    steps = np.asarray(x_adv, np.float64) * 255
    assert np.abs(steps - np.round(steps)).max() < 1e-4
    assert distance64(x_adv, x, norm).max() <= eps + 1e-6
    assert float(jnp.abs(x_adv - x).max()) > 0


class Net(nn.Module):
    """A Linen model that counts its traces."""

    width: int = 8

    @nn.compact
    def __call__(self, x):
        TRACES.append(1)
        x = nn.tanh(nn.Dense(self.width)(x.reshape(x.shape[0], -1)))
        return nn.Dense(CLASSES)(x)


TRACES: list[int] = []


@pytest.mark.parametrize(("name", "norm"), TABLE)
def test_second_call_with_new_weights(name, norm):
    """A Partial of a Linen model is neither traced again nor stale."""
    x, y = batch()
    net = Net()
    attack = build(name, norm, loss="margin")
    first, second = (net.init(jax.random.key(seed), x) for seed in (0, 1))
    one = attack(jax.tree_util.Partial(net.apply, first), x, y, keys())
    TRACES.clear()
    two = attack(jax.tree_util.Partial(net.apply, second), x, y, keys())
    assert not TRACES
    expected = jax.jit(lambda v: attack(lambda x: net.apply(v, x), x, y, keys()))(
        second
    )
    np.testing.assert_allclose(two, expected, atol=1e-6)
    if name != "uniform_noise":
        assert float(jnp.abs(one - two).max()) > 1e-3
