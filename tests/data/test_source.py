"""Sources that are read when asked: the rows of `load`, labels from a cache."""

import os
import pickle

import numpy as np
import pytest
from PIL import Image

from jaxrobust import data
from jaxrobust.data import _tfds, prepare

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/jaxrobust/labels"


@pytest.fixture
def folder(tmp_path):
    """Grey images of different sizes."""
    for index in range(24):
        path = tmp_path / f"images/class {index % 3}/{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = RNG.integers(0, 256, (5 + index % 2, 7), np.uint8)
        Image.fromarray(pixels).save(path)
    return tmp_path / "images"


@pytest.fixture
def prepared(tmp_path):
    """Colour images as TFDS prepares them."""
    for index in range(20):
        path = tmp_path / f"files/train/{'ab'[index % 2]}/{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (6, 6, 3), np.uint8)).save(path)
    root = tmp_path / "tfds"
    return root, prepare.prepare("mine", data_dir=root, source=tmp_path / "files")


def open_cifar(**fields):
    try:
        return data.open_source("cifar10", **fields)
    except FileNotFoundError as error:
        pytest.skip(str(error).splitlines()[0])


def assert_same(source, dataset):
    """Everything that a source tells is as in the data set in memory."""
    assert len(source) == len(dataset)
    assert source.shape == dataset.shape
    assert source.class_names == dataset.class_names
    assert source.num_classes == dataset.num_classes
    assert source.nbytes == dataset.images.nbytes
    assert source.labels.dtype == np.int32
    np.testing.assert_array_equal(source.labels, dataset.labels)
    order = RNG.permutation(len(dataset))
    images = source.read(order)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, dataset.images[order])


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "digits", "image_size": 6, "channels": 3, "limit": 50},
        {"name": "folder", "image_size": 4, "split": "test"},
        {"name": "folder", "image_size": 5, "channels": 3, "limit": 7},
        {"name": "mine"},
        {"name": "mine", "image_size": 3, "limit": 9},
    ],
)
def test_a_source_reads_the_rows_of_load(fields, folder, prepared):
    names = {"folder": f"folder:{folder}", "mine": "tfds:mine"}
    fields = {**fields, "name": names.get(fields["name"], fields["name"])}
    fields["data_dir"] = prepared[0]
    dataset = data.load(**fields)
    assert_same(data.open_source(**fields), dataset)
    rows = RNG.permutation(len(dataset))[:6]
    # A part, and what another process gets of it, before and after labels are known.
    for touched in (False, True):
        source = data.open_source(**fields)
        if touched:
            assert len(source.labels) == len(dataset)
        part = pickle.loads(pickle.dumps(source.take(rows)))
        assert_same(part, dataset.take(rows))
        assert_same(part.load(), dataset.take(rows))


def test_a_source_of_cifar_reads_the_rows_of_load():
    assert_same(open_cifar(limit=300), data.load("cifar10", limit=300))


def test_division_is_that_of_the_set_in_memory(prepared):
    source = data.open_source("tfds:mine", data_dir=prepared[0])
    divided = data.split_validation(source, 6, seed=3)
    expected = data.split_validation(source.load(), 6, seed=3)
    for part, whole in zip(divided, expected, strict=True):
        assert_same(part, whole)


def test_rows_outside_the_set_are_refused(folder):
    source = data.open_source(f"folder:{folder}", image_size=4)
    for call in (source.read, source.take):
        with pytest.raises(ValueError, match=r"between 0 and 19, got -1 to 3"):
            call([3, -1])


def test_labels_are_read_once(prepared, cache, monkeypatch):
    root, path = prepared
    labels = data.open_source("tfds:mine", data_dir=root).labels
    [file] = cache.iterdir()

    def opened(limit=None):
        return data.open_source("tfds:mine", data_dir=root, limit=limit)

    with monkeypatch.context() as patched:
        patched.setattr(_tfds.Records, "fetch", None)  # no record is read again
        np.testing.assert_array_equal(opened().labels, labels)
        np.testing.assert_array_equal(opened(limit=10).labels, labels[::2])
    file.write_bytes(b"cut")
    np.testing.assert_array_equal(opened().labels, labels)
    np.testing.assert_array_equal(np.load(file), labels)
    np.save(file, labels[:-1])  # of another set, were it a collision
    np.testing.assert_array_equal(opened().labels, labels)
    [shard] = path.glob("mine-train*")
    os.utime(shard, (1, 1))
    np.testing.assert_array_equal(opened().labels, labels)
    assert len(list(cache.iterdir())) == 2  # changed files are another set


def test_a_part_of_the_labels_is_not_kept(prepared, cache):
    source = data.open_source("tfds:mine", data_dir=prepared[0], limit=5)
    assert len(source.labels) == 5
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_is_no_error(prepared, cache):
    cache.parent.parent.mkdir()
    cache.parent.write_text("a file where the folder would be")
    source = data.open_source("tfds:mine", data_dir=prepared[0])
    assert np.bincount(source.labels).tolist() == [10, 10]


def test_damage_is_named_as_load_names_it(prepared, folder):
    root, path = prepared
    source = data.open_source("tfds:mine", data_dir=root)
    [shard] = path.glob("mine-train*")
    shard.write_bytes(shard.read_bytes()[:1500])
    for call in (lambda: source.labels, lambda: source.read([0]), source.load):
        with pytest.raises(ValueError, match="data set 'mine' is damaged in"):
            call()
    source = data.open_source(f"folder:{folder}", image_size=4)
    (folder / "class 0/03.png").write_bytes(b"not a picture")
    for call in (lambda: source.read(np.arange(len(source))), source.load):
        with pytest.raises(ValueError, match=r"03.png: not a readable image"):
            call()
