"""A prepared set of somebody else's: TFDS follows only what may be followed."""

import json
import os
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from jaxrobust import data
from jaxrobust.data import _tfds, prepare


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Prepares a small set once; returns its data directory and its folder."""
    root = tmp_path_factory.mktemp("prepared")
    for split in ("train", "test"):
        for label in ("a", "b"):
            place = root / "images" / split / label
            place.mkdir(parents=True)
            Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(place / "0.png")
    return root, prepare.prepare("toy", data_dir=root, source=root / "images")


@pytest.fixture
def rewrite(prepared):
    """Returns a function that changes a file of the set; it is as it was after."""
    root, folder = prepared
    kept = {
        p: p.read_bytes() for p in folder.iterdir() if p.suffix in (".json", ".txt")
    }

    def change(name, changes):
        file = folder / name
        file.write_text(changes(file.read_text()))
        return lambda: data.load("tfds:toy", data_dir=root)

    yield change
    for file, content in kept.items():
        file.write_bytes(content)


IMAGE = "tensorflow_datasets.core.features.image_feature.Image"


def feature(name, field="pythonClassName"):
    return lambda text: text.replace(
        f'"pythonClassName": "{IMAGE}"', f'"{field}": "{name}"'
    )


def beside(**more):
    return lambda text: json.dumps({**json.loads(text), **more})


def inside(**more):
    def change(text):
        told = json.loads(text)
        told["featuresDict"]["features"]["image"] |= more
        return json.dumps(told)

    return change


BAD = {
    "a module": ("features.json", feature("evil_module.Image")),
    "a module in the other spelling": (
        "features.json",
        feature("evil_module.Image", "python_class_name"),
    ),
    "a module beside": ("features.json", feature(f"evil_module.{IMAGE}")),
    "another module of TFDS": ("features.json", feature("tensorflow_datasets.x.Y")),
    "no name": ("features.json", feature(1)),
    "the old form": (
        "features.json",
        lambda text: json.dumps({"type": "evil_module.X", "content": {}}),
    ),
    "the old form beside": (
        "features.json",
        beside(type="evil_module.X", content={}),
    ),
    "the old form beside, inside": ("features.json", inside(type="evil_module.X")),
    "protobuf's old form": ("features.json", inside(proto_cls="evil_module.X")),
    "a test of TFDS": (
        "features.json",
        feature("tensorflow_datasets.core.features.image_feature_test.ImageFeature"),
    ),
    "another feature's content": ("features.json", inside(text={})),
    "a feature in an image": (
        "features.json",
        inside(image={"feature": {"pythonClassName": "evil_module.X"}}),
    ),
    "both spellings": ("features.json", inside(python_class_name=IMAGE)),
    "JSON inside": (
        "features.json",
        beside(jsonFeature={"json": '{"type": "evil_module.X"}'}),
    ),
    "no JSON": ("features.json", lambda text: text[:40]),
    "a list": ("features.json", lambda text: "[]"),
    "a number": ("features.json", lambda text: "3"),
    "classes without end": (
        "features.json",
        lambda text: text.replace('"numClasses": "2"', '"numClasses": "1000000000"'),
    ),
    "a huge image": (
        "features.json",
        lambda text: text.replace('"4"', '"4000000000"', 1),
    ),
    "deep": ("features.json", lambda text: "[" * 9999),
    "records without end": (
        "dataset_info.json",
        lambda text: text.replace('"2"', '"2000000000000"'),
    ),
    "no set": ("dataset_info.json", lambda text: "[1]"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_description_that_is_not_followed(kind, rewrite, tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text("import os\nos._exit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    load = rewrite(*BAD[kind])
    with pytest.raises(ValueError, match=r"features\.json|dataset_info\.json"):
        load()
    assert "evil_module" not in sys.modules


def test_one_that_is(prepared):
    root, _ = prepared
    assert len(data.load("tfds:toy", data_dir=root)) == 2


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", "x/", "a\0b", "a" * 999])
def test_a_name_stays_in_the_data_directory(name, tmp_path):
    with pytest.raises(ValueError, match="cannot be the name of a prepared data set"):
        data.load(f"tfds:{name}", data_dir=tmp_path)


def test_records_lie_in_the_folder_of_the_set(rewrite):
    load = rewrite(
        "dataset_info.json",
        lambda text: text.replace('"{DATASET}', '"../../{DATASET}'),
    )
    with pytest.raises(ValueError, match=r"dataset_info\.json.*leads out of"):
        load()


def test_names_of_classes_that_are_no_text_are_told(prepared, rewrite):
    load = rewrite("label.labels.txt", lambda text: text)
    (prepared[1] / "label.labels.txt").write_bytes(b"a\n\xff\n")
    with pytest.raises(ValueError, match=r"label\.labels\.txt.*UTF-8"):
        load()


@pytest.mark.parametrize("lines", ["", "\n\n", "a\n", "a\nb\nc\n"])
def test_another_number_of_names_than_of_classes(lines, rewrite):
    load = rewrite("label.labels.txt", lambda text: lines)
    with pytest.raises(ValueError, match=r"label\.labels\.txt names \d classes, and"):
        load()


def test_classes_without_names_are_told(prepared, tmp_path, caplog):
    root, folder = prepared
    shutil.copytree(root / "toy", tmp_path / "toy")
    (tmp_path / "toy" / folder.name / "label.labels.txt").unlink()
    assert data.load("tfds:toy", data_dir=tmp_path).class_names == ("0", "1")
    assert "label.labels.txt is not there: its classes are called 0 to 1" in caplog.text


@pytest.mark.parametrize("name", ["label.labels.txt", "toy-train.array_record*"])
def test_a_pipe_is_not_waited_for(name, prepared, tmp_path):
    root, folder = prepared
    shutil.copytree(root / "toy", tmp_path / "toy")
    [file] = (tmp_path / "toy" / folder.name).glob(name)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(ValueError, match=f"{file.name} is a named pipe"):
        data.load("tfds:toy", data_dir=tmp_path)


@pytest.mark.parametrize("name", ["lr=[0.1]", "a*?"])
def test_a_data_directory_is_no_pattern(name, prepared, tmp_path):
    root, _ = prepared
    shutil.copytree(root / "toy", tmp_path / name / "toy")
    assert len(data.load("tfds:toy", data_dir=tmp_path / name)) == 2


def test_the_test_split_of_imagenet_has_no_labels():
    """TFDS 5.1.0 stores it with labels of -1, beside a validation split."""
    for name in ("imagenet2012", "imagenet2012/5.1.0"):
        assert _tfds._splits(name, "test")[0] == "validation"
        assert _tfds._splits(name, "train") == ("train",)
    assert _tfds._splits("toy", "test")[0] == "test"
