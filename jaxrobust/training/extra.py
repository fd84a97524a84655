"""Extra images in every batch: which rows, and that they stay those of the run."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from jaxrobust import data
from jaxrobust.parallel import processes
from jaxrobust.training.feed import ALL_OWN, Blend, streams
from jaxrobust.training.splits import Seen, check_test_split


def join(
    config: Mapping[str, Any], train_set: data.Source, record: Seen, before: Seen | None
) -> tuple[data.Source | data.Joined, Blend, bool, Seen]:
    """Adds the images of `data.extra` to those of a training set.

    Images among them that are held out, or to test on, are told.

    Args:
      config: of the run.
      train_set: its own images.
      record: what is to be remembered of them.
      before: what a run that goes on was trained on.

    Returns:
      All images, which of a batch are extra ones, whether all of them together are too
      many to live on the devices, and the record with that of the extra ones.

    Raises:
      ValueError: for images that do not fit, too few of them, or others than before.
    """
    fields = config["data"]["extra"]
    rows = round(fields["share"] * config["train"]["batch_size"])
    found, digest = None, ""
    if fields["file"] and rows:
        found = data.load_extra(fields["file"], train_set)
        digest = data.digest(found)
        processes.check_same("the extra images", lambda: digest)
    changed = before is not None and before.extra != digest
    if changed and not config["train"]["allow_changed_data"]:
        raise ValueError(
            "the extra images (data.extra) are not those that this run was trained "
            "with. Put them back, use another --workdir, or go on with them by "
            "--config.train.allow_changed_data=True."
        )
    if record.extra != digest:
        record = dataclasses.replace(record, extra=digest)
    if found is None:
        return train_set, ALL_OWN, False, record
    if len(found) < rows or rows == config["train"]["batch_size"]:
        raise ValueError(
            f"`data.extra.share` {fields['share']:g} asks for {rows} extra images of "
            f"{config['train']['batch_size']} in each batch, where there are "
            f"{len(found)}; at least one image must be the data set's own."
        )
    check_test_split(config, found)  # tells of test images among them
    known = np.isin(data.image_digests(found), record.held_out)
    if known.any():
        logging.warning(
            "%d of the extra images are held out for validation, so it says too much",
            known.sum(),
        )
    joined = data.Joined(train_set, found)
    streamed = streams(config["data"]["feed"], joined.nbytes)
    return joined, Blend(len(found), rows), streamed, record
