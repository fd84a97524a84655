"""RandAugment: its operations are those of Pillow, and its draws are even."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from jaxrobust.data import rand_augment

RNG = np.random.default_rng(0)
# Smooth, so that levels differ in number.
PIXELS = (RNG.normal(size=(17, 13, 3)).cumsum(0).cumsum(1) * 6 + 90).clip(0, 255)
PIXELS = PIXELS.astype(np.uint8)
IMAGE = jnp.asarray(PIXELS / 255, jnp.float32)
PICTURE = Image.fromarray(PIXELS)
AMOUNT = 0.41  # no level of the threshold


def of_pillow(name):
    match name:
        case "posterize":
            return ImageOps.posterize(PICTURE, 8 - round(4 * AMOUNT))
        case "solarize":
            return ImageOps.solarize(PICTURE, int(255 * (1 - AMOUNT)) + 1)
        case "autocontrast":
            return ImageOps.autocontrast(PICTURE)
        case "equalize":
            return ImageOps.equalize(PICTURE)
    enhance = getattr(ImageEnhance, name.capitalize())
    return enhance(PICTURE).enhance(1 + 0.9 * AMOUNT)


@pytest.mark.parametrize("name", sorted(set(rand_augment.COLOURS) - {"identity"}))
def test_colours_are_those_of_pillow(name):
    found = rand_augment.COLOURS[name](jnp.float32(AMOUNT), IMAGE)
    found = np.asarray(jnp.clip(found, 0, 1) * 255)
    # Pillow rounds means of grey levels and cuts sharpened pixels to whole levels.
    np.testing.assert_allclose(found, np.asarray(of_pillow(name)), atol=1.51)


def test_moves_are_where_they_should_be():
    dot = jnp.zeros((9, 9, 1)).at[2, 6].set(1)

    def moved(name, amount):
        matrix = rand_augment.MOVES[name](jnp.float32(amount), dot)
        return np.asarray(rand_augment._warped(dot, matrix))[..., 0]

    for name in rand_augment.MOVES:
        np.testing.assert_allclose(moved(name, 0.0), dot[..., 0], atol=1e-6)
    far = 331 / 150 / 9
    assert moved("shift rows", far)[1, 6] == pytest.approx(1, abs=1e-5)
    assert moved("shift columns", -far)[2, 7] == pytest.approx(1, abs=1e-5)
    # 30 degrees about the centre (4, 4): from (-2, 2) to (-2.73, .73) or (-.73, 2.73).
    assert {moved("rotate", a).argmax() for a in (1.0, -1.0)} == {9 + 5, 27 + 7}
    # Columns 6.5 from the corner lean by 1.95 rows, rows 2.5 from it by .75 columns.
    column = moved("shear rows", 1.0)[:, 6]
    np.testing.assert_allclose(column[[0, 1]], [0.95, 0.05], atol=1e-5)
    row = moved("shear columns", 1.0)[2]
    np.testing.assert_allclose(row[[5, 6]], [0.75, 0.25], atol=1e-5)


def test_each_operation_is_drawn_as_often():
    image = jax.random.uniform(jax.random.key(0), (8, 8, 3)) * 0.5 + 0.2
    count = len(rand_augment.MOVES) + len(rand_augment.COLOURS)
    assert count == 14
    keys = jax.random.split(jax.random.key(1), 1400)
    made = jax.jit(jax.vmap(lambda key: rand_augment.layers(1, 10.0, image, key)))(keys)
    assert made.min() >= 0
    assert made.max() <= 1
    # Two directions of most; what does nothing to this image is one.
    seen = collections.Counter(np.asarray(made).round(5).tobytes() for made in made)
    often = sorted(seen.values())
    assert len(often) in range(18, 28)
    assert often[0] >= 25
    none = np.asarray(image).round(5).tobytes()
    assert 60 <= seen[none] <= 240
