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
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from absl import logging
from etils import epath

from jaxrobust._checks import nearest_match
from jaxrobust.data import _archives, _builders, _caltech, _download, _folders, _formats
from jaxrobust.data._archives import Members
from jaxrobust.data._formats import Splits
from jaxrobust.data._reading import is_hidden
from jaxrobust.data._tfds import FILES, FORMAT, data_directory

# What reads the official files of TFDS's sets; builders of ours `read` theirs.
_LAYOUTS: Mapping[str, Callable[[Members], Splits | None]] = {
    "mnist": _formats.read_idx,
    "fashion_mnist": _formats.read_idx,
    "cifar10": partial(_formats.read_cifar, coarse=False),
    "cifar100": partial(_formats.read_cifar, coarse=True),
    "svhn_cropped": _formats.read_svhn,
}
# File -> URL and checksum of others: Caltech's record of its set has an MD5, where
# checksums.tsv holds SHA-256; CIFAR for Python, which people have and TFDS does not use
# (nor is it fetched), is from the Keras sources.
_OTHER_FILES = {
    "256_ObjectCategories.tar": (
        "https://data.caltech.edu/records/nyy15-4j048/files/256_ObjectCategories.tar",
        "67b4f42ca05d46448c6bb8ecd2220f6d",
    ),
    "cifar-10-python.tar.gz": (
        "",
        "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    ),
    "cifar-100-python.tar.gz": (
        "",
        "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
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
    root = data_directory(data_dir)
    if name in FILES:
        builder = _builders.official(name, root)
        if _finished(builder):
            return epath.Path(builder.data_dir)
        if source is None:
            source = _download_all(name, builder, root)
        elif verify:
            recorded = {k: known for k, (_, known) in _files(builder).items()}
            _download.verify(source, recorded)
        members = _archives.open_members(source)
    else:
        every = _archives.open_members(source or "")
        members = _folders.divide(every)
        out = sum(not is_hidden(path) for path in every) - len(members)
        if members and out:
            logging.warning("%d files are no images of train or test: left out", out)
        builder = _builders.custom(name, root, members)
        if _finished(builder):
            return epath.Path(builder.data_dir)
    examples = _read(name, builder, members)
    if examples is None or "train" not in examples.splits:
        known = ", ".join((*FILES.get(name, ()), "train/CLASS/IMAGE"))
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
    parser.add_argument("name", metavar="NAME", help=", ".join(FILES))
    parser.add_argument("--data_dir", metavar="D", help="default: TFDS_DATA_DIR")
    parser.add_argument("--from", dest="source", metavar="ARCHIVE_OR_FOLDER")
    parser.add_argument(
        "--no_verify", dest="verify", action="store_false", help="skip checksums"
    )
    asked = vars(parser.parse_args(argv))
    if not sys.stderr.isatty():
        import tensorflow_datasets as tfds

        tfds.disable_progress_bar()  # its bars fill log files
    try:
        path = prepare(**asked)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"{asked['name']} is prepared in {path}\n")
    return 0


def _check_name(name: str, local: bool) -> None:
    if name == "digits":
        raise ValueError("'digits' comes with scikit-learn; it needs no preparation")
    if not name.isidentifier() or name != name.lower():
        raise ValueError(
            f"the name of a data set is lower-case letters, digits and _, got {name!r}"
        )
    if name not in FILES and not local:
        raise ValueError(
            f"no download is known for {name!r}. {nearest_match(name, FILES)} For "
            "your own images pass --from FOLDER."
        )


def _finished(builder: Any) -> bool:
    """Whether the data are there; raises where they are in another file format."""
    if not builder.data_path.exists():
        return False
    found = getattr(builder.info.file_format, "value", "an unknown format")
    if found != FORMAT:
        raise ValueError(
            f"{builder.data_path} exists, but in the format {found}, which cannot be "
            "read without TensorFlow; delete it or choose another --data_dir"
        )
    return True


def _download_all(name: str, builder: Any, root: epath.Path) -> epath.Path:
    """Downloads the official files; returns the archive, or the folder of several."""
    folder = root / "downloads" / name
    files = _files(builder)
    for filename in FILES[name]:
        try:
            _download.fetch(*files[filename], folder / filename)
        except ConnectionError as error:
            raise FileNotFoundError(
                f"data set {name!r} is not in {root}, and the download failed: {error}."
                f"\nFetch {', '.join(FILES[name])} elsewhere, then: python -m "
                f"jaxrobust.data.prepare {name} --from ARCHIVE_OR_FOLDER\n"
                "or set TFDS_DATA_DIR (or --data_dir) to a directory that has it."
            ) from None
    return folder / FILES[name][0] if len(FILES[name]) == 1 else folder


def _files(builder: Any) -> dict[str, tuple[str, str]]:
    """The URL and the checksum of every known file."""
    recorded = {
        info.filename: (url, info.checksum)
        for url, info in (builder.url_infos or {}).items()
        if info.filename
    }
    return recorded | _OTHER_FILES


def _read(name: str, builder: Any, members: Members) -> Splits | None:
    """The first format that the files are in."""
    image, label = (builder.info.features[key] for key in ("image", "label"))
    read_folders = partial(
        _folders.read,
        shape=image.shape,
        known=label.names if label.num_classes else (),
        test_split="validation" if name == "tiny_imagenet" else "test",
    )
    if name == "caltech101":
        official = partial(_caltech.read_thirty, known=label.names)
    else:
        official = _LAYOUTS.get(name) or builder.read
    readers = [official, read_folders]
    if name.startswith("caltech"):  # class folders too, below train and test or not
        readers.reverse()
    return next((found for read in readers if (found := read(members))), None)


if __name__ == "__main__":
    sys.exit(main())
