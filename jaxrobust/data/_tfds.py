"""Image sets prepared in TFDS's array_record layout, read without TensorFlow."""

import concurrent.futures
import os
from typing import Any

import numpy as np
from etils import epath

from jaxrobust.data import _images
from jaxrobust.data._dataset import Dataset, spread

_SPLITS = {"train": ("train",), "test": ("test", "validation")}


def data_directory(data_dir: os.PathLike[str] | str | None) -> epath.Path:
    """The argument, else `TFDS_DATA_DIR`, else TFDS's own `~/tensorflow_datasets`."""
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return epath.Path(chosen).expanduser()


def load_prepared(
    name: str,
    split: str,
    *,
    data_dir: os.PathLike[str] | str | None,
    image_size: int | None,
    limit: int | None,
) -> Dataset:
    """Reads one split of the prepared TFDS image set `name` into one array.

    Raises:
        FileNotFoundError: the set is not there in array_record format.
        ValueError: it has no such split, is no image classification set, or its
            images differ in size and `image_size` is None.
    """
    builder = _find(name, data_directory(data_dir))
    split = _split_name(name, split, tuple(builder.info.splits))
    image_key, label_key = builder.info.supervised_keys or ("image", "label")
    features = builder.info.features
    if image_key not in features or label_key not in features:
        raise ValueError(
            f"data set {name!r} is no image classification set: it has the features "
            f"{sorted(features)}"
        )
    shape = features[image_key].shape
    if image_size is None and None in shape[:2]:
        raise ValueError(
            f"the images of {name!r} differ in size: pass image_size, for example 224"
        )
    source = builder.as_data_source(split, decoders=_skip_decoding(image_key))
    rows = spread(len(source), limit)
    images, labels = _read(source, rows, image_key, label_key, shape, image_size, name)
    return Dataset(images, labels, tuple(features[label_key].names))


def _find(name: str, root: epath.Path) -> Any:
    """The builder of the newest prepared version below `root`."""
    import tensorflow_datasets as tfds

    folder = root / name
    found = sorted(
        (path.parent for path in folder.glob("*/dataset_info.json")),
        key=lambda path: [int(n) if n.isdigit() else -1 for n in path.name.split(".")],
    )
    for version in reversed(found):
        builder = tfds.builder_from_directory(version)
        if builder.info.file_format.value == "array_record":
            return builder
    seen = f" (found {found[-1].name} in another file format)" if found else ""
    raise FileNotFoundError(
        f"data set {name!r} is not prepared: looked for array_record data in "
        f"{folder}{seen}.\n"
        f"Prepare it: python -m jaxrobust.data.prepare {name} "
        "[--from ARCHIVE_OR_FOLDER]\n"
        "or set TFDS_DATA_DIR (or data_dir=) to the directory that holds it."
    )


def _split_name(name: str, split: str, available: tuple[str, ...]) -> str:
    for candidate in _SPLITS[split]:
        if candidate in available:
            return candidate
    raise ValueError(
        f"data set {name!r} has no {split!r} split; it has {', '.join(available)}"
    )


def _skip_decoding(image_key: str) -> dict[str, Any]:
    import tensorflow_datasets as tfds

    return {image_key: tfds.decode.SkipDecoding()}


def _read(
    source: Any,
    rows: np.ndarray,
    image_key: str,
    label_key: str,
    shape: tuple[int | None, ...],
    image_size: int | None,
    name: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Decodes the rows in threads (Pillow releases the GIL) into one array."""
    import tqdm

    height, width = (image_size, image_size) if image_size else shape[:2]
    images = np.empty((len(rows), height, width, shape[-1]), np.uint8)
    labels = np.empty(len(rows), np.int32)

    def read_one(position: int) -> None:
        example = source[int(rows[position])]
        images[position] = _images.decode(example[image_key], shape[-1], image_size)
        labels[position] = example[label_key]

    with concurrent.futures.ThreadPoolExecutor() as pool:
        done = pool.map(read_one, range(len(rows)), chunksize=256)
        # A bar only for loads long enough to wonder about, and not in log files.
        for _ in tqdm.tqdm(
            done, f"loading {name}", len(rows), leave=False, disable=None, delay=2
        ):
            pass
    return images, labels
