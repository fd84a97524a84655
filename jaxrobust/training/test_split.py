"""The test split is looked at before training, so that no training ends in an error."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from jaxrobust import data

_SHARED = 0.01  # a few images are in both splits of many published sets
_LOOKED_AT = 1000


def open_split(config: Mapping[str, Any], split: str) -> data.Source:
    """Opens the images of a split that `config.data` asks for, without reading them."""
    fields = config["data"]
    return data.open_source(
        fields["name"],
        split,
        image_size=fields["image_size"] or None,
        channels=fields["channels"],
        limit=fields[f"{split}_examples"] or None,
    )


def check_test_split(config: Mapping[str, Any], train_set: data.Source) -> None:
    """Checks that the test split is there and is of the kind of the training set.

    Opens it: of image files the headers are read, of a prepared set what describes it.

    Raises:
      FileNotFoundError: if the data are not there.
      ValueError: if there is no image in it, or its images or classes are not those of
        the training set; if that has a single class.
    """
    name = config["data"]["name"]
    if train_set.num_classes < 2:
        raise ValueError(
            f"{name} has one class only ({', '.join(train_set.class_names)}): there is "
            "nothing to tell apart."
        )
    test = open_split(config, "test")
    if not len(test):
        raise ValueError(f"the test split of {name} has no images.")
    if test.shape != train_set.shape:
        found = ["x".join(map(str, one.shape)) for one in (test, train_set)]
        same_size = test.shape[:2] == train_set.shape[:2]
        raise ValueError(
            f"the test images of {name} are {found[0]}, those to train on {found[1]}; "
            + (
                "--config.data.channels=3 makes all of them colour."
                if same_size
                else f"--config.data.image_size={train_set.shape[0]} makes them one."
            )
        )
    if test.class_names != train_set.class_names:
        raise ValueError(
            f"the test split of {name} has {test.num_classes} classes, the training "
            f"split {train_set.num_classes}, or they are called otherwise."
        )
    both = _shared(train_set, test)
    if both > _SHARED:
        logging.warning(
            "%s: %.0f%% of the test images are training images too, so the accuracies "
            "will say little of new ones",
            name,
            100 * both,
        )


def _shared(train_set: data.Source, test: data.Source) -> float:
    """The share of some test images that are, pixel by pixel, among those in memory."""
    if not isinstance(train_set, data.Dataset):  # it would be decoded for this alone
        return 0.0
    rows = np.unique(np.linspace(0, len(test) - 1, _LOOKED_AT).astype(int))
    images = data.image_digests(test, rows)
    return float(np.isin(images, data.image_digests(train_set)).mean())
