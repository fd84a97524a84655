"""The images of a run: which it trains on, which it holds out, which it is tested on.

A run keeps in its work directory what its training split held, and which images were
held out for validation. Weights have seen all others: an image that was held out must
never be trained on later, and one that was trained on never held out.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from etils import epath
from jaxtyping import Int, UInt64

from jaxrobust import data, zoo
from jaxrobust.runtime import files, reading
from jaxrobust.training.feed import streams

FILE = "training_data.json"
_SHARED = 0.01  # a few images are in both splits of many published sets
_LOOKED_AT = 1000


@dataclasses.dataclass(frozen=True)
class Seen:
    """A training split and what of it was held out."""

    name: str  # of the data set
    examples: int  # how many images the split has
    digest: str  # of its content (`data.digest`)
    class_names: tuple[str, ...]  # in label order
    rows: Int[np.ndarray, "V"]  # those held out, while the content is the same
    held_out: UInt64[np.ndarray, "M"]  # images ever held out (`data.image_digests`)
    extra: str = ""  # digest of the extra images, '' for none

    def write(self, workdir: epath.PathLike) -> None:
        """Saves it in a work directory."""
        fields = dataclasses.asdict(self)
        # JSON has no 64-bit numbers for all its readers.
        fields["held_out"] = [f"{number:016x}" for number in self.held_out.tolist()]
        files.write_json(epath.Path(workdir) / FILE, fields)


def read_seen(workdir: epath.PathLike) -> Seen | None:
    """Returns what the run of a work directory was trained on, None if unknown."""
    path = epath.Path(workdir) / FILE
    if not path.exists():
        return None
    try:
        fields = reading.read_json(path, kind=dict)
        return Seen(
            name=str(fields["name"]),
            examples=int(fields["examples"]),
            digest=str(fields["digest"]),
            class_names=tuple(map(str, fields["class_names"])),
            rows=np.asarray(fields["rows"], np.int64).reshape(-1),
            held_out=np.asarray([int(n, 16) for n in fields["held_out"]], np.uint64),
            extra=str(fields.get("extra", "")),
        )
    except (ValueError, TypeError, KeyError, OverflowError):
        raise ValueError(
            f"{path} is damaged, so nothing tells whether the training data changed; "
            "put it back, or delete it and add --config.train.allow_changed_data=True "
            "to go on with the data that are there now."
        ) from None


def seen_of(source: epath.PathLike) -> Seen | None:
    """Returns what a network was trained on, None if unknown.

    `source` is its work directory, or the folder of a checkpoint in one.
    """
    folder = files.expand(source)
    # Of W, or of W/checkpoints/STEP.
    return read_seen(folder) or read_seen(folder.parent.parent)


def require_record(workdir: epath.PathLike, *, allowed: bool) -> None:
    """Raises ValueError for a run that goes on without the record of its data.

    Where that is `allowed` (`train.allow_changed_data`), what it means is told.
    """
    what = (
        f"{workdir} has checkpoints and no {FILE}, so nothing tells which images were "
        "held out for validation, nor whether the training data changed"
    )
    if not allowed:
        raise ValueError(
            f"{what}. Put that file back, use another --workdir, or go on by "
            "--config.train.allow_changed_data=True: the same data and seed hold out "
            "the same images, of others some that were trained on may be held out now."
        )
    logging.warning(
        "%s; images are held out as at a first start: of data that changed some were "
        "trained on, and validation may say too much",
        what,
    )


def hold_out(
    source: data.Source, wanted: int, seed: int, init_from: str, *, streamed: bool
) -> Int[np.ndarray, "V"]:
    """Returns the rows to hold out of the training split of a new run.

    Where it starts from another network (`train.init_from`), those that were held out
    there as far as there are such: what that network was trained on would be validated
    on here. What of that is left, or cannot be told, is told.
    """
    rows = data.validation_rows(source, wanted, seed)
    if not init_from:
        return rows
    before = seen_of(init_from)
    same = before is not None and data.digest(source) == before.digest
    if before is None or (streamed and not same):
        logging.warning(
            "%s does not tell that the images held out here were not trained on there "
            "(%s): if they were, validation says too much",
            init_from,
            f"no {FILE}" if before is None else "other data, or in another order",
        )
        return rows
    kept = before.rows
    if not same:
        kept = np.flatnonzero(np.isin(data.image_digests(source), before.held_out))
    if len(kept) > wanted:
        return kept[data.validation_rows(source.take(kept), wanted, seed)]
    if len(kept) == wanted:
        return kept
    others = len(np.setdiff1d(rows, kept))
    logging.warning(
        "%d of the %d images held out here %s by the network of %s, so validation says "
        "too much; use the same data, seed and --config.data.validation_examples=%d",
        others,
        wanted,
        "were trained on" if same else "may have been trained on",
        init_from,
        len(before.rows),
    )
    return rows


def divide(
    source: data.Source, before: Seen, name: str, *, allowed: bool
) -> Int[np.ndarray, "V"]:
    """Returns the rows to hold out of the training split of a resumed run.

    The rows held out before; of data that changed, if that is `allowed`
    (`train.allow_changed_data`), the images held out before. Other classes, and data
    where none of those is left, are a ValueError in any case.
    """
    if data.digest(source) == before.digest:
        return before.rows
    others = "; others or in another order" * (before.examples == len(source))
    what = (
        f"the training data of {name} are not those that this run was trained on: "
        f"{before.examples} images then, {len(source)} now{others}"
    )
    if source.class_names != before.class_names:
        raise ValueError(
            f"{what}, and the classes differ: {_some(before.class_names)} then, "
            f"{_some(source.class_names)} now. Put them back, or use another --workdir."
        )
    if not allowed:
        raise ValueError(
            f"{what}. Put them back, use another --workdir, or go on with them by "
            "--config.train.allow_changed_data=True (images that were held out for "
            "validation stay held out)."
        )
    rows = np.flatnonzero(np.isin(data.image_digests(source), before.held_out))
    if not 0 < len(rows) < len(source):
        raise ValueError(
            f"{what}, and {len(rows)} of them were held out for validation: there must "
            "be some, and some to train on. Use another --workdir."
        )
    logging.warning(
        "%s; the %d images that were held out before stay held out", what, len(rows)
    )
    return rows


def load_train(
    config: Mapping[str, Any], before: Seen | None = None
) -> tuple[data.Source, data.Dataset, bool, Seen]:
    """Opens the training split of a run, or of one that goes on from `before`.

    Returns:
      The images to train on, left on disk where they stream; the slice held out for
      validation, in memory; whether the former stream (`data.feed`); and what to
      remember of them. Data that changed since (`divide`), or too few, are refused.
    """
    fields = config["data"]
    found = open_split(config, "train")
    streamed = streams(fields["feed"], found.nbytes)
    found = found if streamed else found.load()
    wanted = fields["validation_examples"]
    if before is not None:
        allowed = config["train"]["allow_changed_data"]
        rows = divide(found, before, fields["name"], allowed=allowed)
    elif wanted < len(found):
        start = config["train"]["init_from"]
        rows = hold_out(found, wanted, config["seed"], start, streamed=streamed)
    else:
        raise ValueError(
            f"`data.validation_examples` must be below the {len(found)} training "
            f"images of {fields['name']}, got {wanted}; set "
            "--config.data.validation_examples."
        )
    train_set, held_out = data.divide(found, rows)
    held_out = held_out.load()
    if before is None or rows is not before.rows:
        held = data.image_digests(found, rows)
        if before is not None:  # what was ever held out stays so
            held = np.union1d(held, before.held_out)
        names, digest = found.class_names, data.digest(found)
        before = Seen(fields["name"], len(found), digest, names, rows, held)
    return train_set, held_out, streamed, before


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
        way = f"image_size={train_set.shape[0]} makes them one"
        if test.shape[:2] == train_set.shape[:2]:
            way = "channels=3 makes all of them colour"
        raise ValueError(
            f"the test images of {name} are {found[0]}, those to train on {found[1]}; "
            f"--config.data.{way}."
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


def _classes_of(source: epath.PathLike) -> tuple[tuple[str, ...], str]:
    """Returns the classes that a network was trained on, and the name of that set."""
    if (shipped := zoo.named(source)) is not None:
        card = zoo.card(shipped)
        return tuple(card.class_names), card.data
    seen = seen_of(source)
    return (seen.class_names, seen.name) if seen else ((), "")


def check_classes(
    source: epath.PathLike, class_names: Sequence[str], name: str
) -> None:
    """Compares classes of an evaluation with those that a network was trained on.

    `source` is its work directory, the folder of a checkpoint in one, or `zoo:NAME`.
    Where nothing tells the classes, nothing is said. A class that has another label
    than in training is a ValueError: every number would be wrong.
    """
    before, trained_on = _classes_of(source)
    now = tuple(class_names)
    if not before or before == now:
        return
    if any(tuple(map(str, range(len(k)))) == k for k in (before, now)):
        return  # numbers, where a set has no names
    what = (
        f"the network in {source} was trained on the classes {_some(before)} of "
        f"{trained_on}, and {name} has {_some(now)}"
    )
    label = {one: i for i, one in enumerate(before)}
    if any(label.get(one, i) != i for i, one in enumerate(now)):
        raise ValueError(
            f"{what}: the same class has another label, so every accuracy would be "
            "wrong. Give the classes the names, and so the order, that they had."
        )
    if len(now) == len(before):  # others are told elsewhere
        logging.warning("%s: they are taken for the same, one by one", what)


def _some(names: tuple[str, ...]) -> str:
    shown = ", ".join(map(repr, names[:5]))
    return f"{len(names)} ({shown}{', ...' * (len(names) > 5)})"
