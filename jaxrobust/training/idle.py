"""Fields of a config that are set, and that nothing in its run reads."""

import inspect
from collections.abc import Mapping
from typing import Any

from jaxrobust import defenses
from jaxrobust.training.config import base

# Of all objectives: the weights that `defenses.create` wraps them in.
_OF_ALL = ("name", "awp_gamma", "awp_warmup_epochs")


def told(config: Mapping[str, Any]) -> list[str]:
    """Returns a line for what has no effect on a training, where it is not the default.

    Fields of the objective that neither it nor the twin's takes, and a file of extra
    images of which no batch has any.
    """
    found, names = [], [config["objective"]["name"], config["twin"]]
    if unread := _unread(config["objective"], [name for name in names if name]):
        fields = ", ".join(f"objective.{field}" for field in unread)
        found.append(f"{fields}: no effect, objective {names[0]} takes no such option")
    extra, size = config["data"]["extra"], config["train"]["batch_size"]
    if extra["file"] and not round(extra["share"] * size):
        found.append(
            f"data.extra.file: no effect, data.extra.share {extra['share']:g} of "
            f"train.batch_size {size} is no image"
        )
    return found


def _unread(given: Mapping[str, Any], names: list[str]) -> list[str]:
    """Returns the fields that are set and that no objective of these names takes."""
    default: dict[str, Any] = base().objective.to_dict()
    taken: set[str] = set(_OF_ALL)
    for name in names:
        options = inspect.signature(defenses.factory(name)).parameters
        for option, parameter in options.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                return []
            steps = option.endswith("_steps")
            taken.add(f"{option[:-6]}_epochs" if steps else option)
    return [
        field
        for field, value in given.items()
        if field not in taken and value and value != default.get(field)
    ]
