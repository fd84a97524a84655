"""A set is named by its content, wherever it lies; its images are known again."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from jaxrobust import data
from jaxrobust.data import _source

RNG = np.random.default_rng(0)


@pytest.fixture
def sources(tmp_path):
    """The same set on disk and in memory."""
    for index in range(20):
        path = tmp_path / f"train/{'ab'[index % 2]}/{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (6, 5, 3), np.uint8)).save(path)
    source = data.open_source(f"folder:{tmp_path}")
    return source, source.load()


def changed(dataset, what):
    images, labels = dataset.images.copy(), dataset.labels.copy()
    names = dataset.class_names
    if what == "one pixel":
        images[7, 0, 0, 0] ^= 1
    elif what == "one label":
        labels[3] ^= 1
    elif what == "a class name":
        names = ("a", "c")
    elif what == "two images change places":
        images[[0, 1]] = images[[1, 0]]
    elif what == "height and width":
        images = images.reshape(len(images), 5, 6, 3)
    elif what == "one image fewer":
        images, labels = images[:-1], labels[:-1]
    return dataclasses.replace(dataset, images=images, labels=labels, class_names=names)


def test_digest_is_that_of_the_content_on_disk_and_in_memory(sources):
    on_disk, in_memory = sources
    assert data.digest(on_disk) == data.digest(in_memory)
    rows = [4, 2, 9]
    assert data.digest(on_disk.take(rows)) == data.digest(in_memory.take(rows))


@pytest.mark.parametrize(
    "what",
    [
        "one pixel",
        "one label",
        "a class name",
        "two images change places",
        "height and width",
        "one image fewer",
    ],
)
def test_digest_tells_changes(sources, what):
    _, dataset = sources
    assert data.digest(changed(dataset, "nothing")) == data.digest(dataset)
    assert data.digest(changed(dataset, what)) != data.digest(dataset)


def test_large_sets_are_read_in_part(sources, monkeypatch):
    on_disk, in_memory = sources
    monkeypatch.setattr(_source, "_WHOLE_BYTES", on_disk.nbytes - 1)
    monkeypatch.setattr(_source, "_SAMPLE", 4)
    assert data.digest(on_disk) == data.digest(in_memory)
    unseen = in_memory.images.copy()
    unseen[7] ^= 1  # rows 0, 5, 10 and 15 are read
    assert data.digest(dataclasses.replace(in_memory, images=unseen)) == data.digest(
        in_memory
    )
    assert data.digest(in_memory.take(range(19))) != data.digest(in_memory)


def test_images_are_known_again(sources):
    on_disk, in_memory = sources
    order = RNG.permutation(20)
    moved = in_memory.take(order[:8])
    found = np.isin(data.image_digests(on_disk), data.image_digests(moved))
    assert sorted(np.flatnonzero(found)) == sorted(order[:8])
    np.testing.assert_array_equal(
        data.image_digests(on_disk, [3, 1]), data.image_digests(in_memory)[[3, 1]]
    )
    assert data.image_digests(in_memory, []).shape == (0,)
