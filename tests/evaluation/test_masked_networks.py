"""Networks with damaged gradients are flagged as severe, sound ones are not.

The table in `masked_networks` stands for the kinds; the whole of it is `full`.
"""

import jax
import jax.numpy as jnp
import pytest

from jaxrobust import evaluation
from jaxrobust.evaluation import diagnose
from jaxrobust.results import as_json
from tests.evaluation import masked_networks as bench
from tests.marks import full_but

N = 60
# Those that no other sign finds, and those that rounding makes look damaged.
MASKED = (
    "half of the pixels",
    "another's for two classes",
    "another's near the boundary",
)
SOUND = (
    "padded with -1e9",
    "shifted by 1e6",
    "bfloat16",
    "log-probabilities",
)


def severe(found):
    return {flag["name"] for flag in found if flag["severe"]}


def _nan_off_levels(x):
    """Has no logits but of 8-bit images."""
    levels = x * 255
    off = jnp.abs(levels - jnp.round(levels)).max((1, 2, 3)) > 1e-2
    return jnp.where(off[:, None], jnp.nan, bench.network("linear")(x))


def look(network, classes=10):
    x, y = bench.digits()
    usual = {"key": jax.random.key(0), "eps": bench.EPS, "steps": 10, "queries": 60}
    numbers, found = diagnose(network, x[:N], y[:N] % classes, **usual)
    return as_json(numbers), found


@pytest.mark.parametrize("name", full_but(bench.MASKED, MASKED))
def test_a_damaged_gradient_is_a_severe_sign(name):
    assert severe(look(bench.MASKED[name]())[1])


@pytest.mark.parametrize("name", full_but(bench.SOUND, SOUND))
def test_a_sound_network_raises_no_severe_flag(name):
    numbers, found = look(bench.SOUND[name](), 2 if name == "two classes" else 10)
    assert not severe(found)
    assert numbers["accuracy"]["clean"] > 0.6


def test_a_constant_network_is_told_as_such():
    _, found = look(lambda x: jnp.zeros((len(x), 10)) + jnp.arange(10.0)[None])
    assert [(flag["name"], flag["severe"]) for flag in found] == [
        ("learned_nothing", False)
    ]


@pytest.mark.full
@pytest.mark.parametrize(
    ("network", "expected"),
    [
        # Without a flag of AutoAttack: test_verdicts.py, too.
        pytest.param(lambda: bench.network("linear"), set(), marks=pytest.mark.full),
        (
            lambda: bench.with_gradient_of(
                bench.network("linear"), lambda x: bench.network("linear")(x[:, ::-1])
            ),
            {"wrong_gradients", "gradients_mislead"},
        ),
        pytest.param(
            lambda: lambda x: bench.network("linear")(x) * 0,
            {"learned_nothing"},
            marks=pytest.mark.full,
        ),
        pytest.param(
            lambda: _nan_off_levels, {"non_finite_logits"}, marks=pytest.mark.full
        ),
    ],
    ids=["sound", "another's", "constant", "nan"],
)
def test_autoattack_says_so_too(network, expected):
    x, y = bench.digits()
    found = evaluation.autoattack(
        network(),
        x[:12],
        y[:12],
        key=jax.random.key(0),
        eps=bench.EPS,
        progress=False,
    )
    assert expected <= {flag["name"] for flag in found.flags}
    assert bool(severe(found.flags)) == bool(expected - {"learned_nothing"})
