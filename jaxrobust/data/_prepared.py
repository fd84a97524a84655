"""What the files of a prepared set say, checked before TFDS follows them.

TFDS imports the modules that `features.json` names, and makes as many names and
records as the files declare.
"""

import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import Any

from absl import logging
from etils import epath

from jaxrobust.data._reading import text_of
from jaxrobust.runtime import reading

# TFDS's features that are read, and the field that describes each. What else its
# `from_json` follows (`type`, `content` and `proto_cls` of the format before protobuf,
# JSON inside JSON) imports what it names, and has no array_record files.
_FEATURES = {
    f"tensorflow_datasets.core.features.{name}": content
    for name, content in {
        "features_dict.FeaturesDict": "featuresDict",
        "image_feature.Image": "image",
        "labeled_image.LabeledImage": "image",
        "class_label_feature.ClassLabel": "classLabel",
        "text_feature.Text": "text",
        "tensor_feature.Tensor": "tensor",
        "feature.Tensor": "tensor",
        "scalar.Scalar": "tensor",
        "bounding_boxes.BBoxFeature": "boundingBox",
        "sequence_feature.Sequence": "sequence",
        "dataset_feature.Dataset": "sequence",
    }.items()
}
_CLASS = "pythonClassName"
_BESIDE = frozenset({_CLASS, "description", "valueRange"})
_INSIDE = frozenset(
    {"shape", "dimensions", "dtype", "encoding", "encodingFormat", "useColormap"}
    | {"label", "numClasses", "minimum", "maximum", "optional", "bboxFormat"}
)
_MOST_CLASSES, _MOST_PIXELS = 1_000_000, 1 << 17
_MOST_BYTES = 64 * reading.MIB
# `NAME` or `NAME/CONFIG`, as TFDS writes them: no way out of the data directory.
_NAME = re.compile(r"\w[\w.+-]*(/\w[\w.+-]*)?")
_LONGEST_NAME = 200
_TEMPLATES = ("filepathTemplate", "filepath_template")


def check_name(name: str) -> None:
    """Raises ValueError unless a name can be that of a prepared set."""
    if len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
        raise ValueError(
            f"{name[:60]!r} cannot be the name of a prepared data set: give NAME or "
            "NAME/CONFIG of letters, digits, '_', '-', '+' and '.'."
        )


def check(folder: epath.Path) -> None:
    """Checks what describes a version of a set; nothing that it names is imported.

    Damaged and very large files are refused, features that are not TFDS's own, and what
    declares more than there can be.
    """
    where = folder / "features.json"
    told = reading.read_json(where, _MOST_BYTES)
    if not isinstance(told, dict) or not {_CLASS, "python_class_name"} & told.keys():
        raise ValueError(f"{where} does not describe a set's features.")
    _check_feature(where, told)
    for file in folder.iterdir():
        if file.name.endswith((".txt", ".json")):  # TFDS reads all of it
            # TFDS would go on without the names of classes that it cannot decode.
            text_of(reading.read_bytes(file, _MOST_BYTES), os.fspath(file))
        elif not file.is_dir():
            with reading.opened(file, sys.maxsize):  # a pipe would never end
                pass
    _check_records(folder)


def _check_feature(where: epath.Path, told: Any) -> None:
    """Checks that a feature, and those inside it, have known classes and fields only.

    Anything else is refused: what is not known here may be what TFDS imports.
    """
    fields = _fields(where, told)
    name = fields.pop(_CLASS, None)
    content = _FEATURES.get(name) if isinstance(name, str) else None
    if content is None:
        raise ValueError(
            f"{where} names the feature {str(name)[:80]!r}, which is none of TFDS's "
            "own that are read: it would be imported, and a file's code is not run."
        )
    for key, value in fields.items():
        if key in _BESIDE and isinstance(value, str):
            continue
        if key != content:
            raise _unknown(where, key)
        inside = _fields(where, value)
        if content == "featuresDict":
            _require_known(where, inside, {"features"})
            features = inside.get("features", {})
            if not isinstance(features, dict):
                raise _unknown(where, "features")
            for feature in features.values():
                _check_feature(where, feature)
        elif content == "sequence":
            _require_known(where, inside, {"feature", "length"})
            _require_most(where, "length", inside.get("length"), _MOST_PIXELS)
            _check_feature(where, inside.get("feature"))
        else:
            _check_content(where, inside)


def _check_content(where: epath.Path, fields: dict[str, Any]) -> None:
    """Checks what is said of a feature that has no others inside."""
    _require_known(where, fields, _INSIDE)
    for key, value in fields.items():
        if key == "numClasses":
            _require_most(where, key, value, _MOST_CLASSES)
        elif key == "dimensions":
            for one in value if isinstance(value, list) else [value]:
                _require_most(where, key, one, _MOST_PIXELS)
        elif isinstance(value, dict):
            _check_content(where, _fields(where, value))
        elif isinstance(value, list):
            raise _unknown(where, key)


def _fields(where: epath.Path, told: Any) -> dict[str, Any]:
    """Returns the fields of an object by the one of protobuf's two spellings."""
    if not isinstance(told, dict):
        raise ValueError(f"{where}: {str(told)[:40]!r} stands where a feature should.")
    fields = {
        re.sub("_([a-z])", lambda m: m[1].upper(), key): value
        for key, value in told.items()
    }
    if len(fields) < len(told):
        raise ValueError(f"{where} has a field twice, in two spellings.")
    return fields


def _require_known(where: epath.Path, fields: Iterable[str], known: Set[str]) -> None:
    for key in fields:
        if key not in known:
            raise _unknown(where, key)


def _unknown(where: epath.Path, key: str) -> ValueError:
    return ValueError(
        f"{where} has a field {key[:40]!r} that is not read: only what TFDS writes for "
        "image sets is, as its older forms import what they name."
    )


def check_names(names: Sequence[str], classes: int, where: epath.Path) -> None:
    """Compares the names of the classes, a line each, with how many classes there are.

    TFDS goes on with the numbers of the classes, without a word, where the file is not
    there, is empty or has another number of lines.
    """
    if not where.exists():
        logging.warning(
            "%s is not there: its classes are called 0 to %d", where, classes - 1
        )
        return
    text = text_of(reading.read_bytes(where, _MOST_BYTES), os.fspath(where))
    found = [line.strip() for line in text.split("\n") if line.strip()]
    if len(found) != classes or list(names) != found:
        raise ValueError(
            f"{where} names {len(found)} classes, and features.json says {classes}: "
            "write one line for each class, or delete the file to have them numbered."
        )


def _check_records(folder: epath.Path) -> None:
    """Checks that each record can have a byte, at least."""
    where = folder / "dataset_info.json"
    told = reading.read_json(where, _MOST_BYTES)
    splits = told.get("splits", []) if isinstance(told, dict) else None
    if not isinstance(splits, list):
        raise ValueError(f"{where} does not describe a data set.")
    room = sum(file.stat().length for file in folder.iterdir() if not file.is_dir())
    for key, value in _pairs(told):
        if key in _TEMPLATES and (not isinstance(value, str) or "/" in value):
            raise ValueError(
                f"{where}: {key} {str(value)[:60]!r} leads out of that folder."
            )
    for split in splits:
        lengths = split.get("shardLengths", []) if isinstance(split, dict) else []
        for length in lengths if isinstance(lengths, list) else [lengths]:
            _require_most(where, "shardLengths", length, room)


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    """Gives every field of nested JSON."""
    if isinstance(value, dict):
        yield from value.items()
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _pairs(inner)


def _require_most(where: epath.Path, key: str, value: Any, most: int) -> None:
    """Checks a number that protobuf writes as text."""
    try:
        fine = value is None or -1 <= int(value) <= most
    except (TypeError, ValueError):
        fine = False
    if not fine:
        raise ValueError(
            f"{where}: {key} is {str(value)[:40]}, at most {most} are read."
        )
