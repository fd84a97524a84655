"""Structure of a batch: golden values, gradients at zero distance, the RCC variant."""

import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import losses
from tests.marks import full_but

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden"
DISTANCES = ["euc", "manhattan", "cos"]


@pytest.mark.parametrize("case", ["b8_d10", "b16_d100", "duplicate_rows"])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("bits", full_but([32, 64], [32]))
def test_golden(case, distance, bits):
    """Value, both gradients, and the release's objective with lambda = 300."""
    end = "64" if bits == 64 else ""
    with np.load(GOLDEN / f"ssc_{case}.npz") as data, jax.enable_x64(bits == 64):
        dtype = jnp.float64 if bits == 64 else jnp.float32
        h, h_adv = (jnp.asarray(data[k], dtype) for k in ("clean", "adv"))
        y = jnp.asarray(data["labels"], jnp.int32)

        def total(h, h_adv):
            structure = losses.spatial_structure(h, h_adv, distance)
            return losses.cross_entropy(h_adv, y).mean() + 300 * structure

        def check(fn, name, grads):
            value, found = jax.jit(jax.value_and_grad(fn, (0, 1)))(h, h_adv)
            chex.assert_rank(value, 0)
            chex.assert_trees_all_equal_shapes_and_dtypes(found, (h, h_adv))
            close = 1e-9 if bits == 64 else 1e-4
            expected = data[f"{distance}/{name}{end}"]
            chex.assert_trees_all_close(value, expected, rtol=close, atol=close * 1e-3)
            for key, grad in zip(("clean", "adv"), found, strict=True):
                expected = data[f"{distance}/{grads}_{key}{end}"]
                chex.assert_trees_all_close(
                    grad, expected, rtol=0, atol=10 * close * np.abs(expected).max()
                )

        check(lambda a, b: losses.spatial_structure(a, b, distance), "sim", "grad")
        check(total, "total", "total_grad")


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("compare", ["frobenius", "cosine"])
def test_identical_embeddings(distance, compare, compiled):
    """Value and gradients are 0; also with duplicate rows and rows of zeros."""
    with np.load(GOLDEN / "ssc_identical.npz") as data:
        h = jnp.asarray(data["clean"], jnp.float32)
    h = jnp.concatenate([h, h[:2], jnp.zeros((2, h.shape[1]))])
    for y in (None, jnp.arange(len(h)) % 4):
        fn = jax.value_and_grad(
            lambda a, b, y=y: losses.spatial_structure(
                a, b, distance, y=y, compare=compare
            ),
            (0, 1),
        )
        value, grads = compiled(fn)(h, h)
        chex.assert_trees_all_close(value, 0, rtol=0, atol=1e-6)
        for grad in grads:
            if compare == "frobenius":
                chex.assert_trees_all_equal(grad, jnp.zeros_like(h))
            else:  # 1 - cos of equal rows is 0 up to rounding
                chex.assert_trees_all_close(grad, jnp.zeros_like(h), rtol=0, atol=1e-6)


@pytest.mark.parametrize("distance", DISTANCES)
def test_gradients_are_finite_at_zero_rows(distance):
    h = jnp.zeros((4, 3))
    h_adv = h.at[0, 0].set(1.0)
    for pair in ((h, h_adv), (h_adv, h)):
        grads = jax.grad(lambda a, b: losses.spatial_structure(a, b, distance), (0, 1))(
            *pair
        )
        chex.assert_tree_all_finite(grads)


def slow_rcc(h, h_adv, y):
    """RCC row by row in NumPy; Euclidean."""

    def matrix(h):
        p = np.zeros((len(h), len(h)))
        for i in range(len(h)):
            d = np.array([np.sqrt(((h[i] - h[j]) ** 2).sum()) for j in range(len(h))])
            p[i] = np.exp(d) / np.exp(d).sum()
            p[i] *= [j != i and y[j] == y[i] for j in range(len(h))]
        return p

    rows = []
    for a, b in zip(matrix(h), matrix(h_adv), strict=True):
        lone = not a.any()
        rows.append(0 if lone else 1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
    return np.mean(rows)


def test_same_class_pairs_by_cosine():
    """RCC, with an example (class 2) that has no other of its class."""
    rng = np.random.default_rng(0)
    h, h_adv = rng.normal(size=(2, 7, 4))
    y = np.array([0, 1, 0, 1, 2, 0, 1])
    with jax.enable_x64(True):
        fn = jax.value_and_grad(
            lambda a, b: losses.spatial_structure(
                a, b, y=jnp.asarray(y), compare="cosine"
            ),
            (0, 1),
        )
        found = jax.jit(fn)(jnp.asarray(h), jnp.asarray(h_adv))
        value, grads = jax.device_get(found)
    chex.assert_trees_all_close(value, slow_rcc(h, h_adv, y), rtol=1e-9)
    assert value > 0.01
    chex.assert_tree_all_finite(grads)
    assert all(np.abs(grad).max() > 0 for grad in grads)


def test_same_class_pairs_by_norm():
    """Of two classes far apart only distances within each count."""
    h = jnp.array([[0.0], [1.0], [9.0], [9.5]])
    y = jnp.array([0, 0, 1, 1])
    p = np.asarray(jax.nn.softmax(jnp.abs(h - h.T), axis=1))
    q = np.asarray(jax.nn.softmax(jnp.abs(2 * h - 2 * h.T), axis=1))
    pairs = [(0, 1), (1, 0), (2, 3), (3, 2)]
    expected = np.sqrt(sum((p[i] - q[i]) ** 2 for i in pairs)) / 4
    value = losses.spatial_structure(h, 2 * h, y=y)
    chex.assert_trees_all_close(value, expected, rtol=1e-5)


H = jnp.zeros((3, 2))


@pytest.mark.parametrize(
    ("arguments", "fields", "error", "message"),
    [
        ((H, H, "euclid"), {}, ValueError, "`distance` must be one of euc.*'euclid'"),
        ((H, H), {"compare": "frob"}, ValueError, "`compare`.* mean 'frobenius'"),
        ((H, H[:2]), {}, ValueError, r"`h_adv`.*shape of `h`, \(3, 2\), got \(2, 2\)"),
        ((H[0], H[0]), {}, ValueError, r"`h` must have shape"),
        ((H, H.astype(int)), {}, TypeError, "`h_adv` must be a floating"),
        ((H, H), {"y": jnp.zeros(3)}, TypeError, "`y` must hold integer labels"),
        ((H, H), {"y": jnp.array([1])}, ValueError, r"row of `h`, shape \(3,\), got"),
    ],
)
def test_arguments_are_checked(arguments, fields, error, message):
    with pytest.raises(error, match=message):
        losses.spatial_structure(*arguments, **fields)
