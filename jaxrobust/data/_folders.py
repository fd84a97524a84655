"""Folders of image files, one folder per class, as examples for a TFDS builder."""

import io
from collections.abc import Iterator, Sequence

from absl import logging

from jaxrobust.data import _images
from jaxrobust.data._archives import Members
from jaxrobust.data._formats import Example, Splits, encode_png, text_of
from jaxrobust.data._names import class_names, normal, printable
from jaxrobust.data._reading import is_hidden

_TEST_FOLDERS = ("test", "val", "validation")

Shape = tuple[int | None, int | None, int | None]


def is_image(path: str) -> bool:
    """Whether a path ends as an image file does and no part of it is hidden."""
    return path.lower().endswith(_images.SUFFIXES) and not is_hidden(path)


def header(encoded: bytes, path: str) -> _images.Header:
    """What an image file says of itself; an error names its path."""
    try:
        return _images.header(io.BytesIO(encoded))
    except ValueError as error:
        raise ValueError(f"{printable(path)}: {error}") from None


def checked(encoded: bytes, shape: Shape, path: str) -> bytes:
    """Returns the image as PNG or JPEG of the wanted channels, upright.

    Files that fit already pass byte for byte; others become PNG without loss.

    Raises:
        ValueError: unreadable, or of another height or width than `shape` says.
    """
    channels = shape[2] or 3
    about = header(encoded, path)
    try:
        image = _images.decode(encoded, channels)
    except ValueError as error:
        raise ValueError(f"{printable(path)}: {error}") from None
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
    members: Members,
    shape: Shape,
    known: Sequence[str],
    test_split: str = "test",
) -> Splits | None:
    """Reads train/CLASS/IMAGE and test/CLASS/IMAGE (also val or validation).

    Args:
        members: the files.
        shape: `[H, W, C]` of the images; None where they may differ.
        known: class names in label order; empty or plain numbers where the set has
            none: then the folders' names in sorted order are the classes.
        test_split: what the data set calls the split that is not 'train'.

    Returns:
        Examples with image, label, id and image/file_name; None without such a folder.

    Raises:
        ValueError: a class folder that is not among the known names (nor a number).
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
            if not path.startswith(f"{split}/"):
                continue
            folder = normal(path.split("/")[1])
            label = labels.get(folder, labels.get(folder.lower()))
            yield (
                printable(path),
                {
                    "image": checked(read_image(), shape, path),
                    "label": int(folder) if label is None else label,
                    "id": printable(path),
                    "image/file_name": printable(path.rsplit("/", 1)[-1]),
                    "coarse_label": -1,  # TFDS's way to say unlabelled
                },
            )

    splits = {"train": lambda: generate("train")}
    if any(path.startswith("test/") for path in found):
        splits[test_split] = lambda: generate("test")
    return Splits(splits, {} if list(names) == list(known) else {"label": names})


def read_tiny_imagenet(members: Members) -> Splits | None:
    """Reads the official layout: train/WNID/images, val/images, val_annotations.txt."""
    roots = [path for path in members if path.rsplit("/", 1)[-1] == "wnids.txt"]
    if not roots:
        return None
    root = roots[0].removesuffix("wnids.txt")
    text = {
        name: text_of(members[root + name](), name).splitlines()
        if root + name in members
        else []
        for name in ("wnids.txt", "words.txt", "val/val_annotations.txt")
    }
    wnids = sorted(line.strip() for line in text["wnids.txt"] if line.strip())
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    truth = dict(
        line.split("\t")[:2]
        for line in text.get("val/val_annotations.txt", [])
        if "\t" in line
    )

    def generate(folder: str) -> Iterator[Example]:
        for path, read_image in members.items():
            parts = path.removeprefix(root).split("/")
            if not path.startswith(root) or parts[0] != folder or len(parts) < 3:
                continue
            if not is_image(path):
                continue
            wnid = truth.get(parts[-1]) if folder == "val" else parts[1]
            if wnid not in labels:
                raise ValueError(f"{path} has no class among the {len(wnids)} wnids")
            image = checked(read_image(), (64, 64, 3), path)
            yield parts[-1], {"image": image, "label": labels[wnid], "id": parts[-1]}

    names = {"label": _wnid_names(wnids, text.get("words.txt", []))}
    splits = {
        "train": lambda: generate("train"),
        "validation": lambda: generate("val"),
    }
    return Splits(splits, names)


def divide(members: Members) -> Members:
    """The images as train/CLASS/... and test/CLASS/..., wherever these folders are.

    A folder val or validation stands for test where there is none.
    """
    roots = [
        path[: ("/" + path).index("/train/")]
        for path in members
        if "/train/" in "/" + path
    ]
    root = min(roots, key=len, default="")
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
    if all(folder.lower() in lower for folder in folders):
        return tuple(known)
    if all(f.isdecimal() and int(f) < len(known) for f in folders):
        return tuple(known)
    unnamed = list(known) == [str(label) for label in range(len(known))]
    if not known or (unnamed and len(folders) == len(known)):
        return tuple(folders)
    strangers = [folder for folder in folders if folder.lower() not in lower]
    raise ValueError(
        f"the class folders must be all {len(known)} classes, or have names among "
        f"{', '.join(known[:3])} ... or their numbers; got {len(folders)} folders with "
        f"{', '.join(strangers[:3])}"
    )


def _compare(train: Sequence[str], test: Sequence[str]) -> None:
    """Refuses classes of the test split alone; tells those of train alone."""
    alone = sorted({*map(normal, test)} - {*map(normal, train)})
    if alone:
        raise ValueError(
            f"the test split has classes that train has not: {', '.join(alone[:5])}"
        )
    missing = sorted({*map(normal, train)} - {*map(normal, test)})
    if test and missing:
        logging.warning(
            "no test images of %d of %d classes: %s",
            len(missing),
            len(train),
            ", ".join(missing[:5]),
        )


def left_out(members: Members, images: Members) -> str | None:
    """Says how many files are no images of a class; None where all are."""
    count = sum(not is_hidden(path) for path in members) - len(images)
    return f"{count} files are no images of train or test: left out" if count else None


def _wnid_names(wnids: list[str], words: list[str]) -> tuple[str, ...]:
    """The first English name of each class; the WordNet id where that is not unique."""
    table = dict(line.split("\t", 1) for line in words if "\t" in line)
    first = [table.get(wnid, wnid).split(",")[0].strip() for wnid in wnids]
    return tuple(
        name if first.count(name) == 1 else f"{name} ({wnid})"
        for name, wnid in zip(first, wnids, strict=True)
    )
