"""The 5,000 validation images of ImageNet that RobustBench evaluates on, as it does.

    dataset = data.robustbench_imagenet('imagenet/val', 'BicubicRes256Crop224')
    model, variables, entry = zoo.robustbench(NAME, FILE, 'imagenet')  # entry.images

robustbench_imagenet.txt holds their numbers among the 50,000, in RobustBench's order.
"""

import os
import pathlib
import re

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jaxrobust.data._dataset import Dataset
from jaxrobust.data._images import header

CLASSES = 1000
_FORM = "(Bicubic)?Res(resized side)Crop(side), Res(side) or Crop(side)"
_PREPROCESSING = re.compile(r"(Bicubic)?(?:Res(\d{1,4}))?(?:Crop(\d{1,4}))?")


def robustbench_imagenet(
    folder: os.PathLike[str] | str,
    preprocessing: str = "Res256Crop224",
    examples: int = 5000,
) -> Dataset:
    """Reads RobustBench's images of ImageNet from a folder `CLASS/IMAGE.JPEG`.

    Args:
        folder: the validation set, with its 1,000 folders of classes (`n01440764` ...),
            numbered in that order.
        preprocessing: RobustBench's word for it, `images` of a network's entry. The
            shorter side becomes that of `Res`, bilinear or `Bicubic`, antialiased, and
            the centre of `Crop` is cut out; `Res` alone makes squares of whole images.
        examples: the first so many, at most 5,000.

    Returns:
        uint8 images and labels, in RobustBench's order.

    Raises:
        ValueError: for another word, a number out of range, or a folder without the
            1,000 classes.
        FileNotFoundError: naming the first image that is not there.
    """
    numbers = _numbers()
    if not 1 <= examples <= len(numbers):
        raise ValueError(f"`examples` must be in 1 to {len(numbers)}, got {examples}.")
    _read_word(preprocessing)
    root = pathlib.Path(folder)
    names = sorted(p.name for p in root.iterdir() if re.fullmatch(r"n\d{8}", p.name))
    if len(names) != CLASSES:
        raise ValueError(
            f"{root} has {len(names)} folders of classes (n01440764 ...), and ImageNet "
            f"has {CLASSES}: sort the validation images into them first."
        )
    where = {
        int(found[1]): (file, label)
        for label, name in enumerate(names)
        for file in os.listdir(root / name)
        if (found := re.fullmatch(r"ILSVRC2012_val_(\d{8})\.JPEG", file))
    }
    images, labels = [], []
    for number in numbers[:examples]:
        if number not in where:
            raise FileNotFoundError(f"{root} has no ILSVRC2012_val_{number:08}.JPEG.")
        file, label = where[number]
        images.append(preprocess(root / names[label] / file, preprocessing))
        labels.append(label)
    return Dataset(np.stack(images), np.array(labels, np.int32), tuple(names))


def preprocess(path: pathlib.Path, preprocessing: str) -> NDArray[np.uint8]:
    """Reads an image as torchvision's `Resize`, `CenterCrop` and `ToTensor` do.

    Its EXIF turns nothing, as there. `preprocessing` is as above, and what is no image
    a ValueError.
    """
    kind, resized, cropped = _read_word(preprocessing)
    with open(path, "rb") as stream:
        header(stream)  # refuses what is no image, or far too large
        stream.seek(0)
        image = Image.open(stream).convert("RGB")
    if resized and cropped:
        short, long = sorted(image.size)
        sides = {short: resized, long: int(resized * long / short)}
        sides[short] = resized  # of a square
        image = image.resize((sides[image.width], sides[image.height]), kind)
    elif resized:
        image = image.resize((resized, resized), kind)
    if not cropped:
        return np.asarray(image)
    # Smaller images get a black margin, the larger half of it after them.
    width, height = max(image.width, cropped), max(image.height, cropped)
    margins = (width - image.width) // 2, (height - image.height) // 2
    left, top = round((width - cropped) / 2), round((height - cropped) / 2)
    box = (left - margins[0], top - margins[1])
    image = image.crop((*box, box[0] + cropped, box[1] + cropped))
    return np.asarray(image)


def _read_word(preprocessing: str) -> tuple[Image.Resampling, int, int]:
    """Returns the filter, the side to resize to and the one to cut out, or 0."""
    found = _PREPROCESSING.fullmatch(preprocessing)
    if not found or not (found[2] or found[3]):
        raise ValueError(f"`preprocessing` must be {_FORM}, got {preprocessing!r}.")
    kind = Image.Resampling.BICUBIC if found[1] else Image.Resampling.BILINEAR
    return kind, int(found[2] or 0), int(found[3] or 0)


def _numbers() -> list[int]:
    file = pathlib.Path(__file__).with_name("robustbench_imagenet.txt")
    return [int(word) for word in file.read_text("utf-8").split()]
