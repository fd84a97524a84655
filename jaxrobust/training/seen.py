"""The data a run was trained on, so that a resumed one sees what has changed.

A run keeps in its work directory what its training split held, and which images were
held out for validation. Weights have seen all others: an image that was held out must
never be trained on later, and one that was trained on never held out.
"""

import dataclasses
from collections.abc import Sequence
from typing import Self

import numpy as np
from absl import logging
from etils import epath
from jaxtyping import Int, UInt64

from jaxrobust import data
from jaxrobust.runtime import files, reading

FILE = "training_data.json"


@dataclasses.dataclass(frozen=True)
class Seen:
    """A training split and what of it was held out."""

    name: str  # of the data set
    examples: int  # how many images the split has
    digest: str  # of its content (`data.digest`)
    class_names: tuple[str, ...]  # in label order
    rows: Int[np.ndarray, "V"]  # those held out, while the content is the same
    held_out: UInt64[np.ndarray, "M"]  # images ever held out (`data.image_digests`)

    @classmethod
    def of(
        cls,
        name: str,
        source: data.Source,
        rows: Int[np.ndarray, "V"],
        before: Self | None = None,
    ) -> Self:
        """Describes a split whose `rows` are held out, as those `before` were."""
        held_out = data.image_digests(source, rows)
        if before is not None:
            held_out = np.union1d(held_out, before.held_out)
        digest = data.digest(source)
        return cls(name, len(source), digest, source.class_names, rows, held_out)

    def write(self, workdir: epath.PathLike) -> None:
        """Saves it in a work directory."""
        fields = dataclasses.asdict(self)
        # JSON has no 64-bit numbers for all its readers.
        fields["held_out"] = [f"{number:016x}" for number in self.held_out.tolist()]
        files.write_json(epath.Path(workdir) / FILE, fields)


def read(workdir: epath.PathLike) -> Seen | None:
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
        )
    except (ValueError, TypeError, KeyError, OverflowError):
        raise ValueError(
            f"{path} is damaged, so nothing tells whether the training data changed; "
            "put it back, or delete it to go on with the data that are there now."
        ) from None


def divide(
    source: data.Source, before: Seen, name: str, *, allowed: bool
) -> Int[np.ndarray, "V"]:
    """Returns the rows to hold out of the training split of a resumed run.

    The rows held out before; of data that changed, if that is `allowed`
    (`train.allow_changed_data`), the images held out before.

    Raises:
      ValueError: for changed data unless `allowed`; for other classes, or where none of
        the images held out before is left, in any case.
    """
    if data.digest(source) == before.digest:
        return before.rows
    what = (
        f"the training data of {name} are not those that this run was trained on: "
        f"{before.examples} images then, {len(source)} now"
        + "; others or in another order"
        * (before.examples == len(source))
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


def check_classes(
    source: epath.PathLike, class_names: Sequence[str], name: str
) -> None:
    """Compares classes of an evaluation with those that a network was trained on.

    `source` is its work directory, or the folder of a checkpoint in one. Where nothing
    tells the classes, nothing is said. A class that has another label than in training
    is a ValueError: every number would be wrong.
    """
    folder = files.expand(source)
    places = [folder, folder.parent.parent]  # of W/checkpoints/STEP
    found = (read(place) for place in places if (place / FILE).exists())
    before = next(found, None)
    now = tuple(class_names)
    if before is None or before.class_names == now:
        return
    if any(tuple(map(str, range(len(k)))) == k for k in (before.class_names, now)):
        return  # numbers, where a set has no names
    what = (
        f"the network in {source} was trained on the classes "
        f"{_some(before.class_names)} of {before.name}, and {name} has {_some(now)}"
    )
    label = {one: i for i, one in enumerate(before.class_names)}
    if any(label.get(one, i) != i for i, one in enumerate(now)):
        raise ValueError(
            f"{what}: the same class has another label, so every accuracy would be "
            "wrong. Give the classes the names, and so the order, that they had."
        )
    if len(now) == len(before.class_names):  # others are told elsewhere
        logging.warning("%s: they are taken for the same, one by one", what)


def _some(names: tuple[str, ...]) -> str:
    shown = ", ".join(map(repr, names[:5]))
    return f"{len(names)} ({shown}{', ...' * (len(names) > 5)})"
