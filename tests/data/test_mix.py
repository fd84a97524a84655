"""MixUp and CutMix: images and labels in one proportion."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.data import augment, mix
from jaxrobust.training import check, config

COUNT, CLASSES = 63, 3  # no image has its neighbour's label
KEYS = jax.random.split(jax.random.key(1), COUNT)
LABELS = jnp.arange(COUNT) % CLASSES
# Every image has one value of its own, so that shares can be read off it.
IMAGES = jnp.broadcast_to(
    jnp.linspace(0.1, 0.9, COUNT)[:, None, None, None], (COUNT, 9, 7, 2)
)
OTHERS = jnp.roll(IMAGES, 1, axis=0)


def mixed(images=IMAGES, labels=LABELS, keys=KEYS, **spec):
    made = mix.make(spec, CLASSES)
    assert made is not None
    return jax.jit(made)(images, labels, keys)


def shares_of(found):
    """The share of its own label that each image has."""
    target = np.asarray(found["target"], np.float64)
    chex.assert_trees_all_close(target.sum(1), np.ones(COUNT), rtol=1e-5)
    return target[np.arange(COUNT), LABELS]


def test_nothing_to_mix():
    assert mix.make({}, 3) is None
    assert mix.make({"mixup": 0.0, "cutmix": None}, 3) is None


@pytest.mark.parametrize("spec", [{"mixup": 1.0}, {"cutmix": 1.0}])
def test_labels_have_the_shares_of_the_images(spec):
    found = mixed(**spec)
    chex.assert_equal_shape([found["image"], IMAGES])
    shares = shares_of(found)
    assert shares.min() < 0.5
    assert shares.max() > 0.7
    # The mean of an image tells how much of it is the other one.
    own, other, mean = (v.mean((1, 2, 3)) for v in (IMAGES, OTHERS, found["image"]))
    seen = np.asarray((mean - other) / (own - other))
    chex.assert_trees_all_close(seen, shares, atol=2e-3)
    larger = np.where(shares >= 0.5, LABELS, np.roll(LABELS, 1))
    chex.assert_trees_all_equal(np.asarray(found["label"]), larger)


def test_cutmix_pastes_one_box():
    pasted = np.asarray((mixed(cutmix=1.0)["image"] == OTHERS).all(-1))
    for one in pasted:
        rows, columns = one.any(1), one.any(0)
        assert (one == rows[:, None] & columns).all()
        for line in (rows, columns):
            assert np.abs(np.diff(line.astype(int))).sum() <= 2


def test_both_take_turns():
    image = np.asarray(mixed(mixup=1.0, cutmix=1.0)["image"])
    flat = image.std((1, 2, 3)) < 1e-6  # blended, or a box of nothing, or of all
    assert 0.25 < flat.mean() < 0.75


def test_a_small_alpha_leaves_most_as_they_are():
    shares = shares_of(mixed(mixup=0.01))
    assert ((shares < 0.01) | (shares > 0.99)).mean() > 0.8


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"mixup": -1.0}, "`mix.mixup` must be at least 0 and finite, got -1"),
        ({"mixup": "a"}, "`mix.mixup` must be a number, got 'a'"),
        ({"cutmix": float("inf")}, "`mix.cutmix`.*got inf"),
        ({"cutmixx": 1.0}, "unknown mix field 'cutmixx'.*cutmix"),
    ],
)
def test_bad_fields_are_refused(spec, message):
    with pytest.raises((ValueError, TypeError), match=message):
        mix.make(spec, 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"labels": LABELS + 1}, "`labels` holds labels from 1 to 3"),
        ({"labels": LABELS * 1.0}, "`labels` must hold integer labels"),
        ({"labels": LABELS[:1]}, "`labels` must hold one label per image"),
        (
            {"images": jnp.ones((COUNT, 9, 7, 2), jnp.uint8)},
            "`images` must be floating",
        ),
        ({"keys": KEYS[:2]}, "`key` must be one key or one per example"),
    ],
)
def test_what_cannot_be_mixed_is_refused(given, message):
    made = mix.make({"mixup": 1.0}, CLASSES)
    with pytest.raises((ValueError, TypeError), match=message):
        made(**{"images": IMAGES, "labels": LABELS, "keys": KEYS, **given})


def test_a_label_that_is_no_class_is_seen_under_jit():
    target = np.asarray(mixed(labels=LABELS.at[5].set(CLASSES), mixup=1.0)["target"])
    assert np.flatnonzero(np.isnan(target).all(1)).tolist() == [5, 6]


def test_an_objective_of_labels_alone_is_refused():
    fields = config.base().to_dict()
    fields["data"]["mix"]["cutmix"] = 1.0
    check.check(fields)
    fields["objective"]["name"] = "mart"
    with pytest.raises(ValueError, match=r"data.mix.cutmix mixes labels.*standard"):
        check.check(fields)


def test_cutout_hides_one_square():
    x = jnp.ones((200, 9, 7, 1))
    keys = jax.random.split(jax.random.key(0), 200)
    out = jax.jit(augment.make({"cutout": 4}))(x, keys)
    hidden = np.asarray(out[..., 0] == 0)
    areas = hidden.sum((1, 2))
    assert areas.max() == 16
    assert areas.min() < 8  # at a corner
    assert hidden.any(0).all()
    for one in hidden[:20]:
        assert (one == one.any(1)[:, None] & one.any(0)).all()
