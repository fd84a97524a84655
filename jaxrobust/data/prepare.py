"""Makes the TFDS directory of an image set, without TensorFlow.

    python -m jaxrobust.data.prepare NAME [--data_dir D] [--from ARCHIVE_OR_FOLDER]

downloads the official files and checks their checksums, or takes them from a local
archive or folder; then writes TFDS's array_record layout, which `jaxrobust.data.load`
and `tfds.builder(NAME).as_data_source()` read. `--from` takes the official archive (or
the folder it unpacks to; MNIST and SVHN: the folder of the official files) or, for any
NAME, images as train/CLASS/IMAGE and test/CLASS/IMAGE. SVHN's `extra` split, which
nothing here uses, is not downloaded.

`caltech101` is divided as TFDS does (30 images of each class to train), `caltech256`
and `caltech101_90_10` as the FPD paper does: of each class the first nine tenths, in
the order of the file names, to train.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import logging
from etils import epath

from jaxrobust._checks import nearest_match
from jaxrobust.data import (
    _archives,
    _builders,
    _caltech,
    _download,
    _folders,
    _formats,
    _tfds,
)
from jaxrobust.data._archives import Members
from jaxrobust.data._formats import Splits

# The official files of each set that `load` needs.
_IDX = tuple(
    f"{split}-{kind}-ubyte.gz"
    for split in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
)
_FILES = {
    "mnist": _IDX,
    "fashion_mnist": _IDX,
    "cifar10": ("cifar-10-binary.tar.gz",),
    "cifar100": ("cifar-100-binary.tar.gz",),
    "svhn_cropped": ("train_32x32.mat", "test_32x32.mat"),
    "caltech101": ("caltech-101.zip",),
    "caltech101_90_10": ("caltech-101.zip",),
    "caltech256": ("256_ObjectCategories.tar",),
    "tiny_imagenet": ("tiny-imagenet-200.zip",),
}
# The classes of the sets divided as in the FPD paper.
_NINE_TENTHS = {"caltech101_90_10": 102, "caltech256": 257}
# File -> URL and checksum, where checksums.tsv cannot say it: it holds SHA-256 and
# Caltech's record of the set has an MD5 only.
_OTHER_FILES = {
    "caltech256": {
        "256_ObjectCategories.tar": (
            "https://data.caltech.edu/records/nyy15-4j048/files/256_ObjectCategories.tar",
            "67b4f42ca05d46448c6bb8ecd2220f6d",
        )
    },
}
# Archives that TFDS does not use but people have; from the Keras sources.
_OTHER_CHECKSUMS = {
    "cifar-10-python.tar.gz": (
        "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
    ),
    "cifar-100-python.tar.gz": (
        "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"
    ),
}


def prepare(
    name: str,
    *,
    data_dir: os.PathLike[str] | str | None = None,
    source: os.PathLike[str] | str | None = None,
    verify: bool = True,
) -> epath.Path:
    """Prepares a data set, unless it is there already.

    Args:
        name: one of `data.names()`, or with `source` any name for an image folder.
        data_dir: where to write; None means `TFDS_DATA_DIR`, or else
            ~/tensorflow_datasets. Downloads are kept in its `downloads/NAME`.
        source: an archive or folder to read instead of downloading.
        verify: compare files of known names with their recorded checksums.

    Returns:
        The prepared directory, `data_dir/NAME/VERSION`.

    Raises:
        FileNotFoundError: `source` is not there, or the download failed.
        ValueError: an unknown name, a wrong checksum, or files in no known format;
            nothing half-made is left behind.
    """
    _check_name(name, local=source is not None)
    root = _tfds.data_directory(data_dir)
    if name in _FILES:
        builder = _builders.official(name, root)
        if _finished(builder):
            return epath.Path(builder.data_dir)
        if source is None:
            source = _download_all(name, builder, root)
        elif verify:
            recorded = {k: known for k, (_, known) in _files(name, builder).items()}
            _archives.verify(source, _OTHER_CHECKSUMS | recorded)
        members = _archives.open_members(source)
    else:
        every = _archives.open_members(source or "")
        members = _folders.divide(every)
        if members and (line := _folders.left_out(every, members)):
            logging.warning("%s", line)
        builder = _builders.custom(name, root, members)
        if _finished(builder):
            return epath.Path(builder.data_dir)
    examples = _read(name, builder, members)
    if examples is None or "train" not in examples.splits:
        known = ", ".join((*_FILES.get(name, ()), "train/CLASS/IMAGE"))
        raise ValueError(
            f"{source} does not hold the data set {name!r} in a known format.\n"
            f"Known: {known} and test/CLASS/IMAGE.\n"
            "Give such an archive or folder: --from ARCHIVE_OR_FOLDER"
        )
    return _builders.write(builder, examples)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxrobust.data.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", help=", ".join(_FILES))
    parser.add_argument("--data_dir", metavar="D", help="default: TFDS_DATA_DIR")
    parser.add_argument("--from", dest="source", metavar="ARCHIVE_OR_FOLDER")
    parser.add_argument("--no_verify", action="store_true", help="skip checksums")
    flags = parser.parse_args(argv)
    if not sys.stderr.isatty():
        import tensorflow_datasets as tfds

        tfds.disable_progress_bar()  # its bars fill log files
    where = {"data_dir": flags.data_dir, "source": flags.source}
    try:
        path = prepare(flags.name, **where, verify=not flags.no_verify)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"{flags.name} is prepared in {path}\n")
    return 0


def _check_name(name: str, local: bool) -> None:
    if name == "digits":
        raise ValueError("'digits' comes with scikit-learn; it needs no preparation")
    if not name.isidentifier() or name != name.lower():
        raise ValueError(
            f"the name of a data set is lower-case letters, digits and _, got {name!r}"
        )
    if name not in _FILES and not local:
        raise ValueError(
            f"no download is known for {name!r}. {nearest_match(name, _FILES)} For "
            "your own images pass --from FOLDER."
        )


def _finished(builder: Any) -> bool:
    """Whether the data are there; raises where they are in another file format."""
    if not builder.data_path.exists():
        return False
    found = getattr(builder.info.file_format, "value", "an unknown format")
    if found != _builders.FORMAT:
        raise ValueError(
            f"{builder.data_path} exists, but in the format {found}, which cannot be "
            "read without TensorFlow; delete it or choose another --data_dir"
        )
    return True


def _download_all(name: str, builder: Any, root: epath.Path) -> epath.Path:
    """Downloads the official files; returns the archive, or the folder of several."""
    folder = root / "downloads" / name
    files = _files(name, builder)
    for filename in _FILES[name]:
        try:
            _download.fetch(*files[filename], folder / filename)
        except ConnectionError as error:
            raise FileNotFoundError(
                f"data set {name!r} is not in {root}, and the download failed: {error}."
                f"\nFetch {', '.join(_FILES[name])} elsewhere, then: python -m "
                f"jaxrobust.data.prepare {name} --from ARCHIVE_OR_FOLDER\n"
                "or set TFDS_DATA_DIR (or --data_dir) to a directory that has it."
            ) from None
    return folder / _FILES[name][0] if len(_FILES[name]) == 1 else folder


def _files(name: str, builder: Any) -> dict[str, tuple[str, str]]:
    """The URL and the checksum of every known file of a set."""
    recorded = {
        info.filename: (url, info.checksum)
        for url, info in (builder.url_infos or {}).items()
        if info.filename
    }
    return recorded | _OTHER_FILES.get(name, {})


def _read(name: str, builder: Any, members: Members) -> Splits | None:
    """The first format that the files are in."""
    image, label = (builder.info.features[key] for key in ("image", "label"))
    known = label.names if label.num_classes else ()
    readers: list[Callable[[], Splits | None]] = []
    if name in ("mnist", "fashion_mnist"):
        readers.append(lambda: _formats.read_idx(members))
    if name in ("cifar10", "cifar100"):
        readers.append(lambda: _formats.read_cifar(members, coarse=name == "cifar100"))
    if name == "svhn_cropped":
        readers.append(lambda: _formats.read_svhn(members))
    if name == "tiny_imagenet":
        readers.append(lambda: _folders.read_tiny_imagenet(members))
    test_split = "validation" if name == "tiny_imagenet" else "test"
    readers.append(lambda: _folders.read(members, image.shape, known, test_split))
    if name == "caltech101":
        readers.append(lambda: _caltech.read_thirty(members, known))
    if name in _NINE_TENTHS:
        readers.append(lambda: _caltech.read_nine_tenths(members, _NINE_TENTHS[name]))
    return next((source for read in readers if (source := read())), None)


if __name__ == "__main__":
    sys.exit(main())
