"""ImageNet's images as RobustBench reads them."""

import numpy as np
import pytest
from PIL import Image

from jaxrobust import data, zoo
from jaxrobust.data import imagenet

FIRST = (15253, 20685, 39611)  # of the published list


def save(path, height, width):
    """An image that says where each pixel is: rows in red, columns in green."""
    rows, columns = np.mgrid[:height, :width] % 256
    pixels = np.stack([rows, columns, np.full_like(rows, 255)], -1).astype(np.uint8)
    Image.fromarray(pixels).save(path, "PNG")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A thousand classes, and the first three images in three of them."""
    root = tmp_path_factory.mktemp("val")
    for k in range(1000):
        (root / f"n{k:08}").mkdir()
    for number, k in zip(FIRST, (7, 999, 0), strict=True):
        save(root / f"n{k:08}" / f"ILSVRC2012_val_{number:08}.JPEG", 260, 300 + k)
    save(root / "n00000003" / "ILSVRC2012_val_00000001.JPEG", 20, 20)
    return root


def test_the_first_images_in_their_order(folder):
    found = data.robustbench_imagenet(folder, examples=3)
    assert found.images.shape == (3, 224, 224, 3)
    assert found.images.dtype == np.uint8
    assert found.labels.tolist() == [7, 999, 0]
    assert len(found.class_names) == 1000
    with pytest.raises(FileNotFoundError, match=r"has no ILSVRC2012_val_\d{8}.JPEG"):
        data.robustbench_imagenet(folder, examples=4)


def test_the_list_is_of_different_images():
    numbers = imagenet._numbers()
    assert len(set(numbers)) == len(numbers) == 5000
    assert tuple(numbers[:3]) == FIRST
    assert min(numbers) >= 1
    assert max(numbers) <= 50_000


def test_a_crop_without_resizing(tmp_path):
    """The middle: an odd rest is rounded to the even number, as torchvision's."""
    path = save(tmp_path / "a.png", 105, 103)
    cut = imagenet.preprocess(path, "Crop100")
    assert cut.shape == (100, 100, 3)
    assert cut[0, 0].tolist() == [2, 2, 255]  # of 2.5 and 1.5
    assert cut[-1, -1].tolist() == [101, 101, 255]


def test_a_crop_of_a_small_image_has_a_black_margin(tmp_path):
    cut = imagenet.preprocess(save(tmp_path / "a.png", 5, 12), "Crop8")
    assert cut.shape == (8, 8, 3)
    assert (cut[:1] == 0).all()  # 3 rows are missing: 1 before, 2 after
    assert (cut[6:] == 0).all()
    assert cut[1, 0].tolist() == [0, 2, 255]
    assert cut[5, 7].tolist() == [4, 9, 255]


@pytest.mark.parametrize(
    ("word", "height", "width"),
    [("Res8", 8, 8), ("Res16Crop8", 8, 8), ("BicubicRes16Crop16", 16, 16)],
)
def test_resizing(word, height, width, tmp_path):
    """Rows stay rows: red falls along them alone, and blue is the same everywhere."""
    image = imagenet.preprocess(save(tmp_path / "a.png", 64, 96), word).astype(int)
    assert image.shape == (height, width, 3)
    assert (image[..., 2] == 255).all()
    assert (image[..., 0] == image[:, :1, 0]).all()
    assert (np.diff(image[..., 1], axis=1) > 0).all()
    middle = image[height // 2 - 1 : height // 2 + 1, :, 0].mean()
    assert middle == pytest.approx(31.5, abs=1)
    step = {"Res8": 12, "Res16Crop8": 4, "BicubicRes16Crop16": 4}[word]
    assert np.diff(image[0, 1:-1, 1]).mean() == pytest.approx(step, abs=0.2)


def test_every_entry_has_a_word_that_is_known():
    for threat in ("Linf", "corruptions"):
        for name in zoo.robustbench_names("imagenet", threat):
            word = zoo.robustbench_entry(name, "imagenet", threat).images
            assert imagenet._read_word(word)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"preprocessing": "Res"}, r"`preprocessing` must be .*, got 'Res'"),
        ({"preprocessing": ""}, "`preprocessing` must be"),
        ({"examples": 0}, "`examples` must be in 1 to 5000, got 0"),
        ({"examples": 5001}, "got 5001"),
    ],
)
def test_wrong_arguments(options, told, tmp_path):
    with pytest.raises(ValueError, match=told):
        data.robustbench_imagenet(tmp_path, **options)


def test_a_folder_without_the_classes(tmp_path):
    (tmp_path / "n00000001").mkdir()
    with pytest.raises(ValueError, match=r"has 1 folders of classes .* has 1000: sort"):
        data.robustbench_imagenet(tmp_path)


def test_what_is_no_image_is_refused(folder, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="image"):
        imagenet.preprocess(tmp_path / "a.png", "Crop8")
