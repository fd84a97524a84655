"""The order of training examples: a function of seed and step alone."""

import numpy as np

from jaxrobust.training.source import batch_indices


def collect(start, stop, size=23, batch=5, seed=3):
    return list(batch_indices(size, batch, seed, start=start, stop=stop))


def test_an_epoch_shows_every_example_at_most_once():
    shown = np.concatenate(collect(0, 4))
    assert len(set(shown.tolist())) == 20


def test_starting_in_the_middle_gives_the_same_batches():
    whole = collect(0, 12)
    for start in (1, 4, 7):
        np.testing.assert_array_equal(collect(start, 12), whole[start:])


def test_epochs_and_seeds_differ():
    first, second = np.concatenate(collect(0, 4)), np.concatenate(collect(4, 8))
    assert (first != second).any()
    assert (np.concatenate(collect(0, 4, seed=4)) != first).any()
