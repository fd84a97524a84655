"""Caltech-101 and Caltech-256: a folder per class, no division into train and test."""

import io
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from jaxrobust.data import _archives
from jaxrobust.data._archives import Members
from jaxrobust.data._folders import checked, is_image
from jaxrobust.data._formats import Example, Splits

_NESTED = "101_ObjectCategories.tar.gz"
_TRAIN_IMAGES = 30
_SEED = 1234


def read_thirty(members: Members, known: Sequence[str]) -> Splits | None:
    """Caltech-101 as published, divided as TFDS does.

    30 images of each class, drawn at random, are the training split and the others the
    test split. Which ones TFDS draws depends on the file system; ours are drawn from
    the sorted file names and are the same everywhere.

    `members` are the class folders, or the archives around them; `known` the class
    names in label order, in lower case.
    """
    members = _inside(members)
    classes: dict[str, list[str]] = {}
    for path in sorted(members):
        folder = path.split("/")[-2].lower() if "/" in path else ""
        if folder in known and is_image(path):
            classes.setdefault(folder, []).append(path)
    if len(classes) < 2:
        return None
    draw = random.Random(_SEED)
    train = {
        path
        for name in sorted(classes)
        for path in draw.sample(classes[name], min(_TRAIN_IMAGES, len(classes[name])))
    }
    return Splits(_splits(members, classes, known, train))


def read_nine_tenths(members: Members, num_classes: int) -> Splits | None:
    """Caltech-101 or -256 as published, divided as in the FPD paper.

    Of each class the first nine tenths of the file names in sorted order (rounded down)
    are the training split and the others the test split. (The FPD release rounds both
    parts down, which leaves out at most one image per class; here it is a test image.)
    Classes are numbered in the sorted order of their folders, upper case first, as
    torchvision's ImageFolder does: the order that the authors' weights have.

    `members` are as in `read_thirty`; another number of classes than `num_classes`, of
    which the clutter class is one, is refused.
    """
    members = _inside(members)
    folders: dict[str, dict[str, list[str]]] = {}
    for path in sorted(members):
        if is_image(path) and "/" in path:
            root, _, name = path.rpartition("/")[0].rpartition("/")
            folders.setdefault(root, {}).setdefault(name, []).append(path)
    # The archives hold stray images deeper down (056.dog/greg).
    classes = max(folders.values(), key=len, default={})
    if len(classes) < 2:
        return None
    order = sorted(classes)
    if len(classes) != num_classes:
        raise ValueError(
            f"the data set has {num_classes} class folders, but {len(classes)} are "
            f"there: {', '.join(order[:3])} ..."
        )
    train = {
        path for paths in classes.values() for path in paths[: len(paths) * 9 // 10]
    }
    names = tuple(re.sub(r"^\d{3}\.", "", name) for name in order)
    return Splits(_splits(members, classes, order, train), {"label": names})


def _inside(members: Members) -> Members:
    """Opens the archive that Caltech-101's official archive holds."""
    nested = [path for path in members if path.endswith(_NESTED)]
    if not nested:
        return members
    return _archives.read_tar(io.BytesIO(members[nested[0]]()), _NESTED)


def _splits(
    members: Members,
    classes: Mapping[str, Sequence[str]],
    order: Sequence[str],
    train: set[str],
) -> Mapping[str, Callable[[], Iterator[Example]]]:
    """The images of each class, labelled by its place in `order`."""

    def generate(split: str) -> Iterator[Example]:
        for name, paths in classes.items():
            label = order.index(name)
            for path in paths:
                if (path in train) == (split == "train"):
                    file = path.rsplit("/", 1)[-1]
                    image = checked(members[path](), (None, None, 3), path)
                    features = {"image": image, "label": label}
                    yield f"{name}/{file}", features | {"image/file_name": file}

    return {split: partial(generate, split) for split in ("train", "test")}
