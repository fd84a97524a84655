import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust.data import augment
from jaxrobust.threat.colour import turn_hue

SPECS = {
    "crop and flip": {"crop_padding": 2, "flip": True},
    "rotation": {"rotation": 30.0},
    "jitter": {"color_jitter": 0.4},
    "hue": {"hue": 0.3},
    "cutout": {"cutout": 3},
    "rand augment": {"rand_augment": 2, "rand_magnitude": 15.0},
    "resized crop": {"random_resized_crop": 0.5},
    "all": {
        "crop_padding": 1,
        "flip": True,
        "rotation": 10.0,
        "color_jitter": 0.1,
        "hue": 0.1,
        "random_resized_crop": 0.8,
        "probability": 0.8,
    },
}
KEYS = jax.random.split(jax.random.key(7), 6)


def _images(count=6, height=9, width=7, channels=3):
    return jax.random.uniform(jax.random.key(0), (count, height, width, channels))


@functools.cache
def _jitted(name):
    return jax.jit(augment.make(SPECS[name]))


@pytest.mark.parametrize("name", SPECS)
def test_stays_images_and_depends_on_the_own_key_only(name):
    x = _images()
    apply = _jitted(name)
    out = apply(x, KEYS)
    chex.assert_trees_all_equal_shapes_and_dtypes(out, x)
    assert float(out.min()) >= 0
    assert float(out.max()) <= 1
    assert not np.array_equal(out, x)
    chex.assert_trees_all_equal(out, apply(x, KEYS))
    # Another order and other neighbours change nothing for an example.
    order = jnp.array([3, 0, 5, 1, 4, 2])
    chex.assert_trees_all_close(
        apply(x[order], KEYS[order]), out[order], rtol=0, atol=1e-6
    )
    assert not np.array_equal(apply(x, KEYS[order]), out)


def test_eager_is_the_same():
    x = _images()
    eager = augment.make(SPECS["crop and flip"])(x, KEYS)
    chex.assert_trees_all_equal(eager, _jitted("crop and flip")(x, KEYS))


@pytest.mark.parametrize(
    "spec",
    [{}, {"flip": False, "crop_padding": 0}, {"rotation": None}, {"probability": 0.5}],
)
def test_nothing_to_do_is_the_identity(spec):
    x = _images()
    assert augment.make(spec)(x, KEYS) is x
    assert not jax.make_jaxpr(augment.make(spec))(x, KEYS).eqns


def test_crop_shifts_by_at_most_the_padding_over_black():
    x, padding = _images(channels=1) + 0.01, 2
    x = jnp.clip(x, 0, 1)
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    keys = jax.random.split(jax.random.key(1), 200)
    apply = jax.jit(augment.make({"crop_padding": padding}))
    shifts = set()
    for out in apply(jnp.broadcast_to(x[:1], (200, *x.shape[1:])), keys):
        matches = [
            (top, left)
            for top in range(5)
            for left in range(5)
            if np.array_equal(out, padded[0, top : top + 9, left : left + 7])
        ]
        assert len(matches) == 1
        shifts.update(matches)
    assert len(shifts) == 25


def test_flip_mirrors_half_of_the_images():
    x = jnp.broadcast_to(_images(1), (400, 9, 7, 3))
    keys = jax.random.split(jax.random.key(2), 400)
    out = jax.jit(augment.make({"flip": True}))(x, keys)
    flipped = np.asarray((out == x[:, :, ::-1]).all((1, 2, 3)))
    kept = np.asarray((out == x).all((1, 2, 3)))
    assert (flipped ^ kept).all()
    assert 150 < flipped.sum() < 250


def test_probability_is_the_share_of_images_touched():
    x = jnp.broadcast_to(_images(1), (400, 9, 7, 3))
    keys = jax.random.split(jax.random.key(3), 400)
    spec = {"color_jitter": 0.5, "probability": 0.25}
    out = jax.jit(augment.make(spec))(x, keys)
    touched = np.asarray((out != x).any((1, 2, 3)))
    assert 70 < touched.sum() < 130


def test_rotation_agrees_with_scipy():
    from scipy import ndimage

    x = _images(1, 15, 15, 1)[0]
    for degrees in (-20.0, 0.0, 33.0, 90.0):
        out = augment._rotate_by(x, jnp.float32(degrees))
        expected = ndimage.rotate(
            np.asarray(x[..., 0]), degrees, reshape=False, order=1, mode="constant"
        )
        chex.assert_trees_all_close(
            out[2:-2, 2:-2, 0], expected[2:-2, 2:-2], rtol=0, atol=1e-4
        )


def test_resized_crop_of_a_linear_image_is_a_linear_window():
    rows, columns = np.mgrid[:16, :16].astype(np.float32)
    x = jnp.asarray((rows + 2 * columns)[..., None] / 45)
    keys = jax.random.split(jax.random.key(4), 50)
    images = jnp.broadcast_to(x, (50, 16, 16, 1))
    out = jax.jit(augment.make({"random_resized_crop": 0.3}))(images, keys)
    inner = np.asarray(out)[:, 3:-3, 3:-3, 0]
    # Zooming in divides the slopes by one over the window's sides.
    down, right = np.diff(inner, axis=1) * 45, np.diff(inner, axis=2) * 45 / 2
    heights, widths = down.mean((1, 2)), right.mean((1, 2))
    chex.assert_trees_all_close(
        down, heights[:, None, None] + 0 * down, rtol=0, atol=1e-3
    )
    areas = heights * widths
    assert (areas > 0.3 - 1e-3).all()
    assert (areas <= 1 + 1e-3).all()
    assert areas.min() < 0.45
    assert areas.max() > 0.8
    ratios = widths / heights
    assert (ratios < 4 / 3 + 1e-2).all()
    assert (ratios > 3 / 4 - 1e-2).all()


def test_jitter_keeps_grey_grey_and_hue_keeps_value():
    grey = jnp.broadcast_to(_images(channels=1), (6, 9, 7, 3))
    out = jax.jit(augment.make({"color_jitter": 0.3, "hue": 0.4}))(grey, KEYS)
    chex.assert_trees_all_close(out[..., 0], out[..., 1], rtol=0, atol=1e-5)
    chex.assert_trees_all_close(out[..., 0], out[..., 2], rtol=0, atol=1e-5)
    x = _images()
    turned = _jitted("hue")(x, KEYS)
    chex.assert_trees_all_close(turned.max(-1), x.max(-1), rtol=0, atol=1e-5)
    chex.assert_trees_all_close(turned.min(-1), x.min(-1), rtol=0, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(st.tuples(*[st.integers(0, 255)] * 3), st.floats(-0.5, 0.5))
def test_hue_agrees_with_colorsys(color, shift):
    import colorsys

    red, green, blue = (level / 255 for level in color)
    hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
    expected = colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value)
    image = jnp.asarray([[[red, green, blue]]], jnp.float32)
    out = turn_hue(image, jnp.float32(shift))
    chex.assert_trees_all_close(out[0, 0], np.asarray(expected), rtol=0, atol=2e-5)


def test_colour_factors_of_grey_images():
    x = _images(channels=1)
    out = jax.jit(augment.make({"color_jitter": 0.2}))(x, KEYS)
    chex.assert_equal_shape([out, x])
    with pytest.raises(ValueError, match="needs 3-channel images, got 1"):
        augment.make({"hue": 0.1})(x, KEYS)


def test_float64_makes_the_same_choices():
    single = np.asarray(_images())
    with jax.enable_x64(True):
        x = jnp.asarray(single, jnp.float64)
        out = jax.jit(augment.make(SPECS["all"]))(x, KEYS)
        chex.assert_type(out, jnp.float64)
    chex.assert_trees_all_close(out, _jitted("all")(single, KEYS), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"flips": True}, "unknown augment field 'flips'. Did you mean 'flip'?"),
        ({"crop_padding": -1}, "augment.crop_padding must be at least 0, got -1"),
        ({"crop_padding": 1.5}, "augment.crop_padding must be a whole number, got 1.5"),
        ({"rotation": float("nan")}, "augment.rotation must be between 0 and 180"),
        ({"random_resized_crop": 1.2}, "random_resized_crop must be between 0 and 1"),
        ({"probability": 2}, "augment.probability must be between 0 and 1, got 2"),
        ({"hue": 0.7}, "augment.hue must be between 0 and 0.5, got 0.7"),
    ],
)
def test_make_refuses(spec, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        augment.make(spec)
    assert message in str(error.value)
