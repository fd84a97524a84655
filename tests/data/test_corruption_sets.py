"""Folders as CIFAR-10-C and ImageNet-C are published, of a few tiny images."""

import numpy as np
import pytest
from PIL import Image

from jaxrobust import data
from tests.data.small_corruption_sets import LIKE, N, write_arrays, write_folders


def test_a_severity_is_its_fifth_of_the_array(tmp_path):
    arrays = write_arrays(tmp_path, ["fog", "snow"])
    found = data.open_corruption_set(tmp_path, LIKE)
    assert list(found.names) == ["fog", "snow"]
    np.testing.assert_array_equal(found.labels, LIKE.labels)
    rows = np.array([1, 4])
    for severity in (1, 5):
        want = arrays["snow"][(severity - 1) * N + rows]
        np.testing.assert_array_equal(found.images("snow", severity, rows), want)


def test_labels_may_be_those_of_one_severity(tmp_path):
    write_arrays(tmp_path, ["fog"])
    np.save(tmp_path / "labels.npy", LIKE.labels.astype(np.uint8))
    found = data.open_corruption_set(tmp_path, LIKE)
    np.testing.assert_array_equal(found.labels, LIKE.labels)


@pytest.mark.parametrize("group", ["", "weather"])
def test_folders_have_classes_by_name(tmp_path, group):
    images = write_folders(tmp_path / group, ["fog"])
    found = data.open_corruption_set(tmp_path, LIKE)
    assert list(found.names) == ["fog"]
    order = np.argsort(-LIKE.labels, kind="stable")  # the folder bright comes first
    np.testing.assert_array_equal(found.labels, LIKE.labels[order])
    rows = np.array([0, 3])
    got = found.images("fog", 2, rows)
    np.testing.assert_array_equal(got, images["fog"][1][order][rows])


def test_synsets_are_numbered_in_order_where_there_are_as_many(tmp_path):
    synsets = ["n00000002", "n00000001"]  # the folder of label 0, and of 1
    write_folders(tmp_path, ["fog"], classes=synsets)
    labels = data.open_corruption_set(tmp_path, LIKE).labels
    np.testing.assert_array_equal(labels, np.sort(1 - LIKE.labels))
    write_folders(tmp_path / "odd", ["fog"], classes=["cat", "dog"])
    with pytest.raises(ValueError, match=r"cat, dog.* does not name; .* dark, bright"):
        data.open_corruption_set(tmp_path / "odd", LIKE)


def test_images_of_another_size_are_resized_where_they_are_square(tmp_path, caplog):
    write_folders(tmp_path, ["fog"])
    square = data.Dataset(np.zeros((2, 6, 6, 1), np.uint8), LIKE.labels[:2], ("a", "b"))
    square = data.Dataset(square.images, square.labels, LIKE.class_names)
    found = data.open_corruption_set(tmp_path, square)
    assert "images of 8x9 are resized to 6x6" in caplog.text
    assert found.images("fog", 1, np.array([0])).shape == (1, 6, 6, 1)


def test_damage_is_told_with_the_file(tmp_path):
    def refused(match):
        with pytest.raises(ValueError, match=match) as told:
            data.open_corruption_set(tmp_path, LIKE)
        assert str(tmp_path) in str(told.value)
        assert "\n" not in str(told.value)

    refused("no corruptions")
    arrays = write_arrays(tmp_path, ["fog", "snow"])
    file = tmp_path / "fog.npy"
    np.save(file, np.array([{}, 1] * 5, object), allow_pickle=True)
    refused(r"fog\.npy is no array of numbers")
    np.save(file, arrays["fog"].astype(np.float32))
    refused(r"fog\.npy must be uint8 .* \(8, 9, 1\) .* float32")
    np.save(file, arrays["fog"][:, :4])
    refused(r"fog\.npy must be uint8 .* got uint8 \(30, 4, 9, 1\)")
    np.save(file, arrays["fog"][:-1])
    refused(r"fog\.npy has 29 images")
    np.save(file, arrays["fog"][:-5])
    refused("arrays differ: fog 25, snow 30")
    np.save(file, arrays["fog"])
    file.write_bytes(file.read_bytes()[:-7])
    refused(r"fog\.npy is no array of numbers")
    np.save(file, arrays["fog"])
    np.save(tmp_path / "labels.npy", np.arange(5 * N) % 2 + (np.arange(5 * N) > N))
    refused(r"labels\.npy: the labels of the five severities differ")
    np.save(tmp_path / "labels.npy", np.arange(N))
    refused(r"labels\.npy: labels must be between 0 and 1")
    np.save(tmp_path / "labels.npy", np.zeros(4, int))
    refused(r"labels\.npy has 4 labels for arrays of 30 images")
    np.save(tmp_path / "labels.npy", np.zeros((N, 2)))
    refused(r"labels\.npy must be integers \[N\] or \[5 N\], got float64")
    (tmp_path / "labels.npy").unlink()
    refused(r"has arrays, but no labels\.npy")


def test_folders_must_be_whole(tmp_path):
    write_folders(tmp_path, ["fog", "snow"])
    lost = next((tmp_path / "snow/3").rglob("*.png"))
    lost.unlink()
    found = data.open_corruption_set(tmp_path, LIKE)
    with pytest.raises(ValueError, match=rf"snow/3 has no .*{lost.name}"):
        found.images("snow", 3, np.array([0]))
    Image.new("L", (9, 8)).save(lost.with_name("more.png"))
    Image.new("L", (9, 8)).save(lost)
    with pytest.raises(ValueError, match=r"has .*more\.png, which others do not"):
        found.images("snow", 3, np.array([0]))
    (tmp_path / "fog/2").rename(tmp_path / "fog/two")
    with pytest.raises(ValueError, match="fog has no severity 2"):
        data.open_corruption_set(tmp_path, LIKE)
    with pytest.raises(ValueError, match="has no 'frost'; it has fog, snow"):
        data.open_corruption_set(tmp_path, LIKE, ["frost"])
