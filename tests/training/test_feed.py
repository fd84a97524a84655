"""The order of training examples: a function of seed and step alone."""

import chex
import numpy as np
import pytest

from jaxrobust import data, parallel
from jaxrobust.training import feed


def collect(start, stop, size=23, batch=5, seed=3):
    return [feed.step_indices(size, batch, seed, step) for step in range(start, stop)]


def test_an_epoch_shows_every_example_at_most_once():
    shown = np.concatenate(collect(0, 4))
    assert len(set(shown.tolist())) == 20


def test_epochs_and_seeds_differ():
    first, second = np.concatenate(collect(0, 4)), np.concatenate(collect(4, 8))
    assert (first != second).any()
    assert (np.concatenate(collect(0, 4, seed=4)) != first).any()


def test_extra_images_lie_anywhere_in_a_batch():
    """Neighbours are of two kinds as often as in a shuffled batch; so are parts."""
    blend, crossed, of_parts = feed.Blend(300, 24), [], []
    for step in range(200):
        index = feed.step_indices(1300, 64, 0, step, blend)
        chex.assert_trees_all_equal(index, feed.step_indices(1300, 64, 0, step, blend))
        extra = index >= 1000
        assert extra.sum() == 24
        crossed.append((extra != np.roll(extra, 1)).mean())
        of_parts.append([extra[part::4].mean() for part in range(4)])
    assert np.mean(crossed) == pytest.approx(2 * 24 / 64 * 40 / 63, abs=0.02)
    np.testing.assert_allclose(np.mean(of_parts, 0), 24 / 64, atol=0.03)


def test_the_order_cannot_be_changed_by_a_caller():
    [index] = collect(0, 1)
    with pytest.raises(ValueError, match="read-only"):
        index[0] = 0


def test_resident_batches_are_the_rows_of_the_steps():
    dataset = data.load("digits", limit=20)
    resident = feed.ResidentFeed(dataset, parallel.make_mesh(4), batch_size=8, seed=1)
    for step, batch in enumerate(resident.batches(1, 5), 1):
        index = feed.step_indices(20, 8, 1, step)
        chex.assert_trees_all_equal(batch["index"], index)
        chex.assert_trees_all_equal(batch["image"], dataset.images[index])
        chex.assert_trees_all_equal(batch["label"], dataset.labels[index])
        chex.assert_type(batch["image"], np.uint8)
        chex.assert_type([batch["label"], batch["index"]], np.int32)
    assert step == 4


@pytest.mark.parametrize(
    ("chosen", "nbytes", "streamed"),
    [
        ("auto", feed.RESIDENT_BYTES, False),
        ("auto", feed.RESIDENT_BYTES + 1, True),
        ("resident", feed.RESIDENT_BYTES + 1, False),
        ("stream", 1, True),
    ],
)
def test_the_size_chooses_the_feed_unless_told(chosen, nbytes, streamed):
    assert feed.streams(chosen, nbytes) == streamed
