"""Sparse and black-box attacks on problems whose best answer is known."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import attacks, threat
from jaxrobust.attacks import registry

SHAPE = (3, 4, 4, 2)
KEY = jax.random.key(5)
X = jax.random.uniform(jax.random.key(0), SHAPE)
W = jax.random.normal(jax.random.key(1), SHAPE[1:])
Y = jnp.zeros(3, jnp.int32)
MARGIN = {"loss": "margin"}  # cross-entropy is flat where the lead is large


def falls(room, norm):
    """How much of `W . x` each group can take, largest first, `[B, groups]`."""
    gain = jnp.sum(threat.grouped(W[None] * room, norm), axis=2)
    return -jnp.sort(-gain, axis=1)


def linear(x, *, lead):
    """Class 0 by `lead`, `[B]`, at `X`; what an attack takes of W . x counts for 1."""
    score = jnp.sum(W[None] * (x - X), axis=(1, 2, 3)) + lead
    return 10 * jnp.stack([score, jnp.zeros(len(x))], axis=1)


def hardest(norm, pixels, share):
    """The lead that `pixels` groups can take away, times `share`."""
    room = jnp.where(W[None] > 0, X, X - 1)
    return share * jnp.sum(falls(room, norm)[:, :pixels], axis=1)


@pytest.mark.parametrize("norm", threat.SPARSE)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pgd_0", {"steps": 2, "step_size": 1e4, "random_start": False} | MARGIN),
        ("sparse_rs", {"queries": 1500}),
    ],
)
def test_the_best_three_groups_are_found(name, options, norm):
    """What three groups can do at most is nearly all needed; more is too much.

    The longer a step of PGD-0, the more its projection chooses by gain alone.
    """
    attack = attacks.get(name, eps=3, norm=norm, **options)
    for share, want in ((0.97, True), (1.03, False)):
        fn = functools.partial(linear, lead=hardest(norm, 3, share))
        x_adv = attack(fn, X, Y, KEY)
        assert (jnp.argmax(fn(x_adv), axis=1) == 1).all() == want
        assert (threat.distance(x_adv, X, norm=norm) <= 3).all()


@pytest.mark.parametrize("name", ["sigma_zero", "fmn"])
def test_no_fewer_values_would_do(name):
    fn = functools.partial(linear, lead=hardest("l0", 4, 0.98))
    x_adv = attacks.get(name, norm="l0", steps=150)(fn, X, Y, None)
    told = threat.distance(x_adv, X, norm="l0")
    assert (jnp.argmax(fn(x_adv), axis=1) == 1).all()
    assert (told >= 4).all()
    assert np.median(told) <= 5


def test_sparsefool_takes_the_heaviest_values():
    """Values in the order of their weights, each to the wall, until it is enough."""
    lead = hardest("l0", 4, 0.98)
    room = jnp.where(W[None] > 0, X, 1 - X).reshape(3, -1)
    weights = jnp.abs(W).reshape(1, -1)
    order = jnp.argsort(-weights, axis=1)
    falls = jnp.cumsum(jnp.take_along_axis(weights * room, order, axis=1), axis=1)
    needed = jnp.sum(falls < lead[:, None], axis=1) + 1
    fn = functools.partial(linear, lead=lead)
    x_adv = attacks.get("sparsefool", reach=1.0)(fn, X, Y, None)
    assert (jnp.argmax(fn(x_adv), axis=1) == 1).all()
    told = threat.distance(x_adv, X, norm="l0")
    chex.assert_trees_all_close(told, needed.astype(told.dtype), rtol=0, atol=1)


def test_one_pixel_finds_the_pixel():
    """Of 16 pixels one is enough, in some colours."""
    fn = functools.partial(linear, lead=hardest("l0_pixels", 1, 0.8))
    x_adv = attacks.get("one_pixel", population=40, steps=20)(fn, X, Y, KEY)
    assert (jnp.argmax(fn(x_adv), axis=1) == 1).all()
    assert (threat.distance(x_adv, X, norm="l0_pixels") == 1).all()


def test_rays_finds_the_signs():
    """In Linf the boundary is |lead| / |W|_1 away, along the signs of W."""
    x, lead = jnp.full(SHAPE, 0.5), jnp.array([0.5, 1.0, 2.0])

    def fn(z):
        score = jnp.sum(W[None] * (z - 0.5), axis=(1, 2, 3)) + lead
        return 10 * jnp.stack([score, jnp.zeros(3)], axis=1)

    x_adv = attacks.get("rays", queries=900)(fn, x, Y, None)
    told = threat.distance(x_adv, x, norm="linf")
    chex.assert_trees_all_close(told, lead / jnp.sum(jnp.abs(W)), rtol=0.02)


@pytest.mark.parametrize(
    ("name", "most", "options"),
    [
        ("boundary", 1.25, {"queries": 4000}),
        ("ddn", 1.02, {}),
        ("geoda", 1.05, {"queries": 1500, "share": 1.0}),
        ("surfree", 1.25, {"queries": 2000, "basis": "normal"}),
    ],
)
def test_straight_boundaries_in_l2(name, most, options):
    """The distance of a plane, lead / |W|_2, but for what a walk has left to go."""
    x, lead = jnp.full(SHAPE, 0.5), jnp.array([0.5, 1.0, 2.0])

    def fn(z):
        score = jnp.sum(W[None] * (z - 0.5), axis=(1, 2, 3)) + lead
        return 3 * jnp.stack([score, jnp.zeros(3)], axis=1)

    x_adv = attacks.get(name, **options)(fn, x, Y, KEY)
    share = threat.distance(x_adv, x, norm="l2") * jnp.linalg.norm(W) / lead
    assert float(share.min()) >= 1 - 1e-3
    assert float(share.max()) <= most


@pytest.mark.parametrize("basis", ["pixel", "dct"])
def test_simba_steps_along_a_basis(basis):
    """Before it is misclassified, all it has changed are steps along directions."""
    fn = functools.partial(linear, lead=jnp.full(3, 20.0))
    x = jnp.full(SHAPE, 0.5)
    x_adv = attacks.get("simba", eps=10.0, norm="l2", queries=30, basis=basis,
                        step_length=0.05, loss="margin")(fn, x, Y, KEY)  # fmt: skip
    delta = np.asarray(x_adv - x, np.float64)
    if basis == "dct":
        k, n = np.arange(4)[:, None], np.arange(4)[None]
        waves = np.cos(np.pi * (n + 0.5) * k / 4) * np.sqrt(1 / 2)
        waves[0] /= np.sqrt(2)
        delta = np.einsum("kh,lw,bhwc->bklc", waves, waves, delta)
    steps = delta / 0.05
    chex.assert_trees_all_close(steps, np.round(steps), rtol=0, atol=1e-4)
    assert (np.abs(steps) <= 1 + 1e-4).all()
    assert (fn(x_adv)[:, 0] < fn(x)[:, 0]).all()


@pytest.mark.parametrize(
    ("name", "norm", "options", "share"),
    [
        ("nes", "l2", {"steps": 30, "sigma": 0.01}, 0.9),
        ("bandits", "linf", {"queries": 900, "lr": 0.02, "tiles": 4}, 0.5),
    ],
)
def test_estimates_follow_a_linear_loss_as_pgd_does(name, norm, options, share):
    """Bandits' prior is of two looks a step, so it lags."""
    fn = functools.partial(linear, lead=jnp.full(3, 20.0))
    by = {"eps": 0.1, "norm": norm, "loss": "margin"}
    gain = {
        who: fn(X)[:, 0] - fn(attacks.get(who, **by, **own)(fn, X, Y, KEY))[:, 0]
        for who, own in ((name, options), ("pgd", {"steps": 10, "step_size": 0.05}))
    }
    assert (gain[name] > share * gain["pgd"]).all()


@pytest.mark.parametrize("name", ["ddn", "fmn", "sigma_zero", "boundary"])
def test_any_start(name):
    """From an image far away that is misclassified, a mistake that is near."""
    lead = jnp.full(3, 1.0)
    fn = functools.partial(linear, lead=lead)
    far = jnp.where(W[None] > 0, 0.0, 1.0) * jnp.ones(SHAPE)
    assert (jnp.argmax(fn(far), axis=1) == 1).all()
    attack = getattr(attacks, name)
    norm = registry.traits(name).norm or "l2"
    more = {"queries": 200} if name == "boundary" else {"steps": 40}
    x_adv = attack(fn, X, Y, x_init=far, norm=norm, key=KEY, **more)
    assert (jnp.argmax(fn(x_adv), axis=1) == 1).all()
    nearer = threat.distance(x_adv, X, norm=norm) < threat.distance(far, X, norm=norm)
    assert nearer.all()


@pytest.mark.parametrize("name", ["ddn", "simba"])
def test_the_scale_of_the_logits_does_not_count_for(name):
    """As much is misclassified; a probability of 1 as rounded would hide the way."""
    w = jax.random.normal(jax.random.key(3), (16, 4))
    x = jax.random.uniform(jax.random.key(4), (12, 4, 4, 1))
    net = lambda z: z.reshape(len(z), -1) @ w  # noqa: E731
    y = net(x).argmax(1)
    own = {"ddn": {"steps": 30}, "simba": {"eps": 0.3, "queries": 60}}[name]
    left = [
        (
            net(attacks.get(name, **own)(lambda z, s=s: s * net(z), x, y, KEY)).argmax(
                1
            )
            == y
        )
        for s in (1, 1e-6, 1e6)
    ]
    assert not left[0].all()
    assert abs(left[1].sum() - left[0].sum()) <= 1
    assert abs(left[2].sum() - left[0].sum()) <= 1
