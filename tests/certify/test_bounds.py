"""Bounds hold, in closed form where there is one, and refuse what they do not know."""

import re

import chex
import flax.linen as nn
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax import lax

from jaxrobust import certify
from jaxrobust.certify import _nonlinear
from tests.marks import full_but

RNG = np.random.default_rng(0)
WEIGHTS = [RNG.normal(size=s) for s in ((6, 12), (12, 12), (12, 3))]
METHODS = ("ibp", "crown_ibp", "crown")


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def points(low, high, count=400, seed=0):
    """Returns corners of a box and points inside, its ends among them."""
    rng = np.random.default_rng(seed)
    low, high = np.asarray(low), np.asarray(high)
    corner = rng.random((count, *low.shape)) < 0.5
    share = np.where(rng.random((count, 1)) < 0.5, corner, rng.random(corner.shape))
    return np.concatenate([low[None], high[None], low + (high - low) * share])


def check_inside(fn, low, high, values, **options):
    """Asserts that no value of a function at points leaves its bounds."""
    found = jax.jit(lambda a, b: certify.bounds(fn, a, b, **options))(low, high)
    least, most = (np.asarray(v) for v in found)
    assert (values >= least).all()
    assert (values <= most).all()
    return least, most


def wide(*shape):
    return jnp.asarray(RNG.normal(size=shape))


# Each of another rule.
QUICK = ("relu", "leaky by hand", "tanh", "elu", "silu", "under")
ACTIVATIONS = {
    "relu": nn.relu,
    "leaky": nn.leaky_relu,
    "leaky by hand": lambda x: jnp.where(x > 0, x, 0.3 * x),
    "abs": jnp.abs,
    "relu6": nn.relu6,
    "clip": lambda x: jnp.clip(x, -1.0, 0.5),
    "hard tanh": nn.hard_tanh,
    "min": lambda x: jnp.minimum(x, -0.2),
    "tanh": jnp.tanh,
    "sigmoid": nn.sigmoid,
    "erf": lax.erf,
    "softplus": nn.softplus,
    "elu": nn.elu,
    "selu": nn.selu,
    "celu": nn.celu,
    "silu": nn.silu,
    "gelu": nn.gelu,
    "exact gelu": lambda x: nn.gelu(x, approximate=False),
    "exp": lambda x: jnp.exp(0.3 * x),
    "log": lambda x: jnp.log(5 + 0.2 * x),
    "sqrt": lambda x: jnp.sqrt(5 + 0.2 * x),
    "rsqrt": lambda x: lax.rsqrt(5 + 0.2 * x),
    "over": lambda x: 1 / (5 + 0.2 * x),
    "under": lambda x: 1 / (-5 + 0.2 * x),
    "square": jnp.square,
    "cube": lambda x: x**3,
    "fourth": lambda x: x**4,
    "power": lambda x: (5 + 0.2 * x) ** 1.5,
    "swap": lambda x: jnp.where(x > 0.1, 2.0 - x, x),
}


@pytest.mark.parametrize("name", full_but(ACTIVATIONS, QUICK))
def test_no_point_leaves_the_bounds_of_a_network(name):
    """Points of boxes small and large, through two layers and their curves."""
    act = ACTIVATIONS[name]

    def fn(x):
        return act(act(x @ (0.4 * WEIGHTS[0])) @ (0.3 * WEIGHTS[1])) @ WEIGHTS[2]

    x = wide(6)
    sizes = jnp.array([1e-9, 0.05, 0.5])
    low, high = (jax.vmap(lambda e, s=s: x + s * e)(sizes) for s in (-1, 1))
    z = np.stack([points(a, b) for a, b in zip(low, high, strict=True)])
    values = np.asarray(jax.vmap(jax.vmap(fn))(z))
    width = {}
    for method in METHODS:
        bound = jax.vmap(lambda a, b, m=method: certify.bounds(fn, a, b, m))
        least, most = (np.asarray(v)[:, None] for v in jax.jit(bound)(low, high))
        assert (values >= least).all(), method
        assert (values <= most).all(), method
        width[method] = (most - least)[1].mean()
    assert width["crown"] < width["ibp"]


SHAPED = {
    "softmax": nn.softmax,
    "layer norm": lambda x: (x - x.mean()) * lax.rsqrt(x.var() + 0.1),
    "max": lambda x: jnp.max(x.reshape(3, 2), 1),
    "min of pairs": lambda x: jnp.min(x.reshape(3, 2), 1),
    "max pool": lambda x: nn.max_pool(x[:, None], (3,), (2,), "SAME")[:, 0],
    "avg pool": lambda x: nn.avg_pool(x[:, None], (2,), (1,), "VALID")[:, 0],
    "product": lambda x: x[:3] * x[3:],
    "matrices": lambda x: (x.reshape(2, 3) @ x.reshape(3, 2)).ravel(),
    "pads": lambda x: jnp.pad(x, 2, constant_values=0.5)[::-1].cumsum(),
    "parts": lambda x: jnp.concatenate([*jnp.split(x, 3)[:2], jnp.ones(2), x[1:2]]),
    "index": lambda x: x[jnp.array([0, 4, 4])] + x[2],
    "loop": lambda x: lax.scan(lambda h, w: (nn.relu(h @ w), h.sum()), x, STACK)[1],
    "remat": jax.checkpoint(lambda x: nn.relu(x @ WEIGHTS[0])),
    "norm": lambda x: jnp.sqrt(1e-3 + jnp.sum(jnp.square(x))) * jnp.ones(2),
}
STACK = 0.4 * RNG.normal(size=(3, 6, 6))


@pytest.mark.parametrize(
    "name", full_but(SHAPED, ["softmax", "layer norm", "max pool", "loop"])
)
def test_no_point_leaves_the_bounds_of_an_operation(name):
    def fn(x):
        return jnp.sin(1.0) * nn.relu(SHAPED[name](x @ STACK[0]))

    low, high = (lambda x: (x - 0.2, x + 0.2))(wide(6))
    values = np.asarray(jax.vmap(fn)(points(low, high)))
    for method in METHODS:
        check_inside(fn, low, high, values, method=method)


@hypothesis.settings(max_examples=8)
@hypothesis.given(
    seed=st.integers(0, 2**32 - 1),
    eps=st.floats(1e-6, 2),
    norm=st.sampled_from(["linf", "l2", "l1"]),
)
def test_random_networks_in_balls(seed, eps, norm):
    """Points of the ball cut with the box, of random weights and radii.

    Some units read nothing, some weights are small.
    """
    rng = np.random.default_rng(seed)
    weights = [
        rng.normal(size=s)
        * rng.choice([0, 1e-30, 1, 1], s)
        * rng.choice([0, 1, 1], s[1])
        for s in ((5, 8), (8, 8), (8, 3))
    ]
    x = rng.random(5)
    z = rng.normal(size=(300, 5)) * rng.choice([1e-3, 1.0, 10.0], (300, 1))
    z[:50] = np.sign(z[:50])
    z[50:60] = np.concatenate([np.eye(5), -np.eye(5)])
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    size = np.linalg.norm(z, order, axis=1, keepdims=True)
    # A hair inside: a point that was rounded out of the ball is none of it.
    z = z * np.minimum(1, eps * (1 - 1e-12) / size)
    z = np.clip(x + z, 0, 1)
    values = np.asarray(_random_net(weights, z))
    low, high = jnp.zeros(5), jnp.ones(5)
    for method in (*METHODS, "alpha_crown"):
        found = _random_bounds(weights, low, high, x, eps, norm, method)
        least, most = map(np.asarray, found)
        assert (values >= least).all(), method
        assert (values <= most).all(), method


def _net(weights, x):
    return nn.relu(jnp.tanh(x @ weights[0]) @ weights[1]) @ weights[2]


_random_net = jax.jit(_net)


@jax.jit(static_argnames=("norm", "method"))
def _random_bounds(weights, low, high, x, eps, norm, method):
    return certify.bounds(
        lambda z: _net(weights, z), low, high, method, center=x, eps=eps, norm=norm
    )


@pytest.mark.parametrize("wrong", ["chord", "slope", "interval"])
def test_a_wrong_plane_is_caught(wrong, monkeypatch):
    """Points leave bounds from planes that cut the curve, so the tests above look."""
    right = _nonlinear.NONLINEAR["max"]

    def relax(node, *operands):
        planes = right.relax(node, *operands)
        if wrong == "slope":
            return planes._replace(
                lower=planes.lower._replace(intercept=planes.lower.intercept + 0.1)
            )
        high = planes.upper
        return planes._replace(upper=high._replace(intercept=0.8 * high.intercept))

    def interval(node, *operands):
        found = right.interval(node, *operands)
        return found._replace(upper=0.9 * found.upper)

    rule = right._replace(relax=relax)
    if wrong == "interval":
        rule = right._replace(interval=interval)
    monkeypatch.setattr(_nonlinear, "NONLINEAR", {**_nonlinear.NONLINEAR, "max": rule})

    def fn(x):
        return nn.relu(x @ WEIGHTS[0][:, :1])

    low, high = -0.3 * jnp.ones(6), 0.5 * jnp.ones(6)
    values = np.asarray(jax.vmap(fn)(points(low, high)))
    with pytest.raises(AssertionError):
        check_inside(
            fn, low, high, values, method="ibp" if wrong == "interval" else "crown"
        )


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("method", METHODS)
def test_linear_networks_have_their_closed_form(norm, method):
    """The centre and eps times the dual norm, far from the walls of the box."""
    weights, x, eps = WEIGHTS[0], wide(6), 0.25

    def fn(z):
        return (z @ weights).reshape(3, 4).sum(1) - 1.0

    if method == "ibp" and norm != "linf":

        def fn(z):  # intervals end at the first sum
            return z @ weights

    dual = {"linf": 1, "l2": 2, "l1": np.inf}[norm]
    far = jnp.full(6, 100.0)
    low, high = certify.bounds(fn, -far, far, method, center=x, eps=eps, norm=norm)
    jacobian = jax.jacobian(fn)(x)
    reach = eps * np.linalg.norm(jacobian, dual, axis=1)
    if method != "ibp" or norm != "linf":
        chex.assert_trees_all_close(low, fn(x) - reach, atol=1e-9)
        chex.assert_trees_all_close(high, fn(x) + reach, atol=1e-9)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_the_box_cuts_the_ball(norm):
    """As near as a search over many points comes."""
    x, slope = jnp.array([0.05, 0.5, 0.9]), jnp.array([3.0, 1.0, -2.0])
    low, _ = certify.bounds(
        lambda z: z @ slope[:, None], jnp.zeros(3), jnp.ones(3),
        center=x, eps=0.2, norm=norm,
    )  # fmt: skip
    if norm == "l1":
        want = x @ slope - (0.05 * 3 + 0.1 * 2 + 0.05 * 1)
    else:  # the walls at .05 and .1, what is left of the radius along the second axis
        want = x @ slope - (0.15 + 0.2 + np.sqrt(0.2**2 - 0.05**2 - 0.1**2))
    chex.assert_trees_all_close(low[0], want, atol=1e-4)
    assert low[0] <= want


def test_forms_are_tighter_than_differences():
    def fn(x):
        return nn.relu(x @ WEIGHTS[0]) @ WEIGHTS[2]

    x = wide(6)
    forms = jnp.array([[1.0, -1.0, 0.0]])
    for method in METHODS:
        low, high = certify.bounds(fn, x - 0.1, x + 0.1, method)
        form, _ = certify.bounds(fn, x - 0.1, x + 0.1, method, forms=forms)
        assert form[0] > low[0] - high[1]


def test_rows_change_nothing():
    def fn(x):
        return nn.relu(nn.relu(x @ WEIGHTS[0]) @ WEIGHTS[1]) @ WEIGHTS[2]

    x = wide(6)
    whole = certify.bounds(fn, x - 0.1, x + 0.1)
    parts = certify.bounds(fn, x - 0.1, x + 0.1, rows=1)
    chex.assert_trees_all_close(whole, parts, rtol=1e-12)


def test_bounds_can_be_differentiated():
    """By weights, as training needs it: against differences."""
    x = wide(6)

    def least(scale, method):
        def fn(z):
            return nn.relu(jnp.tanh(z @ (scale * WEIGHTS[0])) @ WEIGHTS[1]).sum()

        return certify.bounds(lambda z: fn(z)[None], x - 0.1, x + 0.1, method)[0][0]

    for method in ("ibp", "crown", "alpha_crown"):
        slope = jax.jit(jax.grad(least), static_argnums=1)(0.5, method)
        near = [
            jax.jit(least, static_argnums=1)(0.5 + d, method) for d in (1e-5, -1e-5)
        ]
        near = (near[0] - near[1]) / 2e-5
        # The best planes are found up to the steps that look for them.
        rtol = 1e-2 if method == "alpha_crown" else 1e-4
        chex.assert_trees_all_close(slope, near, rtol=rtol)


@pytest.mark.parametrize("method", ["ibp", "crown_ibp", "crown", "alpha_crown"])
@pytest.mark.parametrize(
    "fn", [nn.relu, jnp.abs, nn.leaky_relu, jnp.tanh, nn.softplus, lambda v: v.max()]
)
def test_what_is_endless_is_bounded_where_it_can_be(fn, method):
    """1 / x may be anything where 0 is inside; what follows is not taken for 0."""

    def function(x):
        free = fn(1 / x[:1]).reshape(-1)
        return jnp.concatenate([jnp.tanh(free), fn(x[1:]).reshape(-1)])

    low, high = certify.bounds(
        function, jnp.array([-0.5, 1.0]), jnp.array([0.5, 2.0]), method=method
    )
    for x in ([-1e-6, 1.5], [1e-6, 1.5], [0.3, 1.0], [-0.3, 2.0]):
        value = function(jnp.array(x))
        assert (low - 1e-6 <= value).all()
        assert (value <= high + 1e-6).all()
    # The value beside it is as well known as alone.
    if method in ("ibp", "crown"):
        assert np.isfinite([*low[1:], *high[1:]]).all()


@pytest.mark.parametrize("method", ["ibp", "crown_ibp", "crown", "alpha_crown"])
@pytest.mark.parametrize("cap", [-5.0, 0.0, 0.5])
def test_a_sum_of_exponentials_is_what_its_cap_leaves(cap, method):
    """At least 1 is a sum of exp(x - max x), not one of something smaller."""
    fn = lambda x: jnp.exp(jnp.minimum(x - x.max(), cap)).sum()[None]  # noqa: E731
    low, high = jnp.zeros(3), jnp.ones(3)
    values = np.asarray(jax.vmap(fn)(points(low, high)))
    low, high = map(np.asarray, certify.bounds(fn, low, high, method=method))
    assert (values >= low - 1e-9).all()
    assert (values <= high + 1e-9).all()


@pytest.mark.parametrize("method", ["ibp", "crown_ibp", "crown", "alpha_crown"])
def test_a_softmax_has_bounds(method):
    fn = lambda x: nn.softmax(nn.relu(x @ WEIGHTS[0]))  # noqa: E731
    found = certify.bounds(fn, jnp.zeros(6), jnp.ones(6), method=method)
    low, high = map(np.asarray, found)
    assert (low > 0).all()
    assert (high <= 1 + 1e-9).all()
    values = np.asarray(jax.vmap(fn)(points(np.zeros(6), np.ones(6))))
    assert (values >= low).all()
    assert (values <= high).all()


@pytest.mark.parametrize("eps", [10.0, 1e10, np.inf])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_ball_around_the_box_is_the_box(norm, eps):
    x = jnp.full(4, 0.5, jnp.float32)
    low, high = certify.bounds(
        lambda z: z.sum()[None], x - 0.5, x + 0.5, center=x, eps=eps, norm=norm
    )
    chex.assert_trees_all_close((low[0], high[0]), (0.0, 4.0), atol=1e-4)


def test_tiles_are_copies():
    low, high = certify.bounds(lambda x: jnp.tile(x, 2), jnp.zeros(2), jnp.ones(2))
    chex.assert_trees_all_close((low, high), (jnp.zeros(4), jnp.ones(4)), atol=1e-9)


def test_a_function_that_does_not_read_its_input():
    low, high = certify.bounds(lambda x: jnp.arange(2.0), jnp.zeros(3), jnp.ones(3))
    assert low.tolist() == high.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("fn", "primitive"),
    [
        (lambda x: jnp.sin(x), "sin"),
        (lambda x: jnp.sort(x), "sort"),
        (lambda x: jnp.fft.rfft(x).real, "fft"),
        (lambda x: x.astype(jnp.float16).astype(x.dtype), "convert_element_type"),
        (lambda x: lax.while_loop(lambda v: v.sum() < 9, lambda v: v + 1, x), "while"),
        (lambda x: x[jnp.argmax(x)][None], "argmax"),
        (lambda x: lax.cond(x[0] > 0, jnp.abs, jnp.negative, x), "gt"),
    ],
)
def test_what_has_no_rule_is_named_with_its_line(fn, primitive):
    with pytest.raises(certify.Unsupported) as error:
        certify.bounds(fn, jnp.zeros(4), jnp.ones(4))
    assert re.search(f"'{primitive}'.*test_bounds.py:[0-9]+", str(error.value))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"method": "crown_ipb"}, "crown_ibp"),
        ({"norm": "l3"}, "l3"),
        ({"upper": jnp.zeros(4) - 1}, "lower"),
        ({"upper": jnp.zeros(5)}, "alike"),
        ({"eps": 0.1}, "center"),
        ({"forms": jnp.zeros((2, 3))}, "forms"),
    ],
)
def test_mistakes_are_told(changes, told):
    given = {"lower": jnp.zeros(4), "upper": jnp.ones(4), **changes}
    with pytest.raises(ValueError, match=told):
        certify.bounds(jnp.abs, **given)


def test_half_precision_is_refused():
    x = jnp.zeros(3, jnp.float16)
    with pytest.raises(TypeError, match="float16"):
        certify.bounds(jnp.abs, x, x)
