"""The prototype conformity loss against the original's numbers and closed forms."""

import functools
import pathlib

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxrobust import losses
from tests.marks import full_but

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
TERMS = {"prox": losses.proximity, "conprox": losses.contrastive_proximity}


def load(case):
    with np.load(GOLDEN / f"pcl_{case}.npz") as data:
        return dict(data)


def assert_close(got, want, rtol):
    chex.assert_trees_all_close(got, want, rtol=0, atol=rtol * np.abs(want).max())


@pytest.fixture(params=full_but(["float32", "float64"], ["float32"]))
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield np.dtype(request.param)


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("case", ["prox_256", "prox_1024"])
def test_golden(case, term, dtype):
    arrays = load(case)
    centers = arrays[f"{term}/centers"]
    check(arrays, f"{term}/", arrays["feats"], arrays["labels"], centers, dtype)


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("number", [0, 1])
def test_golden_edges(number, term, dtype):
    """Features on their centre, a batch of one, two classes."""
    arrays = load("prox_edge")
    feats, centers, labels = (
        arrays[f"{number}/{k}"] for k in ("feats", "centers", "labels")
    )
    check(arrays, f"{number}/{term}/", feats, labels, centers, dtype)


def check(arrays, prefix, feats, labels, centers, dtype):
    term = TERMS[prefix.split("/")[-2]]
    y = jnp.asarray(labels, jnp.int32)
    mean = lambda h, w: term(h, y, w).mean()  # noqa: E731
    h, w = jnp.asarray(feats, dtype), jnp.asarray(centers, dtype)
    value, gradients = jax.value_and_grad(mean, (0, 1))(h, w)
    chex.assert_type(value, dtype)
    chex.assert_trees_all_equal_shapes_and_dtypes(gradients, (h, w))
    double = dtype == np.float64
    suffix, rtol = ("64", 1e-12) if double else ("", 1e-5)
    chex.assert_trees_all_close(value, arrays[f"{prefix}loss{suffix}"], rtol=rtol)
    for gradient, name in zip(gradients, ("grad_feats", "grad_centers"), strict=True):
        want = arrays.get(f"{prefix}{name}{suffix}", arrays[prefix + name])
        assert_close(gradient, want, 1e-6)


def test_total_objective(dtype):
    """CE + proximity - 1e-4 contrastive proximity, over both layers."""
    arrays = load("total_objective")
    y = jnp.asarray(arrays["labels"], jnp.int32)
    names = ("feats256", "feats1024", "logits")
    values = {k: jnp.asarray(arrays[k], dtype) for k in names}
    centers = {
        k: jnp.asarray(v, dtype) for k, v in arrays.items() if k.startswith("centers/")
    }

    def total(values, centers):
        loss = losses.cross_entropy(values["logits"], y)
        for size in ("256", "1024"):
            h = values[f"feats{size}"]
            loss += losses.proximity(h, y, centers[f"centers/prox_{size}"])
            v = centers[f"centers/conprox_{size}"]
            loss -= 1e-4 * losses.contrastive_proximity(h, y, v)
        return loss.mean()

    value, gradients = jax.value_and_grad(total, (0, 1))(values, centers)
    want = arrays["total64" if dtype == np.float64 else "total"]
    chex.assert_trees_all_close(value, want, rtol=1e-6)
    for name, gradient in (gradients[0] | gradients[1]).items():
        assert_close(gradient, arrays[f"grad_{name}"], 1e-5)


def test_center_separation():
    centers = jnp.asarray([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
    # Squared distances 25, 1 and 18, each pair counted twice.
    assert losses.center_separation(centers) == pytest.approx((25 + 1 + 18) / 3)
    gradient = jax.grad(losses.center_separation)(centers)
    want = 2 / 3 * (3 * centers - centers.sum(0, keepdims=True))
    chex.assert_trees_all_close(gradient, want, rtol=1e-5)
    same = jnp.ones((4, 3))
    chex.assert_trees_all_equal(jax.grad(losses.center_separation)(same), 0)


@hypothesis.settings(deadline=None, max_examples=12)
@hypothesis.given(st.integers(1, 5), st.integers(2, 6), st.integers(0, 2**31 - 1))
def test_against_loops(batch, classes, seed):
    """Each example by itself, in NumPy."""
    generator = np.random.default_rng(seed)
    h = generator.normal(size=(batch, 3)).astype("f")
    w = generator.normal(size=(classes, 3)).astype("f")
    y = generator.integers(0, classes, batch)
    own = [np.sum((h[i] - w[y[i]]) ** 2) for i in range(batch)]
    wrong = [
        np.mean([np.sum((h[i] - w[j]) ** 2) for j in range(classes) if j != y[i]])
        for i in range(batch)
    ]
    labels = jnp.asarray(y, jnp.int32)
    got = losses.proximity(jnp.asarray(h), labels, jnp.asarray(w))
    chex.assert_trees_all_close(got, np.asarray(own), rtol=1e-4, atol=1e-5)
    got = losses.contrastive_proximity(jnp.asarray(h), labels, jnp.asarray(w))
    chex.assert_trees_all_close(got, np.asarray(wrong), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("term", TERMS.values())
def test_clamp(term):
    """Distances above 1e12 count as that and have no gradient."""
    h, w = jnp.full((1, 2), 1e9), jnp.zeros((2, 2))
    y = jnp.asarray([0], jnp.int32)
    value, gradient = jax.value_and_grad(lambda h: term(h, y, w).sum())(h)
    assert value == pytest.approx(1e12)
    chex.assert_trees_all_equal(gradient, 0)


def test_half_precision_is_widened():
    h, w = jnp.ones((2, 4), jnp.bfloat16), jnp.zeros((3, 4))
    y = jnp.asarray([0, 1], jnp.int32)
    for term in TERMS.values():
        value = jax.jit(term)(h, y, w)
        chex.assert_shape(value, (2,))
        chex.assert_type(value, jnp.float32)


H, Y, W = jnp.ones((2, 4)), jnp.asarray([0, 1], jnp.int32), jnp.zeros((3, 4))


@pytest.mark.parametrize("term", TERMS.values())
@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((H, Y[:1], W), ValueError, r"`y`.*row of `features`.*\(2,\)"),
        ((H, jnp.ones(2), W), TypeError, "`y`.*integer labels"),
        ((H[0], Y, W), ValueError, r"`features`.*\[B, D\].*\(4,\)"),
        ((H.astype(int), Y, W), TypeError, "`features`.*floating.*int32"),
        ((H, Y, W[:, :3]), ValueError, "length 4.*`centers`.*got 3"),
        ((H, Y, W[None]), ValueError, r"`centers`.*\[C, D\]"),
    ],
)
def test_refusals(term, args, error, message):
    with pytest.raises(error, match=message):
        term(*args)


@pytest.mark.parametrize("term", TERMS.values())
@pytest.mark.parametrize("label", [3, -1])
def test_a_label_without_a_centre_gives_nan(term, label, compiled):
    value = compiled(term)(H, jnp.asarray([0, label]), W)
    chex.assert_trees_all_equal(np.isnan(value), np.asarray([False, True]))


@pytest.mark.parametrize(
    "call",
    [
        functools.partial(losses.contrastive_proximity, H, Y * 0, W[:1]),
        functools.partial(losses.center_separation, W[:1]),
    ],
)
def test_one_class_has_no_other(call):
    with pytest.raises(ValueError, match=r"`centers`.*at least 2 classes, got 1"):
        call()
