"""The test split is looked at before the first step."""

from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxrobust import data
from jaxrobust.training import config as common
from jaxrobust.training import setup
from jaxrobust.training.splits import check_test_split

RNG = np.random.default_rng(0)


def arrays(height=8, channels=1, classes=4) -> dict[str, Any]:
    return {
        f"{kind}_{split}": values
        for split in ("train", "test")
        for kind, values in (
            ("x", RNG.integers(0, 256, (40, height, 8, channels), np.uint8)),
            ("y", np.arange(40) % classes),
        )
    }


def config_of(path, **fields):
    made = common.base()
    made.data.name = f"npz:{path}"
    made.data.update(fields)
    return made


BAD = {
    "no test split": (lambda a: a.pop("x_test"), "no array 'x_test'"),
    "no test labels": (lambda a: a.pop("y_test"), "no array 'y_test'"),
    "no image": (
        lambda a: a.update(x_test=a["x_test"][:0], y_test=a["y_test"][:0]),
        "x_test has no images",
    ),
    "another size": (
        lambda a: a.update(x_test=a["x_test"][:, :6]),
        r"test images of .* are 6x8x1, .* 8x8x1; --config.data.image_size=8",
    ),
    "other channels": (
        lambda a: a.update(x_test=np.repeat(a["x_test"], 3, -1)),
        r"are 8x8x3, .* 8x8x1; --config.data.channels=3",
    ),
    "a label beyond the names": (
        lambda a: a.update(y_test=a["y_test"] + 2, class_names=np.array(list("abcd"))),
        "one of class_names each",
    ),
    "fewer labels": (
        lambda a: a.update(y_test=a["y_test"][1:]),
        "y_test must have shape",
    ),
    "one class": (
        lambda a: a.update(y_train=a["y_train"] * 0, y_test=a["y_test"] * 0),
        "one class only",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_refused(what, tmp_path):
    change, message = BAD[what]
    held = arrays()
    change(held)
    np.savez(tmp_path / "a.npz", **held)
    config = config_of(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=message):
        check_test_split(config, data.open_source(config.data.name))


def test_grey_and_colour_fit_as_colour(tmp_path, caplog):
    held = arrays()
    held["x_test"] = np.repeat(held["x_test"], 3, -1)
    np.savez(tmp_path / "a.npz", **held)
    config = config_of(tmp_path / "a.npz", channels=3, test_examples=50)
    found = data.open_source(config.data.name, channels=3)
    check_test_split(config, found)
    assert "50 examples of the test split asked for, it has 40" in caplog.text


@pytest.mark.parametrize(("shared", "told"), [(0, ""), (20, "50% of the test images")])
def test_test_images_that_are_trained_on_are_told(shared, told, tmp_path, caplog):
    held = arrays()
    held["x_test"][:shared] = held["x_train"][:shared]
    np.savez(tmp_path / "a.npz", **held)
    config = config_of(tmp_path / "a.npz")
    check_test_split(config, data.open_source(config.data.name))
    assert told in caplog.text
    assert bool(told) == bool(caplog.records)


def test_before_the_first_step(tmp_path, monkeypatch):
    held = arrays()
    del held["x_test"]
    np.savez(tmp_path / "a.npz", **held)
    config = config_of(tmp_path / "a.npz", validation_examples=8)
    config.model = ConfigDict({"name": "lenet5", "num_classes": 4})
    config.train.batch_size = 8
    monkeypatch.setattr(setup, "check_data", lambda *args: None)
    with pytest.raises(ValueError, match="no array 'x_test'"):
        setup.build(config.to_dict(), mesh=setup.parallel.make_mesh())
