"""The networks of RobustBench's model zoo, from files of weights that you have.

    model, variables, entry = zoo.robustbench('Carmon2019Unlabeled', 'Carmon2019.pt')
    zoo.robustbench_names('cifar100', 'Linf')

The table robustbench.tsv has a row for each network of github.com/RobustBench's zoo
(commit 78fcc9e, March 2025): what it is, how its images are normalised, and where its
weights are. Nothing is downloaded.
"""

import dataclasses
import functools
import hashlib
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from etils import epath

from jaxrobust import convert, models
from jaxrobust._checks import check_choice, did_you_mean
from jaxrobust.array_types import Variables
from jaxrobust.zoo import networks

DATASETS = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}  # and their classes
THREATS = ("Linf", "L2", "corruptions")
_DRIVE = "https://drive.google.com/uc?id="


@dataclasses.dataclass(frozen=True)
class RobustBenchEntry:
    """What RobustBench knows of a network.

    Attributes:
      name: in its model zoo.
      dataset: one of `DATASETS`.
      threat: what it was trained against, one of `THREATS`.
      network: a short name of the architecture, see `networks.py`.
      mean: of the images' normalisation, None for none, () where only the file of
        weights says it (`robustbench` fills it in).
      std: likewise.
      images: RobustBench's preprocessing of ImageNet, such as `Res256Crop224`.
      source: where the weights are.
      state_dict: the entry of that file which holds them, '' for the usual ones.
      missing: why there is no such network here, '' where there is.
      sha256: of the file that was read; '' before.
    """

    name: str
    dataset: str
    threat: str
    network: str
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    images: str
    source: str
    state_dict: str
    missing: str
    sha256: str = ""

    @property
    def model(self) -> dict[str, Any]:
        """Name and fields of the network, for `models.create` and configs."""
        fields = networks.describe(self.network, DATASETS[self.dataset])
        return {**fields, "mean": self.mean, "std": self.std}


def robustbench_names(
    dataset: str = "cifar10", threat: str = "Linf", *, missing: bool = False
) -> tuple[str, ...]:
    """Returns the names of RobustBench's networks that can be loaded.

    Args:
      dataset: `cifar10`, `cifar100` or `imagenet`.
      threat: `Linf`, `L2` (`cifar10` only) or `corruptions`.
      missing: return those that cannot.
    """
    found = _entries(dataset, threat)
    return tuple(name for name, one in found.items() if bool(one.missing) == missing)


def robustbench_entry(
    name: str, dataset: str = "cifar10", threat: str = "Linf"
) -> RobustBenchEntry:
    """Returns what RobustBench knows of a network.

    Raises:
      ValueError: for an unknown name, data set or threat (with the nearest).
    """
    known = _entries(dataset, threat)
    if name not in known and (others := _elsewhere(name)):
        raise ValueError(
            f"{name!r} is no network of {dataset}, {threat}; it is one of "
            f"{' and of '.join(others)}: say `dataset` and `threat`."
        )
    if name not in known:
        raise ValueError(
            f"no network {name!r} of {dataset}, {threat}. {did_you_mean(name, known)} "
            "`zoo.robustbench_names` lists all."
        )
    return known[name]


def robustbench(
    name: str,
    path: epath.PathLike | None = None,
    dataset: str = "cifar10",
    threat: str = "Linf",
) -> tuple[nn.Module, Variables, RobustBenchEntry]:
    """Loads a network of RobustBench's model zoo from a file of its weights.

    A `.pt` file needs torch (`pip install 'jaxrobust[zoo]'`), which opens it with
    `weights_only=True`: nothing in it is run.

    Args:
      name: as in RobustBench, `Carmon2019Unlabeled`.
      path: the file of weights, or the folder that RobustBench keeps its files in
        (`models/` with `cifar10/Linf/NAME.pt`).
      dataset: as of `robustbench_names`, and so is `threat`.
      threat: see there.

    Returns:
      The model, its variables (ready for `models.logits_fn`: images in [0, 1]) and its
      entry, with the SHA-256 of the file.

    Raises:
      ValueError: for an unknown name (with the nearest), a network of a kind that is
        not here, no path (saying where the weights are), or a file of other weights.
      FileNotFoundError: if there is no such file.
      ImportError: if the file needs torch and it is not there.
    """
    entry = robustbench_entry(name, dataset, threat)
    if entry.missing:
        raise ValueError(
            f"{name!r} is {entry.missing}, which is no network of jaxrobust; load it "
            "with RobustBench itself, and see docs/coming_from/robustbench.md for its "
            "evaluation here."
        )
    if path is None:
        told = f"`path` must be the file with the weights of {name!r}"
        raise ValueError(f"{told}: {_how_to_get(entry)}")
    file = _file(pathlib.Path(os.fspath(path)), entry)
    entry = dataclasses.replace(entry, sha256=_checked_digest(file, entry))
    weights = convert.read(file, entry.state_dict or None).arrays
    try:
        if entry.mean == ():
            found = {"mean": None, "std": None, **convert.normalization_of(weights)}
            entry = dataclasses.replace(entry, **found)
        fields = dict(entry.model)
        model = models.create(fields.pop("name"), **fields)
        return model, convert.from_torch(model, weights), entry
    except ValueError as error:
        raise ValueError(f"{file} is not {name!r} ({entry.network}): {error}") from None


def _file(path: pathlib.Path, entry: RobustBenchEntry) -> pathlib.Path:
    """Returns the file of weights that a path, or RobustBench's folder, means."""
    if not path.is_dir():
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}: {_how_to_get(entry)}")
        return path
    below = pathlib.Path(entry.dataset, entry.threat, f"{entry.name}.pt")
    for place in (path / below, path / below.name):
        if place.is_file():
            return place
    raise FileNotFoundError(f"{path} has no {below}: {_how_to_get(entry)}")


def _how_to_get(entry: RobustBenchEntry) -> str:
    """Says where the weights are and how to come by them."""
    if entry.source.startswith(_DRIVE):
        number = entry.source.removeprefix(_DRIVE)
        return (
            f"it is on Google Drive, {entry.source} (`gdown {number} -O "
            f"{entry.name}.pt`, or RobustBench's `load_model`, which keeps it at "
            f"models/{entry.dataset}/{entry.threat}/{entry.name}.pt)."
        )
    return f"it is at {entry.source}."


def _checked_digest(file: pathlib.Path, entry: RobustBenchEntry) -> str:
    """Returns a file's SHA-256; ValueError where its source says another one."""
    with open(file, "rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    # Torch's own files end in the first digits of it, `resnet50-0676ba61.pth`.
    known = re.search(r"-([0-9a-f]{8})\.pth$", entry.source)
    if known and not found.startswith(known[1]):
        raise ValueError(
            f"{file} is not {entry.source}: its SHA-256 starts with {found[:8]}, not "
            f"{known[1]}; download it again."
        )
    return found


def _entries(dataset: str, threat: str) -> Mapping[str, RobustBenchEntry]:
    check_choice("dataset", dataset, DATASETS)
    check_choice("threat", threat, THREATS)
    if not (found := _table().get((dataset, threat))):
        raise ValueError(f"RobustBench has no networks for {threat} on {dataset}.")
    return found


def _elsewhere(name: str) -> list[str]:
    return [f"{d}, {t}" for (d, t), known in _table().items() if name in known]


@functools.cache
def _table() -> dict[tuple[str, str], dict[str, RobustBenchEntry]]:
    """Reads the rows: one tab between columns, `-` for nothing."""
    text = pathlib.Path(__file__).with_name("robustbench.tsv").read_text("utf-8")
    table: dict[tuple[str, str], dict[str, RobustBenchEntry]] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        row = ["" if cell == "-" else cell for cell in line.split("\t")]
        dataset, threat, name, network, normalization, images, file, missing = row
        source, _, state_dict = file.partition("#")
        if source and "/" not in source:
            source = _DRIVE + source
        mean, std = _channels(normalization)
        entry = RobustBenchEntry(
            *(name, dataset, threat, network, mean, std, images),
            *(source, state_dict, missing),
        )
        table.setdefault((dataset, threat), {})[name] = entry
    return table


Channels = tuple[float, ...]


def _channels(written: str) -> tuple[Channels | None, Channels | None]:
    """Reads `mean/std`, channels with commas; `file` where the weights say it."""
    if written in ("", "file"):
        return (None, None) if not written else ((), ())
    mean, std = (tuple(map(float, part.split(","))) for part in written.split("/"))
    return mean, std
