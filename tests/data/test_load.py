import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jaxrobust import data

RNG = np.random.default_rng(0)


def _save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def test_digits_are_the_scans_of_scikit_learn():
    from sklearn import datasets

    train, test = data.load("digits"), data.load("digits", "test")
    assert (len(train), len(test)) == (1437, 360)
    assert train.shape == (8, 8, 1)
    assert train.class_names == tuple("0123456789")
    assert (train.images.min(), train.images.max()) == (0, 255)
    # Together they are the whole set, every scan with its label.
    original = datasets.load_digits()
    ours = np.concatenate([train.images, test.images]).reshape(-1, 64)
    labels = np.concatenate([train.labels, test.labels])
    expected = np.rint(original.data * 255 / 16).astype(np.uint8)
    pairs = sorted((row.tobytes(), c) for row, c in zip(ours, labels, strict=True))
    assert pairs == sorted(
        (row.tobytes(), c) for row, c in zip(expected, original.target, strict=True)
    )
    shares = np.bincount(test.labels) / np.bincount(original.target)
    np.testing.assert_allclose(shares, 360 / 1797, atol=0.01)


def test_digits_resized_and_limited():
    dataset = data.load("digits", image_size=12, limit=7)
    assert dataset.images.shape == (7, 12, 12, 1)
    whole = data.load("digits")
    np.testing.assert_array_equal(
        dataset.labels, whole.labels[1437 * np.arange(7) // 7]
    )


def test_names_lists_what_load_knows():
    assert {"digits", "mnist", "cifar10", "tiny_imagenet"} <= set(data.names())


def test_import_brings_neither_tfds_nor_tensorflow():
    code = (
        "import sys, jaxrobust.data, jaxrobust.data.augment\n"
        "jaxrobust.data.load('digits')\n"
        "print([m for m in ('tensorflow', 'tensorflow_datasets') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"name": "cifar-10"}, "unknown data set 'cifar-10'. Did you mean 'cifar10'?"),
        ({"name": "zzz"}, "Known: digits, mnist"),
        ({"name": "digits", "split": "val"}, "split must be 'train' or 'test', got"),
        ({"name": "digits", "image_size": 0}, "image_size must be at least 1"),
        ({"name": "digits", "limit": -3}, "limit must be at least 1 or None, got -3"),
    ],
)
def test_load_refuses(kwargs, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        data.load(**kwargs)
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["npz:nowhere.npz", "folder:nowhere", "cifar10"])
def test_missing_data_are_said_in_three_lines(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        data.load(name)
    message = str(error.value)
    assert len(message.splitlines()) == 3
    assert name in message
    assert str(tmp_path) in message
    if name == "cifar10":
        assert "python -m jaxrobust.data.prepare cifar10 [--from" in message
        assert "TFDS_DATA_DIR" in message
        assert error.value.__cause__ is None


def test_npz_in_the_keras_form(tmp_path):
    x_train = RNG.integers(0, 256, (6, 5, 5, 3), dtype=np.uint8)
    x_test = RNG.random((4, 5, 5, 3))
    np.savez(
        tmp_path / "a.npz",
        x_train=x_train,
        y_train=np.array([[0], [1], [2], [0], [1], [2]]),  # keras's shape
        x_test=x_test,
        y_test=np.array([0, 1, 3, 0], np.uint8),
    )
    train = data.load(f"npz:{tmp_path / 'a.npz'}")
    test = data.load(f"npz:{tmp_path / 'a.npz'}", "test")
    np.testing.assert_array_equal(train.images, x_train)
    assert train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert train.class_names == test.class_names == ("0", "1", "2", "3")
    np.testing.assert_allclose(test.images / 255, x_test, atol=0.5 / 255 + 1e-9)


def test_npz_without_division_gets_a_fixed_stratified_one(tmp_path):
    images = RNG.integers(0, 256, (50, 4, 4), dtype=np.uint8)
    labels = np.arange(50) // 10
    names = np.array(["a", "b", "c", "d", "e"])
    np.savez(tmp_path / "b.npz", images=images, labels=labels, class_names=names)
    train, test = (data.load(f"npz:{tmp_path / 'b.npz'}", s) for s in ("train", "test"))
    assert np.bincount(train.labels).tolist() == [8] * 5
    assert np.bincount(test.labels).tolist() == [2] * 5
    both = np.concatenate([train.images, test.images]).reshape(50, -1)
    assert {row.tobytes() for row in both} == {image.tobytes() for image in images}
    assert train.class_names == ("a", "b", "c", "d", "e")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros(3)}, "no array 'x_train'; it has x"),
        ({"images": np.full((1, 2, 2, 1), 1.5)}, r"in \[0, 1\], got 1.5 to 1.5"),
        ({"images": np.full((1, 2, 2, 1), np.nan)}, "must be finite"),
        ({"images": np.zeros((1, 2, 2, 1), int)}, "images must be uint8, or floating"),
        ({"images": np.zeros((1, 4), np.uint8)}, r"\[N, H, W, C\] or"),
        ({"images": np.zeros((1, 3, 8, 8), np.uint8)}, r"transpose it with \(0, 2"),
        ({"labels": np.zeros(1)}, "labels must be integers"),
        ({"labels": np.zeros(2, int)}, "labels must have shape"),
        ({"labels": np.array([-1])}, "must be class indices from 0, got -1"),
    ],
)
def test_npz_refuses(arrays, message, tmp_path):
    good = {"images": np.zeros((1, 2, 2, 1), np.uint8), "labels": np.zeros(1, int)}
    np.savez(tmp_path / "c.npz", **(arrays if "x" in arrays else good | arrays))
    with pytest.raises(ValueError, match=message):
        data.load(f"npz:{tmp_path / 'c.npz'}")


def test_folder_divided_into_train_and_test(tmp_path):
    images = RNG.integers(0, 256, (4, 6, 6, 3), dtype=np.uint8)
    for path, image in zip(
        ("train/cat/1.png", "train/dog/2.PNG", "train/cat/3.png", "test/dog/4.png"),
        images,
        strict=True,
    ):
        _save(tmp_path / path, image)
    (tmp_path / "train/cat/notes.txt").write_text("no image")
    train = data.load(f"folder:{tmp_path}")
    test = data.load(f"folder:{tmp_path}", "test")
    assert train.class_names == test.class_names == ("cat", "dog")
    assert train.labels.tolist() == [0, 0, 1]
    np.testing.assert_array_equal(train.images, images[[0, 2, 1]])
    assert test.labels.tolist() == [1]
    np.testing.assert_array_equal(test.images, images[3:])


def test_folder_without_division_of_grey_images(tmp_path):
    for index in range(20):
        image = np.full((5, 5), index, np.uint8)
        _save(tmp_path / f"class {index % 2}" / f"{index:02d}.png", image)
    train, test = (data.load(f"folder:{tmp_path}", s) for s in ("train", "test"))
    assert train.shape == (5, 5, 1)
    assert np.bincount(test.labels).tolist() == [2, 2]
    levels = np.concatenate([train.images, test.images])[:, 0, 0, 0]
    assert sorted(levels) == list(range(20))
    for part in (train, test):
        np.testing.assert_array_equal(part.images[:, 0, 0, 0] % 2, part.labels)


def test_folder_of_different_sizes_needs_image_size(tmp_path):
    _save(tmp_path / "train/a/1.png", np.zeros((4, 8), np.uint8))
    # The centre is white, the sides that the crop removes are black.
    wide = np.zeros((6, 12), np.uint8)
    wide[:, 1:11] = 255
    _save(tmp_path / "train/a/2.png", wide)
    with pytest.raises(ValueError, match=r"2.png is \(6, 12, 1\).*pass image_size"):
        data.load(f"folder:{tmp_path}")
    dataset = data.load(f"folder:{tmp_path}", image_size=4)
    assert dataset.images.shape == (2, 4, 4, 1)
    assert (dataset.images[1] == 255).all()


def test_folder_refuses_unreadable_and_unknown(tmp_path):
    (tmp_path / "train/a").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"no images for the 'train' split"):
        data.load(f"folder:{tmp_path}")
    _save(tmp_path / "train/a/1.png", np.zeros((4, 4), np.uint8))
    _save(tmp_path / "test/b/1.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match=r"class 'b' that is not in train"):
        data.load(f"folder:{tmp_path}", "test")
    (tmp_path / "train/a/2.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"2.png: not a readable image"):
        data.load(f"folder:{tmp_path}")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "train/a/2.png")
    with pytest.raises(ValueError, match=r"2.png: more than 8 bits per channel"):
        data.load(f"folder:{tmp_path}")


def test_grey_images_are_copied_to_three_channels():
    grey, colour = data.load("digits", "test"), data.load("digits", "test", channels=3)
    assert colour.shape == (8, 8, 3)
    for channel in range(3):
        np.testing.assert_array_equal(colour.images[..., channel], grey.images[..., 0])
    with pytest.raises(ValueError, match=r"channels must be 0 .* or 3, got 2"):
        data.load("digits", channels=2)
