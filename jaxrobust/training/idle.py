"""Fields of a config that are set, and that nothing in its run reads."""

import inspect
from collections.abc import Mapping
from typing import Any

from jaxrobust import defenses, models, named_code
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
    if "name" in config["attack"]:
        found.append(
            f"attack.name {config['attack']['name']!r}: no effect, the attack of a "
            "training is objective.attack_name"
        )
    if unknown := _of_network(config["model"]):
        fields = ", ".join(f"model.{field}" for field in unknown)
        found.append(
            f"{fields}: no effect, {config['model']['name']} takes no such argument"
        )
    extra, size = config["data"]["extra"], config["train"]["batch_size"]
    if extra["file"] and not round(extra["share"] * size):
        found.append(
            f"data.extra.file: no effect, data.extra.share {extra['share']:g} of "
            f"train.batch_size {size} is no image"
        )
    return found


def _of_network(given: Mapping[str, Any]) -> list[str]:
    """Returns the fields that a network of the caller's own does not take.

    Those of ours are refused where they are built.
    """
    name = given["name"]
    if not named_code.names(name):
        return []
    taken = models.arguments(named_code.load("model", name))
    if any(one.kind is one.VAR_KEYWORD for one in taken.values()):
        return []
    return sorted(given.keys() - taken.keys() - {"name"})


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
