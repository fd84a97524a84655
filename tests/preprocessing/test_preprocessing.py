"""Changes of images against other libraries and closed forms, and their gradients."""

import io

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from jaxrobust import attacks, preprocessing

KEY = jax.random.key(0)
X = jax.random.uniform(KEY, (2, 12, 9, 3))


def flat(x):
    return x.reshape(len(x), -1)


def test_jpeg_is_near_what_pillow_makes_of_the_image():
    levels = np.round(255 * np.asarray(X)).astype(np.uint8)
    found = np.asarray(preprocessing.jpeg(lambda x: x, quality=30)(X))
    for image, own in zip(levels, found, strict=True):
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "JPEG", quality=30)
        decoded = np.asarray(Image.open(stream), float)
        # Where a coefficient lies between two steps it may be rounded the other way.
        off, changed = np.abs(decoded - 255 * own), np.abs(decoded - image)
        assert off.mean() < 0.05 * changed.mean()


@pytest.mark.parametrize("window", [1, 2, 3, 5])
def test_the_median_is_scipys(window):
    want = ndimage.median_filter(np.asarray(X), (1, window, window, 1), mode="reflect")
    found = preprocessing.median_filter(X, window)
    chex.assert_trees_all_equal(found, jnp.asarray(want))


@jax.jit
def objective(u, x, weight):
    down = jnp.pad(jnp.diff(u, axis=1), ((0, 0), (0, 1), (0, 0), (0, 0)))
    right = jnp.pad(jnp.diff(u, axis=2), ((0, 0), (0, 0), (0, 1), (0, 0)))
    return jnp.sqrt(down**2 + right**2).sum() + ((u - x) ** 2).sum() / (2 * weight)


def test_total_variation_falls_to_the_optimum():
    found = preprocessing.smoothed(X, 0.1, steps=300)
    chex.assert_trees_all_close(found.mean((1, 2)), X.mean((1, 2)), atol=1e-5)
    best = objective(found, X, 0.1)
    assert best < 0.9 * objective(X, X, 0.1)
    for seed in range(3):  # no better point near it
        near = found + 0.01 * jax.random.normal(jax.random.key(seed), X.shape)
        assert objective(near, X, 0.1) > best
    # Of two pixels the closed form: each moves towards the other by the weight.
    two = jnp.array([0.2, 0.8]).reshape(1, 1, 2, 1)
    got = preprocessing.smoothed(two, 0.1, steps=100)
    chex.assert_trees_all_close(got.ravel(), jnp.array([0.3, 0.7]), atol=1e-4)
    flat_image = jnp.full((1, 4, 4, 1), 0.5)
    gradient = jax.grad(lambda x: (preprocessing.smoothed(x) ** 2).sum())(flat_image)
    chex.assert_trees_all_close(gradient, flat_image * 2, atol=1e-4)


@pytest.mark.full
def test_resized_images_lie_on_black_and_keys_decide():
    x = jnp.ones((64, 10, 8, 1))
    keys = jax.random.split(KEY, 64)
    seen = preprocessing.resize_and_pad(lambda x: x, smallest=0.5, enlarged=1.2)
    seen = jax.jit(seen)
    found = np.asarray(seen(x, keys))
    assert found.shape == (64, 12, 10, 1)
    chex.assert_trees_all_equal(found, np.asarray(seen(x, keys)))
    sizes = set()
    for image in found[..., 0]:
        rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
        size = (rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1)
        assert image.sum() == size[0] * size[1]  # one block
        sizes.add(size)
    heights = {height for height, _ in sizes}
    assert heights == {6, 7, 8, 9, 10, 11, 12}
    whole = preprocessing.resize_and_pad(lambda x: x, smallest=1.0)
    chex.assert_trees_all_equal(whole(X, keys[:2]), X)
    doubled = preprocessing.resize_and_pad(lambda x: x, smallest=1.0, enlarged=2.0)
    want = X.repeat(2, axis=1).repeat(2, axis=2)
    chex.assert_trees_all_equal(doubled(X, keys[:2]), want)


def test_all_sizes_are_as_likely():
    keys = jax.random.split(KEY, 3000)
    area = preprocessing.resize_and_pad(lambda x: x.sum((1, 2)), smallest=0.6)
    found = np.sqrt(area(jnp.ones((3000, 10, 10, 1)), keys)).ravel().round()
    sizes, counts = np.unique(found, return_counts=True)
    assert sizes.tolist() == [6, 7, 8, 9, 10]
    np.testing.assert_allclose(counts / 3000, 0.2, atol=0.04)  # five standard errors


@pytest.mark.parametrize(
    "wrap",
    [preprocessing.jpeg, preprocessing.bit_depth, preprocessing.median],
)
def test_the_gradient_goes_past_or_through(wrap):
    def slope(gradient):
        defended = wrap(flat, gradient=gradient)
        return jax.grad(lambda x: defended(x)[:, 50].sum())(X)

    want = jnp.zeros((2, 12 * 9 * 3)).at[:, 50].set(1).reshape(X.shape)
    chex.assert_trees_all_equal(slope("past"), want)
    assert float(jnp.abs(slope("through") - want).max()) > 0.5
    chex.assert_trees_all_equal(
        wrap(flat, gradient="past")(X), wrap(flat, gradient="through")(X)
    )


def test_wrappers_nest_and_pass_keys_on():
    keys = jax.random.split(KEY, 2)
    inner = preprocessing.resize_and_pad(flat, smallest=0.5)
    found = preprocessing.bit_depth(inner, bits=1)(X, keys)
    chex.assert_trees_all_equal(found, inner(jnp.round(X), keys))
    outer = preprocessing.resize_and_pad(inner, smallest=0.5, stochastic=True)
    assert outer(X, keys).shape == found.shape


def test_an_attack_on_the_wrapped_network_is_the_adaptive_one():
    """Rounding hides the gradient of a linear network: only going past it finds it."""
    w = jax.random.normal(KEY, (16, 2))
    x = jax.random.uniform(jax.random.key(1), (20, 4, 4, 1))
    rounded = preprocessing.bit_depth(lambda x: flat(x) @ w, bits=3)
    hidden = preprocessing.bit_depth(lambda x: flat(x) @ w, bits=3, gradient="through")
    y = rounded(x).argmax(1)
    given = {"key": KEY, "eps": 0.15, "step_size": 0.15, "steps": 2}
    with pytest.warns(attacks.RobustnessWarning, match="zero"):
        unmoved = attacks.pgd(hidden, x, y, random_start=False, **given)
    found = attacks.pgd(rounded, x, y, random_start=False, **given)
    assert (rounded(unmoved).argmax(1) == y).all()
    assert (rounded(found).argmax(1) == y).mean() < 0.5


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: preprocessing.jpeg(flat, quality=0), "`quality` must be .* got 0"),
        (lambda: preprocessing.jpeg(flat, quality=True), "`quality` must be .* True"),
        (lambda: preprocessing.bit_depth(flat, bits=2.0), "`bits` must be .* got 2.0"),
        (lambda: preprocessing.median(flat, window=0), "`window` must be"),
        (lambda: preprocessing.total_variation(flat, weight=0), "`weight` must be"),
        (lambda: preprocessing.total_variation(flat, weight="a"), "`weight` must be"),
        (lambda: preprocessing.total_variation(flat, weight=[0.1]), "`weight` .* one"),
        (lambda: preprocessing.total_variation(flat, float("inf")), "`weight` must"),
        (lambda: preprocessing.resize_and_pad(flat, smallest=2.0), "`smallest` must"),
        (lambda: preprocessing.resize_and_pad(flat, smallest="0.9"), "`smallest` must"),
        (lambda: preprocessing.resize_and_pad(flat, enlarged=0.5), "`enlarged` must"),
        (lambda: preprocessing.denoise(flat, abs, gradient="pst"), "`gradient` must"),
        (lambda: preprocessing.denoise(flat, 3), "`denoiser` must be a function"),
        (lambda: preprocessing.jpeg(3), "`logits_fn` must be a function"),
        (lambda: preprocessing.resize_and_pad(3), "`logits_fn` must be a function"),
    ],
)
def test_arguments_that_are_none(make, match):
    with pytest.raises((ValueError, TypeError), match=match):
        make()


def test_numbers_of_numpy_will_do():
    by_numpy = preprocessing.bit_depth(flat, bits=np.int64(3))
    chex.assert_trees_all_equal(by_numpy(X), preprocessing.bit_depth(flat, 3)(X))


WRAPPERS = {
    "jpeg": preprocessing.jpeg,
    "bit_depth": preprocessing.bit_depth,
    "median": preprocessing.median,
    "total_variation": preprocessing.total_variation,
    "denoise": lambda fn: preprocessing.denoise(fn, lambda x: x),
    "resize_and_pad": preprocessing.resize_and_pad,
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_images_that_are_none_are_refused(name):
    wrapped = WRAPPERS[name](flat)
    keys = (jax.random.split(KEY, 2),) if name == "resize_and_pad" else ()
    with pytest.raises(TypeError, match=r"`x` must be floating images.*got uint8"):
        wrapped((255 * X).astype(jnp.uint8), *keys)
    with pytest.raises(ValueError, match=r"`x` must have shape \[B, H, W, C\]"):
        wrapped(X[0], *keys)
    for wrong in (255 * X, 2 * X - 1):
        with pytest.raises(ValueError, match=r"`x` leaves \[0, 1\]"):
            wrapped(wrong, *keys)
    traced = jax.eval_shape(wrapped, X, *keys)  # under jit values are not looked at
    assert len(traced.shape) == 2
    with pytest.raises(TypeError, match="floating images"):
        jax.eval_shape(wrapped, (255 * X).astype(jnp.uint8), *keys)


def test_what_a_wrapper_gets_besides_is_looked_at():
    with pytest.raises(ValueError, match="JPEG needs images of 1 or 3 channels, got 2"):
        preprocessing.jpeg(flat)(X[..., :2])
    halved = preprocessing.denoise(flat, lambda x: x[:, ::2])
    with pytest.raises(ValueError, match=r"`denoiser` must return .*, got \(2, 6,"):
        halved(X)
    resized = preprocessing.resize_and_pad(flat)
    with pytest.raises(TypeError, match="`key` must be a new-style key"):
        resized(X, jax.random.PRNGKey(0))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(2))
    chex.assert_trees_all_equal(resized(X, KEY), resized(X, keys))
