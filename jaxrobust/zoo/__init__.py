"""Networks that this project trained, with every number of their evaluation.

    model, variables, card = zoo.load('digits_ssp_pgd')
    logits_fn = models.logits_fn(model, variables)
    x, y = zoo.images(card, 50)  # of its test set

Weights and cards come with the package; nothing is downloaded. Wherever a checkpoint
goes, `zoo:NAME` goes too: `--checkpoint zoo:digits_ssp_pgd`.

RobustBench's networks are loaded from files that you have, see `zoo.robustbench`.
"""

import hashlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from jaxrobust._checks import check_choice
from jaxrobust.array_types import Images, Labels, Variables
from jaxrobust.named_models import create_stored
from jaxrobust.runtime import reading, safetensors
from jaxrobust.zoo import card_files
from jaxrobust.zoo.card_files import Card as Card
from jaxrobust.zoo.leaderboard import RobustBenchEntry as RobustBenchEntry
from jaxrobust.zoo.leaderboard import robustbench as robustbench
from jaxrobust.zoo.leaderboard import robustbench_entry as robustbench_entry
from jaxrobust.zoo.leaderboard import robustbench_names as robustbench_names

PREFIX = "zoo:"
LARGEST = 1_500_000  # bytes of one file of weights
_ADVICE = "install jaxrobust again"


def names() -> tuple[str, ...]:
    """Returns the names of all networks."""
    return card_files.names(folder())


def card(name: str) -> Card:
    """Returns what is known of a network.

    Raises:
      ValueError: for an unknown name (with the nearest), or a damaged card.
    """
    check_choice("name", name, names())
    return card_files.read(card_files.path(folder(), name))


def load(name: str) -> tuple[nn.Module, Variables, Card]:
    """Loads a network.

    Returns:
      The model, its variables (ready for `models.logits_fn`) and its card.

    Raises:
      ValueError: for an unknown name (with the nearest), or a file that is damaged.
      FileNotFoundError: if the weights are not there.
    """
    about = card(name)
    path = weights_path(folder(), name)
    content = reading.read_bytes(path, LARGEST)
    if hashlib.sha256(content).hexdigest() != about.sha256:
        raise ValueError(f"{path} is not what its card says (sha256); {_ADVICE}.")
    try:
        flat = safetensors.decode(content)
        model = create_stored(about.config, str(path), [v.size for v in flat.values()])
        _check_arrays(model, flat, about)
    except ValueError as error:
        told = reading.first_line(error)
        told = told if str(path) in told else f"{path} {told}"
        raise ValueError(f"{told.rstrip('.')}; {_ADVICE}.") from None
    tree: Any = flax.traverse_util.unflatten_dict(flat, sep="/")
    return model, jax.tree.map(jnp.asarray, tree), about


def images(card: Card, examples: int = 0) -> tuple[Images, Labels]:
    """Returns test images of a network's data set, in [0, 1], and their labels.

    The first so many, 0 for all. A data set that is not here is an error that says how
    to get it; the digits come with scikit-learn.
    """
    from jaxrobust import data  # brings readers, which no network needs

    fields = card.config["data"]
    found = data.load(
        fields["name"],
        "test",
        image_size=fields["image_size"] or None,
        channels=fields["channels"],
        limit=examples or None,
    )
    return jnp.float32(found.images) / 255, jnp.int32(found.labels)


def named(checkpoint: epath.PathLike) -> str | None:
    """Returns NAME where a checkpoint is given as `zoo:NAME`; None for a path."""
    text = os.fspath(checkpoint)
    return text.removeprefix(PREFIX) if text.startswith(PREFIX) else None


def folder() -> pathlib.Path:
    """Returns where `cards/` and `weights/` are."""
    return pathlib.Path(__file__).parent


def weights_path(where: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the file of a network's weights in a folder like `folder()`."""
    return where / "weights" / f"{name}.safetensors"


def _check_arrays(
    model: nn.Module, flat: Mapping[str, np.ndarray], about: Card
) -> None:
    """Raises ValueError unless the arrays are those of the network, in float32.

    A defence's own trainables (`extra`) are no part of the network.
    """
    example = jax.ShapeDtypeStruct((1, *about.input_shape), jnp.float32)
    made: Any = jax.eval_shape(
        lambda key, x: model.init(key, x, train=False), jax.random.key(0), example
    )
    wanted: dict[str, Any] = flax.traverse_util.flatten_dict(made, sep="/")
    own = {k: v for k, v in flat.items() if not k.startswith("extra/")}
    for name in sorted(wanted.keys() ^ own.keys()):
        raise ValueError(f"{'lacks' if name in wanted else 'has a strange'} {name}")
    for name, leaf in wanted.items():
        if own[name].shape != leaf.shape:
            raise ValueError(f"{name} is {own[name].shape}, and must be {leaf.shape}")
    for name, array in flat.items():
        if array.dtype != np.float32:
            raise ValueError(f"{name} is of the kind {array.dtype}, and not float32")
