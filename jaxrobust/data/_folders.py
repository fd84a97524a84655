"""Folders of image files, one folder per class, as examples for a TFDS builder."""

import io
import re
from collections.abc import Iterator, Sequence
from functools import partial

from absl import logging

from jaxrobust.data import _images
from jaxrobust.data._archives import Members
from jaxrobust.data._formats import Example, Splits, encode_png
from jaxrobust.data._names import class_names, normal, printable
from jaxrobust.data._reading import is_hidden, named, text_of

_TEST_FOLDERS = ("test", "val", "validation")

Shape = tuple[int | None, int | None, int | None]


def is_image(path: str) -> bool:
    """Whether a path ends as an image file does and no part of it is hidden."""
    return path.lower().endswith(_images.SUFFIXES) and not is_hidden(path)


def checked(encoded: bytes, shape: Shape, path: str) -> bytes:
    """Returns the image as PNG or JPEG of the wanted channels, upright.

    Files that fit already pass byte for byte; others become PNG without loss. One of
    another height or width than `shape` says is refused.
    """
    channels = shape[2] or 3
    with named(printable, path):
        about = _images.header(io.BytesIO(encoded))
        image = _images.decode(encoded, channels)
    wanted = (shape[0] or image.shape[0], shape[1] or image.shape[1])
    if image.shape[:2] != wanted:
        raise ValueError(
            f"{printable(path)} is {image.shape[0]}x{image.shape[1]} pixels, the data "
            f"set has {wanted[0]}x{wanted[1]}"
        )
    fits = about.mode == ("L" if channels == 1 else "RGB") and about.upright
    keep = fits and about.format in ("PNG", "JPEG") and not about.animated
    return encoded if keep else encode_png(image)


def read(
    members: Members, shape: Shape, known: Sequence[str], test_split: str
) -> Splits | None:
    """Reads train/CLASS/IMAGE and test/CLASS/IMAGE (also val or validation).

    `shape` is `[H, W, C]` of the images, with None where they may differ. `known` are
    the class names in label order; where they are empty or plain numbers, the folders'
    names in sorted order are. A class folder of another name is refused. `test_split`
    is what the data set calls the split that is not 'train'.
    """
    found = divide(members)
    if not any(path.startswith("train/") for path in found):
        return None
    folders = {
        split: sorted({p.split("/")[1] for p in found if p.startswith(f"{split}/")})
        for split in ("train", "test")
    }
    if not known:
        _compare(folders["train"], folders["test"])
    for split, own in folders.items():
        class_names(own, f"the class folders of {split}")
    both = sorted({*folders["train"], *folders["test"]})
    names = _label_names(list(dict.fromkeys(map(normal, both))), known)
    exact = {normal(name): label for label, name in enumerate(names)}
    labels = {name.lower(): label for name, label in exact.items()} | exact

    def generate(split: str) -> Iterator[Example]:
        for path, read_image in found.items():
            top, folder, *_ = path.split("/")
            if top != split:
                continue
            folder = normal(folder)
            label = labels.get(folder, labels.get(folder.lower()))
            features = {
                "image": checked(read_image(), shape, path),
                "label": int(folder) if label is None else label,
                "id": printable(path),
                "image/file_name": printable(path.rsplit("/", 1)[-1]),
                "coarse_label": -1,  # TFDS's way to say unlabelled
            }
            yield printable(path), features

    splits = {"train": partial(generate, "train")}
    if folders["test"]:
        splits[test_split] = partial(generate, "test")
    return Splits(splits, {} if list(names) == list(known) else {"label": names})


def read_tiny_imagenet(members: Members) -> Splits | None:
    """Reads the official layout: train/WNID/images, val/images, val_annotations.txt."""
    roots = [path for path in members if path.rsplit("/", 1)[-1] == "wnids.txt"]
    if not roots:
        return None
    root = roots[0].removesuffix("wnids.txt")

    def lines(name: str) -> list[str]:
        read = members.get(root + name)
        return text_of(read(), name).splitlines() if read else []

    wnids = sorted(line.strip() for line in lines("wnids.txt") if line.strip())
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    annotations = lines("val/val_annotations.txt")
    truth = dict(line.split("\t")[:2] for line in annotations if "\t" in line)

    def generate(folder: str) -> Iterator[Example]:
        for path, read_image in members.items():
            parts = path.removeprefix(root).split("/")
            inside = path.startswith(root) and is_image(path)
            if not inside or parts[0] != folder or len(parts) < 3:
                continue
            wnid = truth.get(parts[-1]) if folder == "val" else parts[1]
            if wnid not in labels:
                raise ValueError(f"{path} has no class among the {len(wnids)} wnids")
            image = checked(read_image(), (64, 64, 3), path)
            yield parts[-1], {"image": image, "label": labels[wnid], "id": parts[-1]}

    splits = {
        "train": partial(generate, "train"),
        "validation": partial(generate, "val"),
    }
    return Splits(splits, {"label": _wnid_names(wnids, lines("words.txt"))})


def divide(members: Members) -> Members:
    """The images as train/CLASS/... and test/CLASS/..., wherever these folders are.

    A folder val or validation stands for test where there is none.
    """
    roots = (re.match(r"(?s)(.*?/)??train/", path) for path in members)
    root = min((found[1] or "" for found in roots if found), key=len, default="")
    images = {
        path.removeprefix(root): read
        for path, read in members.items()
        if path.startswith(root) and is_image(path)
    }
    tops = {path.split("/")[0] for path in images if path.count("/") > 1}
    test = next((folder for folder in _TEST_FOLDERS if folder in tops), "test")
    renamed = {"train": "train", test: "test"}
    return {
        f"{renamed[top]}/{rest}": read
        for path, read in images.items()
        for top, _, rest in [path.partition("/")]
        if top in renamed and "/" in rest
    }


def _label_names(folders: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The class names in label order of a set whose class folders are `folders`."""
    lower = {name.lower() for name in known}
    strangers = [folder for folder in folders if folder.lower() not in lower]
    numbers = all(f.isdecimal() and int(f) < len(known) for f in folders)
    if numbers or not strangers:
        return tuple(known)
    unnamed = list(known) == [str(label) for label in range(len(known))]
    if not known or (unnamed and len(folders) == len(known)):
        return tuple(folders)
    raise ValueError(
        f"the class folders must be all {len(known)} classes, or have names among "
        f"{', '.join(known[:3])} ... or their numbers; got {len(folders)} folders with "
        f"{', '.join(strangers[:3])}"
    )


def _compare(train: Sequence[str], test: Sequence[str]) -> None:
    """Refuses classes of the test split alone; tells those of train alone."""
    ours, theirs = ({*map(normal, folders)} for folders in (train, test))
    if alone := sorted(theirs - ours):
        raise ValueError(
            f"the test split has classes that train has not: {', '.join(alone[:5])}"
        )
    missing = sorted(ours - theirs)
    if test and missing:
        text = "no test images of %d of %d classes: %s"
        logging.warning(text, len(missing), len(train), ", ".join(missing[:5]))


def _wnid_names(wnids: list[str], words: list[str]) -> tuple[str, ...]:
    """The first English name of each class; the WordNet id where that is not unique."""
    table = dict(line.split("\t", 1) for line in words if "\t" in line)
    first = [table.get(wnid, wnid).split(",")[0].strip() for wnid in wnids]
    return tuple(
        name if first.count(name) == 1 else f"{name} ({wnid})"
        for name, wnid in zip(first, wnids, strict=True)
    )
