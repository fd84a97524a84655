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
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jaxrobust.data import _archives
from jaxrobust.data._archives import Members
from jaxrobust.data._reading import damage, text_of

_MOST_IDX = 1 << 30
Example = tuple[int | str, dict[str, Any]]
_Parsed = tuple[NDArray[np.uint8], dict[str, Any]]  # pixels and labels of a file


@dataclasses.dataclass(frozen=True)
class Splits:
    """Examples of every split, ready for a TFDS builder."""

    # Split -> a function that yields `(key, features)`; TFDS orders the set by the hash
    # of the key, so official keys give the official order.
    splits: Mapping[str, Callable[[], Iterator[Example]]]
    # Feature -> class names in label order, where the files say them.
    names: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


class _Cifar(NamedTuple):
    """How the files of a CIFAR set are called, and where they have its labels."""

    stems: Mapping[str, Sequence[str]]  # of each split
    meta: str  # the file of class names in the Python version
    text: str  # ... of a feature in the binary version
    # Feature -> how its keys begin in the Python version; in the order of the bytes
    # before an image in the binary version.
    labels: Mapping[str, str]


_CIFAR10 = _Cifar(
    {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]},
    "batches.meta",
    "batches.meta.txt",
    {"label": ""},
)
_CIFAR100 = _Cifar(
    {"train": ["train"], "test": ["test"]},
    "meta",
    "{}label_names.txt",
    {"coarse_label": "coarse_", "label": "fine_"},
)


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """Encodes uint8 `[H, W, 1 or 3]` without loss."""
    buffer = io.BytesIO()
    flat = image[..., 0] if image.shape[-1] == 1 else image
    Image.fromarray(flat).save(buffer, format="PNG")
    return buffer.getvalue()


def read_idx(members: Members) -> Splits | None:
    """MNIST and its relatives: four idx files, gzipped or not."""
    files = {
        name.removesuffix(".gz").replace(".idx", "-idx"): read
        for name, read in _archives.by_name(members).items()
    }
    wanted = {
        split: (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
        for split, prefix in {"train": "train", "test": "t10k"}.items()
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

    return Splits({split: partial(generate, *pair) for split, pair in wanted.items()})


def read_cifar(members: Members, *, coarse: bool) -> Splits | None:
    """CIFAR-10, or with coarse labels CIFAR-100; binary or Python version."""
    files = _archives.by_name(members)
    kind = _CIFAR100 if coarse else _CIFAR10
    for suffix, parse in ((".bin", _parse_cifar_binary), ("", _parse_cifar_python)):
        wanted = {s: [stem + suffix for stem in kind.stems[s]] for s in kind.stems}
        if all(name in files for names in wanted.values() for name in names):
            read = partial(_cifar_examples, files, partial(parse, kind))
            splits = {split: partial(read, split, wanted[split]) for split in wanted}
            return Splits(splits, _cifar_names(files, kind))
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
        with damage(f"{name} is no file of SVHN"):
            content = scipy_io.loadmat(stream, variable_names=("X", "y"))
            images = np.moveaxis(content["X"], -1, 0)
            labels = content["y"].ravel()
        if images.dtype != np.uint8 or images.shape != (len(labels), 32, 32, 3):
            raise ValueError(
                f"{name} holds images {images.dtype} {images.shape} and {len(labels)} "
                "labels, not uint8 [N, 32, 32, 3] and N"
            )
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            features = {
                "id": f"{split}_{index:06d}",
                "image": encode_png(np.ascontiguousarray(image)),
                "label": int(label) % 10,  # the digit 0 is stored as class 10
            }
            yield index, features

    present = [s for s in ("train", "test", "extra") if f"{s}_32x32.mat" in files]
    return Splits({split: partial(generate, split) for split in present})


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
    files: Members, parse: Callable[[bytes], _Parsed], split: str, names: Sequence[str]
) -> Iterator[Example]:
    index = 0
    for file in names:
        with damage(f"{file} is not a CIFAR file"):
            flat, labels = parse(files[file]())
            planes = flat.reshape(-1, 3, 32, 32)
        for row, image in enumerate(np.ascontiguousarray(planes.transpose(0, 2, 3, 1))):
            numbers = {key: int(values[row]) for key, values in labels.items()}
            name = f"{split}_{index:05d}"
            yield index, {"id": name, "image": encode_png(image), **numbers}
            index += 1


def _parse_cifar_binary(kind: _Cifar, content: bytes) -> _Parsed:
    first = len(kind.labels)  # byte of an image
    rows = np.frombuffer(content, np.uint8).reshape(-1, first + 3072)
    return rows[:, first:], {key: rows[:, i] for i, key in enumerate(kind.labels)}


def _parse_cifar_python(kind: _Cifar, content: bytes) -> _Parsed:
    batch = _unpickled(content)
    labels = {key: batch[f"{start}labels"] for key, start in kind.labels.items()}
    return np.asarray(batch["data"], np.uint8), labels


def _cifar_names(files: Members, kind: _Cifar) -> dict[str, tuple[str, ...]]:
    texts = {key: kind.text.format(start) for key, start in kind.labels.items()}
    if all(text in files for text in texts.values()):
        return {k: tuple(text_of(files[t](), t).split()) for k, t in texts.items()}
    if kind.meta not in files:
        return {}
    with damage(f"{kind.meta} is not a CIFAR file"):
        content = _unpickled(files[kind.meta]())
        labels = kind.labels.items()
        return {key: tuple(content[f"{start}label_names"]) for key, start in labels}


def _unpickled(content: bytes) -> Any:
    return _Unpickler(io.BytesIO(content), encoding="latin1").load()


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
