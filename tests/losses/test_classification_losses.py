"""Losses: hand-computed and golden values, extreme logits, wrong shapes."""

import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.test_util import check_grads

from jaxrobust import losses
from tests.marks import full_but

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden"
ROWS = jnp.array([[2.0, 3.0, 5.0, 1.0], [5.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]])
Y = jnp.array([0, 0, 3])
EXTREME = jnp.array(
    [[1e4, -1e4, 0.0, 0.0], [1e30, -1e30, 1e30, 0.0], [0.0] * 4, [1e-30, 0.0, 0, 0]]
)
FUNCTIONS = {
    "cross_entropy": losses.cross_entropy,
    "margin": losses.margin,
    "dlr": losses.dlr,
    "dlr_targeted": lambda z, y: losses.dlr_targeted(z, y, (y + 1) % 4),
    "trades": lambda z, y: losses.trades(z, z[:, ::-1], y, 6.0),
    "mart": lambda z, y: losses.mart(z, z[:, ::-1], y, 5.0),
    "pc": losses.pc,
    "logit_constraint": losses.logit_constraint,
}


def test_anchors():
    """ANCHORS 1.12, computed by AutoAttack."""
    chex.assert_trees_all_close(
        losses.dlr(ROWS, Y), np.asarray([1.0, -2 / 3, -0.5]), rtol=1e-5
    )
    target = jnp.array([1, 1, 2])
    chex.assert_trees_all_close(
        losses.dlr_targeted(ROWS, Y, target),
        np.asarray([2 / 7, -4 / 7, -0.4]),
        rtol=1e-5,
    )


def test_margin_and_cross_entropy_by_hand():
    chex.assert_trees_all_close(
        losses.margin(ROWS, Y), np.asarray([3, -2, -1]), rtol=1e-7
    )
    z = np.asarray(ROWS, np.float64)
    expected = np.log(np.exp(z).sum(1)) - z[np.arange(3), np.asarray(Y)]
    chex.assert_trees_all_close(losses.cross_entropy(ROWS, Y), expected, rtol=1e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64"])
def test_labels_of_any_integer_dtype(name, dtype):
    """NumPy's own int64 among them, without a warning."""
    given = np.asarray(Y).astype(dtype)
    want = FUNCTIONS[name](ROWS, Y)
    chex.assert_trees_all_equal(FUNCTIONS[name](ROWS, given), want)


@pytest.mark.parametrize("loss", [losses.margin, losses.pc, losses.logit_constraint])
def test_more_classes_than_labels_of_that_dtype_can_count(loss):
    """Caltech-256 has 257 classes: the last one is not the first again."""
    z = jnp.linspace(0, 1, 300)[None]
    chex.assert_trees_all_equal(loss(z, np.uint8([0])), loss(z, jnp.array([0])))


def test_margin_is_positive_iff_misclassified():
    z = jax.random.normal(jax.random.key(0), (200, 7))
    y = jax.random.randint(jax.random.key(1), (200,), 0, 7)
    chex.assert_trees_all_equal(losses.margin(z, y) > 0, jnp.argmax(z, 1) != y)


def test_trades_by_hand():
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.25, 0.5])
    expected = -np.log(p[1]) + 3 * np.sum(p * np.log(p / q))
    value = losses.trades(
        jnp.log(jnp.asarray(p, jnp.float32))[None] + 5,
        jnp.log(jnp.asarray(q, jnp.float32))[None] - 7,
        jnp.array([1]),
        3.0,
    )
    chex.assert_trees_all_close(value, np.asarray([expected]), rtol=1e-5)


def test_trades_of_equal_logits_is_cross_entropy():
    chex.assert_trees_all_close(
        losses.trades(ROWS, ROWS, Y, 6.0), losses.cross_entropy(ROWS, Y), rtol=1e-6
    )


@pytest.mark.parametrize("name", ["dlr", "dlr_t"])
def test_autoattack_values_and_gradients(name):
    with np.load(GOLDEN / "aa_dlr.npz") as data, jax.enable_x64(True):
        z, y = jnp.asarray(data["logits"], jnp.float64), jnp.asarray(data["y"])
        target = jnp.asarray(data["y_target"])

        def fn(z):
            if name == "dlr":
                return losses.dlr(z, y)
            return losses.dlr_targeted(z, y, target)

        chex.assert_trees_all_close(fn(z), data[f"{name}/value64"], rtol=1e-9)
        grad = jax.grad(lambda z: fn(z).sum())(z)
        chex.assert_trees_all_close(grad, data[f"{name}/grad64"], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_extreme_logits_are_safe(name, compiled):
    fn, y = FUNCTIONS[name], jnp.array([1, 1, 2, 0])
    value = compiled(fn)(EXTREME, y)
    chex.assert_shape(value, (4,))
    grad = compiled(jax.grad(lambda z: jnp.sum(fn(z, y))))(EXTREME)
    chex.assert_equal_shape([grad, EXTREME])
    chex.assert_type([value, grad], EXTREME.dtype)
    chex.assert_tree_all_finite((value, grad))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients(name):
    with jax.enable_x64(True):
        z = jax.random.normal(jax.random.key(4), (3, 4), jnp.float64)
        check_grads(lambda z: FUNCTIONS[name](z, Y), (z,), 1, ["rev"], eps=1e-6)


def test_too_few_classes():
    y = jnp.array([0])
    with pytest.raises(ValueError, match=r"dlr loss.*at least 3 classes, got 2.*ma"):
        losses.dlr(jnp.zeros((1, 2)), y)
    with pytest.raises(ValueError, match=r"dlr_targeted.*at least 4 classes, got 3"):
        losses.dlr_targeted(jnp.zeros((1, 3)), y, y)
    for name in ("margin", "pc", "logit_constraint", "mart"):
        with pytest.raises(ValueError, match=rf"{name} .*at least 2 classes, got 1"):
            NAMED.get(name, losses.margin)(jnp.zeros((1, 1)), y)


NAMED = {
    "cross_entropy": losses.cross_entropy,
    "margin": losses.margin,
    "dlr": losses.dlr,
    "dlr_targeted": lambda z, y: losses.dlr_targeted(z, y, Y),
    "target": lambda z, y: losses.dlr_targeted(z, Y, y),
    "trades": lambda z, y: losses.trades(z, z, y),
    "mart": lambda z, y: losses.mart(z, z, y),
    "pc": losses.pc,
    "logit_constraint": losses.logit_constraint,
}


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize(
    ("z", "y", "error", "message"),
    [
        (ROWS, jnp.array([0]), ValueError, r"one label per row.*\(3,\), got \(1,\)"),
        (ROWS, Y[:, None], ValueError, r"one label per row.*got \(3, 1\)"),
        (ROWS, jnp.zeros(3), TypeError, "integer labels.* got float32"),
        (ROWS, [0, 1, 2], TypeError, "integer labels.* got list"),
        (ROWS.astype(int), Y, TypeError, "`logits` must be a floating.* got int32"),
        (ROWS[0], Y, ValueError, r"`logits` must have shape \[B, K\].*got \(4,\)"),
    ],
)
def test_arguments_are_checked(name, z, y, error, message):
    with pytest.raises(error, match=message) as caught:
        NAMED[name](z, y)
    if "label" in message:
        assert f"`{'target' if name == 'target' else 'y'}`" in str(caught.value)


@pytest.mark.parametrize("fn", [losses.trades, losses.mart])
def test_arguments_of_losses_of_two_logits_are_checked(fn):
    with pytest.raises(ValueError, match=r"`logits_adv`.*\(3, 4\), got \(1, 4\)"):
        fn(ROWS, ROWS[:1], Y)
    with pytest.raises(TypeError, match="`logits_adv` must be a floating"):
        fn(ROWS, ROWS.astype(int), Y)
    for beta in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="`beta` must be at least 0 and not NaN"):
            fn(ROWS, ROWS, Y, beta)
    with pytest.raises(TypeError, match="`beta` must be a number, got '6'"):
        fn(ROWS, ROWS, Y, "6")


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("y", [[0, 4, 3], [0, -1, 3], [0, -4, 3]])
def test_the_loss_of_a_label_that_is_no_class_is_nan(name, y, compiled):
    """It waits for no value on the host, and leaves the other rows as they are."""
    value = compiled(NAMED[name])(ROWS, jnp.array(y))
    want = NAMED[name](ROWS, Y).at[1].set(jnp.nan)
    chex.assert_trees_all_close(value, want, rtol=1e-5)


@pytest.mark.parametrize("name", full_but(NAMED, ["cross_entropy", "dlr", "target"]))
def test_traced_and_sharded_values(name):
    fn, expected = NAMED[name], NAMED[name](ROWS, Y)
    run = jax.jit(chex.assert_max_traces(fn, n=1))
    for labels in (Y, jnp.roll(Y, 0)):
        chex.assert_trees_all_close(run(ROWS, labels), expected, rtol=1e-5)
    many = jax.vmap(fn)(jnp.stack([ROWS, ROWS]), jnp.stack([Y, Y]))
    chex.assert_trees_all_close(many[1], expected, rtol=1e-5)
    if name not in ("dlr_targeted", "target"):  # these close over unsharded labels
        mesh = jax.make_mesh((3,), ("data",), axis_types=(AxisType.Explicit,))
        by_batch = NamedSharding(mesh, PartitionSpec("data"))
        z, y = jax.device_put((ROWS, Y), by_batch)
        chex.assert_trees_all_close(fn(z, y), expected, rtol=1e-5)
