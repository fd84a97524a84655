"""What lies in the folder `checkpoints` of a work directory, told without orbax."""

import difflib
import os
import stat
from collections.abc import Callable
from typing import Any, TypeVar

from absl import logging
from etils import epath

from jaxrobust.runtime import files, reading

BEST = {"best_clean": "accuracy", "best_robust": "robust_accuracy"}
WHICH = ("best_robust", "best_clean", "last")
_PATTERN = "*?[\\"  # orbax looks for its files with a glob
_Read = TypeVar("_Read")


class RefusedCheckpoint(ValueError):
    """A checkpoint that must not be followed; none is tried in its place."""


def usable(workdir: epath.PathLike) -> epath.Path:
    """Returns the full path of a work directory that checkpoints can be kept in.

    Raises:
      ValueError: for characters that orbax takes for patterns of names (it would save
        there and not find what it saved), bytes that are no text (it cannot open
        them), an empty path, or `~` without a home folder.
    """
    path = files.expand(workdir).absolute()
    odd = sorted(set(os.fspath(path)) & set(_PATTERN))
    if odd:
        raise ValueError(
            f"{path} has {' '.join(odd)} in its name, and checkpoints in such a folder "
            f"cannot be read again: use a path without any of {' '.join(_PATTERN)}."
        )
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{os.fspath(path)!a} is no text in UTF-8, and checkpoints cannot be "
            "written to such a folder: use another path."
        ) from None
    return path


def exists(workdir: epath.PathLike) -> bool:
    """Says whether there is anything for `checkpoints.load` in a folder."""
    path = files.expand(workdir)
    return any((path / name).is_dir() for name in ("variables", "checkpoints"))


def config_of(workdir: epath.PathLike) -> dict[str, Any]:
    """Returns the config of a run's newest checkpoint; empty where there is none."""
    folder = usable(workdir) / "checkpoints"
    if not folder.is_dir():
        return {}
    steps = ordered_steps(folder, "last")
    return read_part(folder / str(steps[0]), "config") if steps else {}


def has_steps(workdir: epath.PathLike) -> bool:
    """Says whether a run has saved anything in its work directory."""
    folder = epath.Path(workdir) / "checkpoints"
    return folder.is_dir() and any(p.name.isdigit() for p in folder.iterdir())


def check_there(path: epath.PathLike) -> None:
    """Raises FileNotFoundError where a path has no checkpoints and is none."""
    if not exists(path):
        raise FileNotFoundError(nothing_in(path))


def nothing_in(path: epath.PathLike) -> str:
    """Says that a folder has no checkpoints; a word may be one of `WHICH`, misspelt."""
    word = os.fspath(path)
    hint = "" if os.path.exists(word) else _hint(os.path.basename(word), cutoff=0.6)
    return f"no checkpoints in {word}; train there first. {hint}".strip()


def _hint(word: object, *, cutoff: float) -> str:
    """Asks for the nearest of `WHICH`; '' where none is near enough."""
    near = difflib.get_close_matches(str(word), WHICH, n=1, cutoff=cutoff)
    return f"Did you mean {near[0]!r}?" if near else ""


def check_which(which: str) -> None:
    """Raises ValueError unless `which` is one of `WHICH`."""
    if which not in WHICH:
        raise ValueError(
            f"`which` must be one of {', '.join(WHICH)}, got {which!r}. "
            f"{_hint(which, cutoff=0.0)}"
        )


def first_readable(
    workdir: epath.PathLike, which: str, read: Callable[[epath.Path], _Read]
) -> _Read:
    """Reads the checkpoint asked for, or where it is damaged the next best.

    Raises:
      ValueError: for an unknown `which`, a path that is not `usable`, or what `read`
        has `RefusedCheckpoint`.
      FileNotFoundError: if there is no checkpoint, or none can be read.
    """
    check_which(which)
    path = usable(workdir)
    folder, reason = path / "checkpoints", ""
    if (path / "variables").is_dir():
        folder, wanted = path.parent, [path.name]
    elif folder.is_dir():
        wanted = list(map(str, ordered_steps(folder, which)))
    else:
        raise FileNotFoundError(nothing_in(path))
    for name in wanted:
        try:
            return read(folder / name)
        except RefusedCheckpoint:
            raise
        except Exception as error:  # orbax raises many kinds for a damaged folder
            first = reading.first_line(error)[:200]
            logging.warning("checkpoint %s: %s", folder / name, first)
            reason = reason or f" ({first})"
    raise FileNotFoundError(f"no readable checkpoint in {folder}{reason}.")


def ordered_steps(folder: epath.Path, which: str) -> list[int]:
    """Returns the steps in a folder of checkpoints, the one asked for first."""
    # A checkpoint that is being written has a longer name until it is complete.
    names = [p.name for p in folder.iterdir() if p.name.isdecimal()]
    # What is not written as a number is written has another name than its step.
    steps = sorted(int(name) for name in names if name == str(int(name)))[::-1]
    if which == "last":
        return steps
    best = metric(BEST[which])
    found = {s: best(read_part(folder / str(s), "metrics", "metrics")) for s in steps}
    return sorted(steps, key=found.__getitem__, reverse=True)


def metric(name: str) -> Callable[[Any], float]:
    """Returns what reads an accuracy of a checkpoint; -1 where it has none."""

    def read(metrics: Any) -> float:
        value = (metrics or {}).get(name)
        return float(value) if isinstance(value, int | float) else -1.0

    return read


def read_part(step: epath.Path, part: str, file: str = "metadata") -> dict[str, Any]:
    """Reads one JSON part of a checkpoint; empty where it is missing or damaged."""
    try:
        return reading.read_json(step / part / file, kind=dict)
    except (OSError, ValueError):
        return {}


def size(folder: epath.Path) -> int:
    """Returns the bytes of the files below a folder; links to folders do not count.

    `RefusedCheckpoint` is a pipe, a socket or a device: reading it might never end.
    """
    whole = 0
    for place in folder.iterdir():
        if files.is_remote(place):
            whole += size(place) if place.is_dir() else place.stat().length
            continue
        found = os.stat(place)
        if stat.S_ISREG(found.st_mode):
            whole += found.st_size
        elif not stat.S_ISDIR(found.st_mode):
            kind = files.kind(found.st_mode)
            raise RefusedCheckpoint(f"checkpoint {place} is {kind}, not a file.")
        elif not os.path.islink(place):
            whole += size(place)
    return whole


def put_in_order(folder: epath.Path) -> None:
    """Empties metrics that were cut short: orbax's manager reads those of all steps.

    Raises:
      OSError: for a checkpoint that is a link: what it leads to might be deleted.
    """
    for step in folder.iterdir():
        for place in (step, step / "metrics"):
            if not files.is_remote(place) and os.path.islink(place):
                raise OSError(
                    f"{place} is a link, and checkpoints are not written through "
                    "links: replace it by the folder itself."
                )
    for step in folder.iterdir():
        file = step / "metrics" / "metrics"
        if not (step.name.isdigit() and file.exists()):
            continue
        try:
            reading.read_json(file, kind=dict)
        except (OSError, ValueError):
            logging.warning("checkpoint %s: its accuracies cannot be read", step)
            files.write_text(file, "{}")
