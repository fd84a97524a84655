"""The official file formats of the image sets, as examples for a TFDS builder.

Every reader takes the members of an archive or folder and returns a `Splits`, or None
where the members are not in its format. Images leave here encoded (PNG, or the JPEG
that was there): TFDS needs TensorFlow only to encode arrays.
"""

import dataclasses
import gzip
import io
import math
import pickle
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jaxrobust.data import _archives
from jaxrobust.data._archives import Members

_MOST_IDX = 1 << 30
Example = tuple[int | str, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Splits:
    """Examples of every split, ready for a TFDS builder.

    Attributes:
        splits: split name -> a function that yields `(key, features)`; TFDS orders
            the set by the hash of the key, so official keys give the official order.
        names: feature name -> class names in label order, where the files say them.
    """

    splits: Mapping[str, Callable[[], Iterator[Example]]]
    names: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """Encodes uint8 `[H, W, 1 or 3]` without loss."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(
        buffer, format="PNG"
    )
    return buffer.getvalue()


def read_idx(members: Members) -> Splits | None:
    """MNIST and its relatives: four idx files, gzipped or not."""
    files = {
        name.removesuffix(".gz").replace(".idx", "-idx"): read
        for name, read in _archives.by_name(members).items()
    }
    splits = {"train": "train", "test": "t10k"}
    wanted = {
        split: (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
        for split, prefix in splits.items()
    }
    if not all(name in files for pair in wanted.values() for name in pair):
        return None

    def generate(images_name: str, labels_name: str) -> Iterator[Example]:
        images = _parse_idx(files[images_name](), images_name)
        labels = _parse_idx(files[labels_name](), labels_name)
        if len(images) != len(labels):
            raise ValueError(
                f"{images_name} has {len(images)} images, {labels_name} {len(labels)}"
            )
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield index, {"image": encode_png(image[..., None]), "label": int(label)}

    return Splits({split: _bind(generate, *pair) for split, pair in wanted.items()})


def read_cifar(members: Members, *, coarse: bool) -> Splits | None:
    """CIFAR-10, or with coarse labels CIFAR-100; binary or Python version."""
    files = _archives.by_name(members)
    stems = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
    if coarse:
        stems = {"train": ["train"], "test": ["test"]}
    for suffix, parse in ((".bin", _parse_cifar_binary), ("", _parse_cifar_python)):
        wanted = {s: [stem + suffix for stem in stems[s]] for s in stems}
        if all(name in files for names in wanted.values() for name in names):
            splits = {
                split: _bind(_cifar_examples, files, names, parse, split, coarse)
                for split, names in wanted.items()
            }
            return Splits(splits, _cifar_names(files, coarse))
    return None


def read_svhn(members: Members) -> Splits | None:
    """SVHN, cropped digits: train_32x32.mat, test_32x32.mat, maybe extra_32x32.mat."""
    files = _archives.by_name(members)
    if "train_32x32.mat" not in files or "test_32x32.mat" not in files:
        return None

    def generate(split: str) -> Iterator[Example]:
        from scipy import io as scipy_io

        name = f"{split}_32x32.mat"
        stream = io.BytesIO(files[name]())
        try:
            content = scipy_io.loadmat(stream, variable_names=("X", "y"))
            images = np.moveaxis(content["X"], -1, 0)
            labels = content["y"].ravel()
        except Exception as error:  # scipy raises many kinds
            raise ValueError(f"{name} is no file of SVHN: {_reason(error)}") from None
        if images.dtype != np.uint8 or images.shape != (len(labels), 32, 32, 3):
            raise ValueError(
                f"{name} holds images {images.dtype} {images.shape} and {len(labels)} "
                "labels, not uint8 [N, 32, 32, 3] and N"
            )
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield (
                index,
                {
                    "id": f"{split}_{index:06d}",
                    "image": encode_png(np.ascontiguousarray(image)),
                    "label": int(label) % 10,  # the digit 0 is stored as class 10
                },
            )

    present = [s for s in ("train", "test", "extra") if f"{s}_32x32.mat" in files]
    return Splits({split: _bind(generate, split) for split in present})


def _reason(error: Exception) -> str:
    [reason, *_] = str(error).splitlines() or [""]
    speaks = reason and isinstance(error, ValueError | EOFError | pickle.PickleError)
    return reason if speaks else f"{type(error).__name__}: {reason}"


def text_of(content: bytes, name: str) -> str:
    """Decodes UTF-8; an error names the file."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is no text in UTF-8: {error.reason}") from None


def _bind(
    generate: Callable[..., Iterator[Example]], *args: Any
) -> Callable[[], Iterator[Example]]:
    return lambda: generate(*args)


def _parse_idx(content: bytes, name: str) -> NDArray[np.uint8]:
    if content[:2] == b"\x1f\x8b":
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
                content = stream.read(_MOST_IDX + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{name} is damaged: {error}") from None
        if len(content) > _MOST_IDX:
            raise ValueError(f"{name} unpacks to more than {_MOST_IDX >> 20} MiB")
    # Big-endian: two zero bytes, type 8 (uint8), the rank, then one size per axis.
    rank = content[3] if len(content) > 3 else 0
    start = 4 + 4 * rank
    if content[:3] != b"\x00\x00\x08" or len(content) < start:
        raise ValueError(f"{name} is not an idx file of unsigned bytes")
    shape = tuple(np.frombuffer(content[4:start], ">u4").tolist())
    if len(content) != start + math.prod(shape):
        raise ValueError(
            f"{name} announces {shape} but holds {len(content) - start} bytes"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _cifar_examples(
    files: Mapping[str, Callable[[], bytes]],
    names: list[str],
    parse: Callable[[bytes, bool], tuple[NDArray[np.uint8], dict[str, Any]]],
    split: str,
    coarse: bool,
) -> Iterator[Example]:
    index = 0
    for file in names:
        try:
            images, labels = parse(files[file](), coarse)
        except Exception as error:  # a damaged pickle raises many kinds
            raise ValueError(f"{file} is not a CIFAR file: {_reason(error)}") from None
        for row, image in enumerate(images):
            numbers = {key: int(values[row]) for key, values in labels.items()}
            name = f"{split}_{index:05d}"
            yield index, {"id": name, "image": encode_png(image), **numbers}
            index += 1


def _parse_cifar_binary(
    content: bytes, coarse: bool
) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    keys = ("coarse_label", "label") if coarse else ("label",)
    rows = np.frombuffer(content, np.uint8).reshape(-1, len(keys) + 3072)
    labels = {key: rows[:, column] for column, key in enumerate(keys)}
    return _cifar_images(rows[:, len(keys) :]), labels


def _parse_cifar_python(
    content: bytes, coarse: bool
) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    batch = _Unpickler(io.BytesIO(content), encoding="latin1").load()
    if coarse:
        labels = {"coarse_label": batch["coarse_labels"], "label": batch["fine_labels"]}
    else:
        labels = {"label": batch["labels"]}
    return _cifar_images(np.asarray(batch["data"], np.uint8)), labels


def _cifar_images(flat: NDArray[np.uint8]) -> NDArray[np.uint8]:
    planes = flat.reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1))


def _cifar_names(
    files: Mapping[str, Callable[[], bytes]], coarse: bool
) -> dict[str, tuple[str, ...]]:
    fine = "fine_label_names" if coarse else "label_names"
    text_files = {"label": "fine_label_names.txt" if coarse else "batches.meta.txt"}
    pickled_keys = {"label": fine}
    if coarse:
        text_files["coarse_label"] = "coarse_label_names.txt"
        pickled_keys["coarse_label"] = "coarse_label_names"
    if all(name in files for name in text_files.values()):
        return {
            key: tuple(text_of(files[name](), name).split())
            for key, name in text_files.items()
        }
    meta = "meta" if coarse else "batches.meta"
    if meta not in files:
        return {}
    try:
        content = _Unpickler(io.BytesIO(files[meta]()), encoding="latin1").load()
        return {key: tuple(content[name]) for key, name in pickled_keys.items()}
    except Exception as error:
        raise ValueError(f"{meta} is not a CIFAR file: {_reason(error)}") from None


class _Unpickler(pickle.Unpickler):
    """Loads numpy arrays and plain containers only: a pickle can run any code."""

    _ALLOWED = frozenset({"_reconstruct", "ndarray", "dtype", "encode", "_frombuffer"})

    def find_class(self, module_name: str, global_name: str) -> Any:
        numpy_module = module_name.split(".")[0] in ("numpy", "_codecs")
        if numpy_module and global_name in self._ALLOWED:
            return super().find_class(module_name, global_name)
        raise pickle.UnpicklingError(
            f"refused to load {module_name}.{global_name} from a pickle"
        )
