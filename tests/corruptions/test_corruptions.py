"""The corruptions on crops of photographs: invariants, closed forms, references."""

import colorsys
import functools
import io
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from sklearn.datasets import load_sample_images

from jaxrobust import corruptions
from jaxrobust.corruptions import _linear, digital, jpeg, noise, weather

NAMES = corruptions.names()
UNKEYED = {
    "brightness",
    "contrast",
    "defocus_blur",
    "jpeg_compression",
    "pixelate",
    "zoom_blur",
}
KEY = jax.random.key(3)
SHAPE = (6, 16, 20, 3)
SEVERITIES = (1, 2, 3, 4, 5)


@functools.cache
def photographs():
    """Crops of two photographs that come with scikit-learn, float32 in [0, 1]."""
    small = [
        np.asarray(Image.fromarray(picture).resize((80, 54), Image.Resampling.BOX))
        for picture in load_sample_images().images
    ]
    crops = [one[19:35, at : at + 20] for at in (0, 28, 56) for one in small]
    return np.stack(crops).astype(np.float32) / 255


@functools.cache
def corrupted(name, severity):
    """All results of one corruption come from one compiled program."""
    x = photographs()
    return np.asarray(corruptions.apply(name, x, key=KEY, severity=severity))


def grey_level(value=0.5):
    return jnp.full(SHAPE, value, jnp.float32)


def test_names_are_those_of_the_paper():
    assert len(NAMES) == 15
    assert NAMES[:3] == ("gaussian_noise", "shot_noise", "impulse_noise")


@pytest.mark.parametrize("name", NAMES)
def test_shape_dtype_range(name):
    for severity in SEVERITIES:
        found = corrupted(name, severity)
        chex.assert_shape(found, SHAPE)
        chex.assert_type(found, np.float32)
        chex.assert_tree_all_finite(found)
        assert found.min() >= 0
        assert found.max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_a_row_depends_on_its_image_and_key_alone(name):
    apply = functools.partial(corruptions.apply, name, severity=3)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(SHAPE[0]))
    x = jnp.asarray(photographs())
    want = corrupted(name, 3)
    chex.assert_trees_all_equal(apply(x, key=keys), want)
    turned = apply(x[::-1].at[0].set(0.0), key=keys[::-1])[::-1]
    # A compiler may sum a row in another order where the rows lie otherwise.
    chex.assert_trees_all_close(turned[:-1], want[:-1], rtol=0, atol=1e-6)
    same = np.array_equal(apply(x, key=jax.random.key(4)), want)
    assert same == (name in UNKEYED)


def lost(name, severity):
    """How far the images are from the clean ones: mean distance.

    For frost 1 - correlation: the ice brightens the image and its share darkens it.
    """
    x, y = photographs(), corrupted(name, severity)
    if name == "frost":
        return 1 - np.mean(
            [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(x, y, strict=True)]
        )
    return np.abs(y - x).mean()


# The original's constants: from severity to severity glass blur trades radius against
# rounds, and the elastic transform shifts the whole less and its parts more.
NOT_MONOTONE = {"glass_blur", "elastic_transform"}


@pytest.mark.parametrize("name", [n for n in NAMES if n not in NOT_MONOTONE])
def test_grows_with_severity(name):
    found = [lost(name, severity) for severity in SEVERITIES]
    assert found[0] > 0
    assert found[4] > 1.25 * found[0]
    # Motion blur of severity 4 only lengthens the tail of a Gaussian; draws differ.
    assert all(0.97 * a < b for a, b in itertools.pairwise(found)), found


def test_glass_is_worse_with_two_rounds():
    assert lost("glass_blur", 3) < lost("glass_blur", 4)
    assert lost("glass_blur", 1) < lost("glass_blur", 5)


@pytest.mark.parametrize("name", ["brightness", "impulse_noise"])
def test_under_jit(name):
    """A traced severity gives the same, and one out of range is clipped."""

    @jax.jit
    def run(x, key, severity):
        return corruptions.apply(name, x, key=key, severity=severity)

    x = photographs()
    chex.assert_trees_all_equal(run(x, KEY, 2), corrupted(name, 2))
    chex.assert_trees_all_equal(run(x, KEY, 9), corrupted(name, 5))


@pytest.mark.parametrize("name", NAMES)
def test_one_program_for_all_severities_and_grey_images(name):
    x = jax.ShapeDtypeStruct((2, 8, 11, 1), jnp.float16)
    severity = jax.ShapeDtypeStruct((), jnp.int32)
    out = jax.eval_shape(
        lambda x, s: corruptions.apply(name, x, key=KEY, severity=s), x, severity
    )
    chex.assert_trees_all_equal_shapes_and_dtypes(out, x)


@pytest.mark.parametrize("name", ["snow", "frost", "brightness"])
def test_grey_images(name):
    x = photographs()[:2, ..., 1:2]
    found = corruptions.apply(name, x, key=KEY, severity=4)
    chex.assert_equal_shape([found, x])
    chex.assert_tree_all_finite(found)
    assert np.abs(found - x).mean() > 0.05
    if name == "brightness":
        chex.assert_trees_all_close(found, np.minimum(x + 0.2, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "name",
    [
        *(n for n in NAMES if n.endswith("blur")),
        "elastic_transform",
        "pixelate",
        "contrast",
    ],
)
def test_nothing_to_blur(name):
    found = corruptions.apply(name, grey_level(), key=KEY, severity=5)
    chex.assert_trees_all_close(found, 0.5, rtol=0, atol=1e-6)


@pytest.mark.parametrize("severity", [1, 5])
def test_brightness_raises_the_value_of_hsv(severity):
    found = corrupted("brightness", severity)
    raised = digital.BRIGHTNESS[severity - 1]
    for before, after in zip(
        photographs()[:, ::5, ::5].reshape(-1, 3),
        found[:, ::5, ::5].reshape(-1, 3),
        strict=True,
    ):
        hue, saturation, value = colorsys.rgb_to_hsv(*before.tolist())
        want = colorsys.hsv_to_rgb(hue, saturation, min(value + raised, 1))
        chex.assert_trees_all_close(after, np.asarray(want), rtol=0, atol=1e-6)


def test_brightness_of_black_is_grey():
    found = corruptions.apply("brightness", grey_level(0.0), key=KEY, severity=3)
    chex.assert_trees_all_close(found, 0.15, rtol=0, atol=1e-7)


def test_contrast_keeps_the_mean_of_each_channel():
    x = photographs().astype(np.float64)
    mean = x.mean((1, 2), keepdims=True)
    for severity, factor in zip(SEVERITIES, digital.CONTRAST, strict=True):
        want = np.clip(mean + factor * (x - mean), 0, 1)
        chex.assert_trees_all_close(
            corrupted("contrast", severity), want, rtol=0, atol=3e-6
        )


def test_noise_has_its_size():
    count = np.prod(SHAPE)
    for severity in (1, 5):
        draw = functools.partial(corruptions.apply, key=KEY, severity=severity)
        gaussian = np.asarray(draw("gaussian_noise", grey_level()))
        std = noise.GAUSSIAN_STD[severity - 1]
        assert gaussian.std() == pytest.approx(std, rel=5 / np.sqrt(2 * count))
        assert gaussian.mean() == pytest.approx(0.5, abs=5 * std / np.sqrt(count))
        shot = np.asarray(draw("shot_noise", grey_level()))
        photons = noise.PHOTONS[severity - 1]
        assert shot.var() == pytest.approx(0.5 / photons, rel=0.15)
        chex.assert_trees_all_close(
            shot * photons, np.round(shot * photons), rtol=0, atol=1e-3
        )
        impulse = np.asarray(draw("impulse_noise", grey_level()))
        share = noise.IMPULSE_SHARE[severity - 1]
        for value in (0, 1):
            hit = (impulse == value).mean()
            assert hit == pytest.approx(share / 2, abs=5 * np.sqrt(share / 2 / count))
        assert ((impulse == 0.5) | (impulse == 0) | (impulse == 1)).all()


def levels(x):
    return np.round(255 * np.asarray(x)).astype(np.uint8)


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_jpeg_is_pillows(severity):
    quality = jpeg.QUALITY[severity - 1]
    found = 255 * corrupted("jpeg_compression", severity)
    chex.assert_trees_all_close(found, np.round(found), rtol=0, atol=1e-3)
    x = levels(photographs())
    want = np.stack([through_jpeg(image, quality) for image in x])
    # Rounding differs where a coefficient lies between two steps, which is rare.
    assert np.abs(found - want).mean() < 0.4
    assert np.abs(found - want).mean() < 0.1 * np.abs(x - want).mean()


def through_jpeg(x, quality):
    buffer = io.BytesIO()
    Image.fromarray(x).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer)).astype(float)


def test_jpeg_of_grey_images_is_pillows():
    x = photographs()[:, :13, :, 1:2]
    found = 255 * corruptions.apply("jpeg_compression", x, key=KEY, severity=5)
    want = np.stack([through_jpeg(image, 40) for image in levels(x)[..., 0]])
    assert np.abs(found[..., 0] - want).mean() < 0.4


@pytest.mark.parametrize("severity", [2, 5])
def test_pixelate_is_pillows(severity):
    share = digital.PIXELATE[severity - 1]
    box, (height, width) = Image.Resampling.BOX, SHAPE[1:3]
    for x, y in zip(
        levels(photographs()), corrupted("pixelate", severity), strict=True
    ):
        small = Image.fromarray(x).resize(
            (int(width * share), int(height * share)), box
        )
        want = np.asarray(small.resize((width, height), box))
        assert np.abs(255 * y - want).max() < 1.01  # Pillow rounds in between


@pytest.mark.parametrize(
    ("sigma", "truncate", "mode", "name"),
    [(0.4, 4, "edge", "nearest"), (3.2, 3, "symmetric", "reflect"), (0, 3, "edge", "")],
)
def test_gaussian_blur_is_scipys(sigma, truncate, mode, name):
    x = photographs()[0]
    found = _linear.gaussian_blur(
        jnp.asarray(x),
        jnp.asarray(sigma, jnp.float32),
        3.2,
        truncate=truncate,
        mode=mode,
    )
    want = x
    if sigma:
        want = ndimage.gaussian_filter(
            x, (sigma, sigma, 0), truncate=truncate, mode=name
        )
    chex.assert_trees_all_close(found, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("factor", [1.0, 1.02, 1.25, 1.75, 2.25])
def test_zoom_is_scipys(factor):
    """By the steps of the original: crop, enlarge, trim."""
    line = np.random.default_rng(0).uniform(size=32)
    crop = int(np.ceil(32 / factor))
    start = (32 - crop) // 2
    large = ndimage.zoom(line[start : start + crop], factor, order=1)
    trim = (len(large) - 32) // 2
    chex.assert_trees_all_close(
        _linear.zoom_matrix(32, factor) @ line,
        large[trim : trim + 32],
        rtol=0,
        atol=1e-6,
    )


def test_a_dot_leaves_a_streak_to_one_side():
    dot = jnp.zeros((9, 31, 1)).at[4, 20].set(1.0)
    found = _linear.streak(dot, jnp.asarray(0.0), jnp.asarray(3.0), jnp.asarray(2.0), 5)
    taps = np.exp(-0.5 * (np.arange(7) / 2) ** 2)
    want = np.zeros((9, 31))
    want[4, 14:21] = (taps / taps.sum())[::-1]
    chex.assert_trees_all_close(found[..., 0], want, rtol=0, atol=1e-6)


def test_plasma_is_diamond_square():
    """The midpoints one by one, with the same draws."""
    decay, size = 1.5, 8
    draws = 2 * np.asarray(jax.random.uniform(KEY, (size**2 - 1,))) - 1
    grid, number = np.zeros((size, size)), 0
    while (step := size // 2**number) > 1:
        side, half = 2**number, step // 2
        own = draws[side**2 - 1 : 4 * side**2 - 1].reshape(3, side, side)
        own = own * decay ** (-2 * number)

        def mean(i, j, ways, half=half):
            return np.mean(
                [grid[(i + half * a) % size, (j + half * b) % size] for a, b in ways]
            )

        places = list(itertools.product(range(side), repeat=2))
        for i, j in places:
            at = (i * step + half, j * step + half)
            corners = itertools.product((-1, 1), repeat=2)
            grid[at] = mean(*at, corners) + own[0, i, j]
        sides = ((-1, 0), (1, 0), (0, -1), (0, 1))
        middles = [
            ((i * step + down, j * step + half - down), own[1 + bool(down), i, j])
            for i, j in places
            for down in (0, half)
        ]
        for at, extra in middles:
            grid[at] = mean(*at, sides) + extra
        number += 1
    want = (grid - grid.min()) / (grid.max() - grid.min())
    found = weather.plasma(KEY, size, size, jnp.asarray(decay))
    chex.assert_trees_all_close(found[..., 0], want, rtol=0, atol=1e-5)


def test_the_affine_map_moves_three_corners():
    rows, columns = jnp.mgrid[:16, :20].astype(jnp.float32)
    still = digital._affine(KEY, rows, columns, jnp.asarray(0.0))
    chex.assert_trees_all_close(
        jnp.stack(still), jnp.stack([rows, columns]), rtol=0, atol=1e-5
    )
    source = digital._affine(KEY, rows, columns, jnp.asarray(1.5))
    # Fit the map back and see where it comes from at the moved corners.
    places = np.stack([rows.ravel(), columns.ravel(), np.ones(rows.size)], -1)
    fit, *_ = np.linalg.lstsq(places, np.stack([s.ravel() for s in source], -1))
    corners = np.asarray([[13, 15], [13, 5], [3, 5]])
    moved = corners + 1.5 * (2 * np.asarray(jax.random.uniform(KEY, (3, 2))) - 1)
    back = np.concatenate([moved, np.ones((3, 1))], -1) @ fit
    chex.assert_trees_all_close(back, corners, rtol=0, atol=1e-3)


@pytest.mark.parametrize("severity", [0, 6, -1, 2.0, True, "3", None])
def test_bad_severity(severity):
    with pytest.raises(ValueError, match="`severity` must be a whole number from 1"):
        corruptions.apply("contrast", photographs(), key=KEY, severity=severity)


def test_unknown_name_lists_the_nearest():
    with pytest.raises(ValueError, match=r"'motionblur'. Did you mean 'motion_blur'"):
        corruptions.apply("motionblur", photographs(), key=KEY, severity=1)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.zeros(SHAPE, np.uint8), TypeError, r"uint8; .*\(x, jnp.float32\) / 255"),
        (np.zeros((2, 7, 16, 3), np.float32), ValueError, r"at least 8x8 .*got 7x16"),
        (np.zeros((2, 16, 16, 4), np.float32), ValueError, "1 or 3 channels, got 4"),
        (np.zeros((16, 16, 3), np.float32), ValueError, r"\[B, H, W, C\]"),
        (np.zeros((0, 16, 16, 3), np.float32), ValueError, "holds no image"),
        (np.full(SHAPE, 1.5, np.float32), ValueError, r"\[0, 1\]: .*1.5 to 1.5"),
        (np.full(SHAPE, np.nan, np.float32), ValueError, "not finite: .* NaN"),
    ],
)
def test_bad_images(x, error, message):
    with pytest.raises(error, match=message):
        corruptions.apply("contrast", x, key=KEY, severity=1)


def test_bad_keys():
    x = photographs()
    with pytest.raises(TypeError, match=r"`key` .*jax.random.key\(seed\)"):
        corruptions.apply("contrast", x, key=jnp.zeros(2, jnp.uint32), severity=1)
    keys = jax.random.split(KEY, 2)
    with pytest.raises(ValueError, match=r"`key` .*shape \(6,\), got shape \(2,\)"):
        corruptions.apply("contrast", x, key=keys, severity=1)
