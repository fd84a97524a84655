"""What is no number, or read from beyond an array, is never taken for a proof."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax, nn

from jaxrobust import certify

METHODS = ("ibp", "crown_ibp", "crown", "alpha_crown")
FIRST = jnp.array([0])


def _two(first, second):
    return jnp.stack([jnp.broadcast_to(first, second.shape), second], 1)


def _is_finite(z):
    pair = jnp.broadcast_to(z, (len(z), 2))
    said = jnp.where(jnp.isfinite(1 / (pair - 0.5)), jnp.eye(2)[0], jnp.eye(2)[1])
    return said + 0.1 * pair


def _is_nan(z):
    pair = jnp.broadcast_to(z, (len(z), 2))
    said = jnp.where(jnp.isnan(jnp.log(pair - 0.5)), jnp.eye(2)[1], jnp.eye(2)[0])
    return said + 0.1 * pair


# Networks of one value, with a point of [.3, .9] where class 0 is not said.
FOOLED = {
    "isfinite": (_is_finite, 0.5),
    "isnan": (_is_nan, 0.4),
    "isnan, of constants": (
        lambda z: jnp.where(jnp.isnan(jnp.log(z - 0.5)), jnp.eye(2)[1], jnp.eye(2)[0]),
        0.4,
    ),
    "a clipped root": (
        lambda z: _two(2.0, jnp.clip(jnp.sqrt(z[:, 0] - 0.5), 0, 1)),
        0.4,
    ),
    "a direction": (
        lambda z: _two(3.0, jnp.tanh((z - 0.5) / jnp.abs(z - 0.5))[:, 0]),
        0.5,
    ),
    "what cancels": (
        lambda z: jnp.array([[2.0, 0.0]]) + jnp.sqrt(z - 0.5),
        0.4,
    ),
    "a weight of 0": (
        lambda z: _two(2.0, 0 * jnp.log(z[:, 0] - 0.5)),
        0.4,
    ),
    "a power": (
        lambda z: _two(0.0, -((z[:, 0] - 2) ** jnp.array(3.0)) - 3.0),
        0.3,
    ),
    "weights that are no numbers": (
        lambda z: _two(2.0, jnp.tanh(jnp.nan * z[:, 0])),
        0.4,
    ),
    "the place of a chosen number": (
        lambda z: _two(1.0, jnp.where(z[:, 0] > 0.2, jnp.log(z[:, 0] - 0.5), 0)),
        0.4,
    ),
}


EYE, MASK = jnp.eye(2), jnp.array([[True, False]])


def _of_two(change):
    """A network of two values, whose own lead is 1 for class 0."""
    return lambda z: change(z) + jnp.array([[1.0, 0.0]])


def _cancelled(z):
    huge = z @ (EYE * 3e38) @ (EYE * 3)
    return huge - huge


# What is infinite, or none of both, where the network is [NaN, NaN], or says class 1.
LOST = {
    "what overflows and comes back": _of_two(
        lambda z: z @ (EYE * 1e30) @ (EYE * 1e30) @ (EYE * 1e-30) @ (EYE * 1e-30)
    ),
    "the same, beside an exp": _of_two(lambda z: _cancelled(z) + 0.01 * jnp.exp(z)),
    "a difference of infinities": _of_two(_cancelled),
    "a product with 0": _of_two(
        lambda z: ((z * 1e30) * (z[:, ::-1] * 1e30)) @ jnp.zeros((2, 2))
    ),
    "a masked value with a weight of 0": _of_two(
        lambda z: jnp.where(MASK, z, -jnp.inf) @ jnp.diag(jnp.array([2.0, 0.0]))
    ),
    "a bias that nothing reads": _of_two(
        lambda z: (z @ EYE + jnp.array([[0.0, jnp.nan]])) @ jnp.diag(EYE[0])
    ),
    "a fill that nothing reads": _of_two(
        lambda z: z.at[:, jnp.array([0, 5])].get(mode="fill") @ jnp.diag(EYE[0])
    ),
    "a value that is asked for and is infinite": lambda z: (
        jnp.where(
            jnp.isfinite(jnp.where(MASK, z, -jnp.inf)),
            jnp.array([[0.0, 2.0]]),
            jnp.array([[2.0, 3.0]]),
        )
        - 3 * EYE[:1, ::-1]
        + 0.1 * z
    ),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", LOST)
def test_no_proof_of_what_overflows(name, method):
    x = jnp.array([[0.6, 0.9]])
    margin = certify.margin(LOST[name], x, FIRST, eps=0.05, method=method)
    logits = LOST[name](x)[0]
    if not logits[0] > logits[1]:
        assert not margin[0] > 0
    else:  # the last case: finite logits, of which nothing is known
        assert margin[0] <= logits[0] - logits[1]


@pytest.mark.parametrize("method", ["ibp", "crown"])
def test_attention_with_a_mask_is_proved(method):
    """Flax fills with the least number, from which the maximum is subtracted."""
    z = jax.random.uniform(jax.random.key(0), (1, 3, 4))

    def fn(z):
        scores = jnp.einsum("bik,bjk->bij", z, z)
        least = jnp.finfo(z.dtype).min
        scores = jnp.where(jnp.tri(3, dtype=bool)[None], scores, least)
        mixed = jnp.einsum("bij,bjk->bik", nn.softmax(scores), z)
        return _two(3.0, mixed.sum((1, 2)) / 4)

    assert certify.margin(fn, z, FIRST, eps=1e-3, method=method)[0] > 0


@pytest.mark.parametrize("method", ["ibp", "crown_ibp"])
def test_a_norm_that_may_be_0_has_a_floor(method):
    def fn(z):
        h = nn.relu(z - 0.6)
        h = h / jnp.maximum(jnp.linalg.norm(h, axis=-1, keepdims=True), 1.0)
        return h + jnp.array([[0.3, 0.0]])

    x = jnp.array([[0.5, 0.05]])
    assert certify.margin(fn, x, FIRST, eps=0.05, method=method)[0] > 0.2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", FOOLED)
def test_no_proof_where_the_network_may_say_no_number(name, method):
    fn, point = FOOLED[name]
    x, at = jnp.full((1, 1), 0.6), jnp.full((1, 1), point)
    logits = fn(at)
    assert not logits[0, 0] > logits[0, 1]  # the case is one
    margin = certify.margin(fn, x, FIRST, eps=0.3, method=method)
    assert not margin[0] > 0
    assert not certify.radius(fn, x, FIRST, eps=0.3, method=method)[0] > 0.2


@pytest.mark.parametrize("method", METHODS)
def test_a_branch_that_is_not_taken_may_be_anything(method):
    def fn(z):
        safe = jnp.where(z > 0.2, z, 1)
        return _two(1.0, jnp.where(z > 0.2, jnp.log(safe), 5)[:, 0])

    x = jnp.full((1, 1), 0.6)
    assert certify.margin(fn, x, FIRST, eps=0.3, method=method)[0] > 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("last", [nn.log_softmax, nn.softmax])
def test_softmaxes_of_large_logits_are_proved(last, method):
    """A sum of exp(x - max x) is at least 1, however loose the bounds of x are."""

    def fn(z):
        return last(400 * z @ jnp.array([[1.0, -1.0, 0.0], [0.0, 0.5, 0.5]]))

    x = jnp.array([[0.9, 0.1]])
    low, high = certify.bounds(
        lambda z: fn(z[None])[0], x[0] - 0.1, x[0] + 0.1, method=method
    )
    for z in ([0.8, 0.0], [1.0, 0.2], [0.8, 0.2], [1.0, 0.0]):
        value = fn(jnp.array([z]))[0]
        assert (low - 1e-3 <= value).all()
        assert (value <= high + 1e-3).all()
    if last is nn.log_softmax:
        assert certify.margin(fn, x, FIRST, eps=0.1, method=method)[0] > 0


def test_a_maximum_of_other_values_is_none_of_these():
    """Spread over the wrong axis, exp(x - max x) may be as small as it likes."""

    def fn(z):
        square = 40 * z.reshape(2, 2)
        wrong = square - jnp.max(square, 1)[None, :]
        return jnp.exp(wrong).sum(1)

    x = jnp.array([0.1, 0.2, 0.8, 0.9])
    low, high = certify.bounds(fn, x, x, method="ibp")
    assert (low <= fn(x)).all()
    assert (fn(x) <= high).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "read",
    [
        lambda z: z[jnp.array([0, 7])],
        lambda z: z.at[jnp.array([0, 7])].get(mode="fill", fill_value=5.0),
        lambda z: z.at[jnp.array([0, 7])].get(mode="clip"),
        lambda z: z.at[jnp.array([1, -1])].get(mode="fill", fill_value=5.0),
        lambda z: jnp.take(z, jnp.array([0, 7]), fill_value=5.0),
        lambda z: lax.dynamic_slice(z, (7,), (1,)) * jnp.ones(2),
    ],
)
def test_what_is_read_beyond_an_array(read, method):
    low, high = jnp.array([0.5, 0.8]), jnp.array([0.7, 0.9])

    def fn(z):
        return read(z) * jnp.array([1.0, 2.0])

    found = certify.bounds(fn, low, high, method=method)
    for x in (low, high):
        assert (found[0] <= fn(x)).all()
        assert (fn(x) <= found[1]).all()
    assert (found[1] - found[0] <= 0.5).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("exponent", [3.0, [3.0, 2.0], [3.0, 3.0], [2.5, 0.5]])
@pytest.mark.parametrize("low", [-2.0, 0.5])
def test_powers(method, exponent, low):
    ends = jnp.full(2, low), jnp.full(2, low + 1)

    def fn(z):
        return z ** jnp.array(exponent)

    found = certify.bounds(fn, *ends, method=method)
    for share in np.linspace(0, 1, 9):
        value = fn(ends[0] + share * (ends[1] - ends[0]))
        assert (found[0] <= value).all() or jnp.isnan(value).any()
        assert (value <= found[1]).all() or jnp.isnan(value).any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("weights", "low", "high", "eps"),
    [
        ([1.0, 0.0], [0.0, 0.0], [1.0, 1.0], 1e38),
        ([1e10, 0.0], [0.0, 0.0], [1e-10, 1.0], 1e30),
        ([1e30, 1e-10], [0.0, 0.0], [0.0, 1.0], 1.0),
        ([1e30, 1e10], [0.0, 0.0], [0.0, 1e-10], 1e10),
        ([1e-20, 1.0], [0.0, 0.0], [1.0, 1e-36], 1.0),
    ],
)
def test_balls_far_larger_and_smaller_than_the_box(weights, low, high, eps, method):
    low, high, w = jnp.array(low), jnp.array(high), jnp.array(weights)
    found = certify.bounds(
        lambda z: (z @ w)[None],
        low,
        high,
        method=method,
        center=(low + high) / 2,
        eps=eps,
        norm="l2",
    )
    assert found[1][0] >= high @ w
    assert found[0][0] <= low @ w


@pytest.mark.parametrize("method", [*METHODS, "bab"])
@pytest.mark.parametrize(
    "y", [jnp.array([-1]), jnp.array([3]), np.array([2**32 + 2], np.int64)]
)
def test_labels_that_name_no_class(method, y):
    def fn(z):
        return nn.relu(z @ jnp.eye(2, 3)) + jnp.array([[0.0, 0.0, 9.0]])

    x = jnp.full((1, 2), 0.5)
    with pytest.raises(ValueError, match="labels must be in"):
        certify.margin(fn, x, y, eps=0.01, method=method)


def test_labels_that_name_no_class_are_not_proved_inside_of_jit():
    x = jnp.full((1, 2), 0.5)
    fn = jax.jit(lambda y: certify.margin(lambda z: z - 20, x, y, eps=0.01))
    for label in (-1, 2):
        assert fn(jnp.array([label]))[0] == -jnp.inf
    worst = jax.jit(lambda y: certify.worst_logits(lambda z: z - 20, x, y, eps=0.01))
    assert jnp.isnan(worst(jnp.array([2]))).all()


def test_one_logit_is_no_class_of_several():
    with pytest.raises(ValueError, match="B, K"):
        certify.margin(
            lambda z: nn.relu(z)[:, :1], jnp.ones((1, 2)), FIRST, eps=0.1, method="bab"
        )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "fn",
    [
        lambda z: z,
        lambda z: lax.scan(lambda c, _: (c * 2, c), z, None, length=0)[0],
        lambda z: z[:0],
        jax.jit(lambda z: jnp.where(z > 0, z, jnp.array([0.1, 0.2]) * z)),
    ],
)
def test_small_functions(fn, method):
    bounds = jax.jit(lambda a, b: certify.bounds(fn, a, b, method=method))
    low, high = bounds(jnp.full(2, -1.0), jnp.ones(2))
    chex.assert_shape([low, high], fn(jnp.ones(2)).shape)
    for x in (jnp.full(2, -1.0), jnp.ones(2), jnp.zeros(2)):
        assert (low <= fn(x)).all()
        assert (fn(x) <= high).all()


@pytest.mark.parametrize("method", METHODS)
def test_logits_that_read_no_image(method):
    x = jnp.full((2, 3), 0.5)
    margin = certify.margin(
        lambda z: jnp.zeros((len(z), 2)) + jnp.array([[1.0, 0.0]]),
        x,
        jnp.array([0, 1]),
        eps=0.1,
        method=method,
    )
    chex.assert_trees_all_close(margin, jnp.array([1.0, -1.0]))


@pytest.mark.parametrize("eps", [-0.1, np.nan])
def test_a_ball_has_a_radius(eps):
    x = jnp.ones(2)
    with pytest.raises(ValueError, match="eps"):
        certify.bounds(jnp.abs, x - 1, x, center=x, eps=eps, norm="l2")
