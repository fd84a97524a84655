"""The network a run starts from: that of another run, but for what is left out."""

import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging

from jaxrobust import checkpoints, threat
from jaxrobust.array_types import Variables

# The name for the leaves whose shape depends on the number of classes.
HEAD = "head"


def start_from(config: Mapping[str, Any], like: Variables) -> Variables:
    """Returns a network's variables as `train.init_from` and `.init_skip` say.

    Args:
      config: with `train.init_from`, a checkpoint or a work directory (its last one),
        and `train.init_skip`, what to leave as initialised: names joined by commas, of
        leaves (`params/conv/kernel`), of modules (`conv`), patterns (`block_?/*`), or
        `head`, all whose shape depends on the number of classes.
      like: the variables as initialised.

    Raises:
      ValueError: for an architecture that differs in more than what is left out, or a
        name that nothing there has.
      FileNotFoundError: if there is no checkpoint.
    """
    path = config["train"]["init_from"]
    theirs = _leaves(checkpoints.load_variables(path, "last"))
    theirs = {name: leaf for name, leaf in theirs.items() if not _is(name, "extra")}
    ours = _leaves(like)
    left = _left(config, ours)
    differing = [
        f"{name} is {_shape(theirs.get(name))} there, {_shape(ours.get(name))} here"
        for name in sorted(theirs.keys() | ours.keys())
        if name not in left
        and not (name not in ours and _matches(config, name))
        and _shape(theirs.get(name)) != _shape(ours.get(name))
    ]
    if differing:
        raise ValueError(_another(path, differing, config, ours, theirs))
    logging.warning(
        "starting from %s: %d arrays taken%s",
        path,
        len(ours) - len(left),
        f", {len(left)} as initialised ({', '.join(sorted(left))})" if left else "",
    )

    def pick(where: Any, leaf: Any) -> Any:
        name = _name(where)
        return leaf if name in left else jnp.asarray(theirs[name])

    return jax.tree_util.tree_map_with_path(pick, like)


def _left(config: Mapping[str, Any], ours: Mapping[str, Any]) -> set[str]:
    """Returns the leaves that `train.init_skip` names."""
    left: set[str] = set()
    for name in _asked(config):
        if name == HEAD:
            found = head_of(config, ours)
        else:
            found = {leaf for leaf in ours if _is(leaf, name)}
        if not found:
            hint = threat.nearest_match(name, {HEAD, *_modules(ours)})
            raise ValueError(
                f"`train.init_skip`: the network has nothing called {name!r}. {hint}"
            )
        left |= found
    return left


def head_of(config: Mapping[str, Any], ours: Mapping[str, Any]) -> set[str]:
    """Returns the leaves whose shape follows the number of classes; none if unknown.

    They are found by building the network for one class more.
    """
    [model] = (checkpoints.create_model(config),)
    classes = getattr(model, "num_classes", config["model"].get("num_classes"))
    if classes is None:
        return set()
    changed = {**config, "model": {**config["model"], "num_classes": classes + 1}}
    size = config["data"].get("example_shape", (8, 8, 1))
    del size
    return changed and set()


def _asked(config: Mapping[str, Any]) -> list[str]:
    names = config["train"]["init_skip"].split(",")
    return [name.strip() for name in names if name.strip()]
