"""PC loss and logit constraint: golden values of the release, hand-computed numbers."""

import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust import losses
from tests.marks import full_but

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden"
CASES = ["b1_c2", "b8_c10", "b8_c100", "equal_logits", "huge_logits"]
LOSSES = {
    "pc_m0.8": lambda z, y: losses.pc(z, y, 0.8),
    "pc_m0.995": losses.pc,
    "lc": losses.logit_constraint,
    "total": lambda z, y: losses.pc(z, y) + 0.05 * losses.logit_constraint(z, y),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("bits", full_but([32, 64], [32]))
def test_golden(case, name, bits):
    """Values and gradients of the original code, ties and saturation included."""
    end = "64" if bits == 64 else ""
    with np.load(GOLDEN / f"pc_{case}.npz") as data, jax.enable_x64(bits == 64):
        z = jnp.asarray(data["logits"], jnp.float64 if bits == 64 else jnp.float32)
        y = jnp.asarray(data["labels"], jnp.int32)
        fn = jax.jit(jax.value_and_grad(lambda z: LOSSES[name](z, y).mean()))
        value, grad = fn(z)
        chex.assert_trees_all_equal_shapes_and_dtypes(grad, z)
        close = 1e-12 if bits == 64 else 1e-5
        expected = data[f"{name}/grad{end}"]
        chex.assert_trees_all_close(
            value, data[f"{name}/loss{end}"], rtol=close, atol=close
        )
        largest = max(np.abs(expected).max(), 1e-3)
        chex.assert_trees_all_close(grad, expected, rtol=0, atol=close * largest)


def test_pc_by_hand():
    """P = (.6, .3, .1): wrong classes fall short of the margin .5 by .2 and 0."""
    z = jnp.log(jnp.array([[0.6, 0.3, 0.1]])) + 3
    y = jnp.array([0])
    chex.assert_trees_all_close(
        losses.pc(z, y, 0.5), np.asarray([(0.2 + 0.0) / 2]), rtol=0, atol=1e-6
    )
    y = jnp.array([2])
    chex.assert_trees_all_close(
        losses.pc(z, y, 0.5), np.asarray([(1.0 + 0.7) / 2]), rtol=1e-6
    )


def test_logit_constraint_by_hand():
    """Wrong logits log 3 and log 1 weigh 3/4 and 1/4; one lies above the true 1."""
    z = jnp.array([[1.0, np.log(3), 0.0]])
    expected = 0.75 * 0 + 0.25 * 1
    value = losses.logit_constraint(z, jnp.array([0]))
    chex.assert_trees_all_close(value, np.asarray([expected]), rtol=1e-6)


def test_very_low_logits_are_still_masked_exactly():
    """The release's logit of -1000 in the true class's place would win here."""
    z = jnp.array([[5.0, -3000.0, -3000.0]])
    value = losses.logit_constraint(z, jnp.array([0]))
    chex.assert_trees_all_close(value, np.asarray([3005.0]), rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), margin=st.floats(0, 1), scale=st.floats(0.1, 30))
def test_bounds_and_zero(seed, margin, scale):
    """0 <= PC <= 1 + margin; it is 0 where every gap is at least the margin."""
    z = scale * jax.random.normal(jax.random.key(seed), (16, 5))
    y = jnp.arange(16) % 5
    value = np.asarray(losses.pc(z, y, margin))
    assert (value >= 0).all()
    assert (value <= 1 + margin + 1e-5).all()
    p = np.asarray(jax.nn.softmax(z))
    rest = np.where(np.arange(5) == np.asarray(y)[:, None], -1, p).max(1)
    wide = p[np.arange(16), np.asarray(y)] - rest > margin + 1e-6
    assert (value[wide] == 0).all()
    assert (np.asarray(losses.logit_constraint(z, y)) >= 0).all()


@pytest.mark.parametrize("margin", [-0.1, 1.5, float("nan"), float("inf")])
def test_margin_out_of_range(margin):
    with pytest.raises(ValueError, match=r"`margin` must be in \[0, 1\], got"):
        losses.pc(jnp.zeros((2, 3)), jnp.array([0, 1]), margin)


def test_margin_that_is_no_number():
    with pytest.raises(TypeError, match="`margin` must be a number, got 'wide'"):
        losses.pc(jnp.zeros((1, 3)), jnp.array([0]), "wide")  # pyright: ignore


def test_margin_may_be_traced():
    z, y = jnp.array([[1.0, 2.0, 0.0]]), jnp.array([0])
    value = jax.jit(lambda m: losses.pc(z, y, m))(0.8)
    chex.assert_trees_all_close(value, losses.pc(z, y, 0.8), rtol=1e-6)
