"""What the files of a prepared set say, checked before TFDS follows them.

TFDS imports the modules that `features.json` names, and makes as many names and
records as the files declare.
"""

import os
import re
import sys
from collections.abc import Iterator
from typing import Any

from etils import epath

from jaxrobust.data._reading import text_of
from jaxrobust.runtime import reading

# TFDS's own features; protobuf takes both spellings of a field.
_FEATURE = re.compile(r"tensorflow_datasets\.core\.features\.[a-z_0-9]+\.[A-Za-z0-9_]+")
_CLASS = ("pythonClassName", "python_class_name")
# JSON inside JSON, and the format before protobuf: neither has array_record files.
_NESTED = ("jsonFeature", "json_feature", "pyExt", "py_ext")
_COUNTS = ("numClasses", "num_classes")
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
    if not isinstance(told, dict) or not any(key in told for key in _CLASS):
        raise ValueError(f"{where} does not describe a set's features.")
    for key, value in _pairs(told):
        if key in _NESTED:
            raise ValueError(f"{where} is in a form that is not read ({key}).")
        if key in _CLASS and not (isinstance(value, str) and _FEATURE.fullmatch(value)):
            raise ValueError(
                f"{where} names the feature {value!r}, which is not one of TFDS's own: "
                "it would be imported, and a file's code is not run."
            )
        if key in _COUNTS:
            _require_most(where, key, value, _MOST_CLASSES)
        if key == "dimensions":
            for one in value if isinstance(value, list) else [value]:
                _require_most(where, key, one, _MOST_PIXELS)
    for file in folder.iterdir():
        if file.name.endswith((".txt", ".json")):  # TFDS reads all of it
            # TFDS would go on without the names of classes that it cannot decode.
            text_of(reading.read_bytes(file, _MOST_BYTES), os.fspath(file))
        elif not file.is_dir():
            with reading.opened(file, sys.maxsize):  # a pipe would never end
                pass
    _check_records(folder)


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
