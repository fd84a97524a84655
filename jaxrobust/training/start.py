"""The network a run starts from: that of another run, but for what is left out."""

import fnmatch
from collections.abc import Mapping, Set
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import logging

from jaxrobust import checkpoints, models
from jaxrobust._checks import nearest_match
from jaxrobust.array_types import Images, Key, Variables
from jaxrobust.named_models import create_model

# The name for the leaves whose shape follows the number of classes.
HEAD = "head"
_Leaves = dict[str, Any]


def start_from(config: Mapping[str, Any], like: Variables, example: Images) -> Any:
    """Returns a network's variables as `train.init_from` and `.init_skip` say.

    The first is a checkpoint or a work directory (its last one). The second names what
    stays as in `like`, the variables as initialised, joined by commas: leaves
    (`params/conv/kernel`), modules (`conv`, `params/conv`), patterns of them
    (`block_*`), or `head`, all whose shape follows the number of classes. `example` are
    images [1, H, W, C], for shapes.

    Raises:
      ValueError: for an architecture that differs in more than what is left out, or a
        name that nothing has.
      FileNotFoundError: if there is no checkpoint.
    """
    path, names = config["train"]["init_from"], config["train"]["init_skip"].split(",")
    asked = [name.strip() for name in names if name.strip()]
    ours, theirs = _leaves(like), _leaves(checkpoints.load_variables(path))
    theirs = {name: leaf for name, leaf in theirs.items() if not _is(name, "extra")}
    head = head_of(config, example)
    left: set[str] = set()
    for name in asked:
        found = head if name == HEAD else {n for n in ours if _is(n, name)}
        if not found:
            modules = {leaf.split("/")[1] for leaf in ours if "/" in leaf}
            hint = nearest_match(name, {HEAD, *modules})
            raise ValueError(
                f"`train.init_skip`: the network has nothing called {name!r}. {hint}"
            )
        left |= found
    # What only the other network has, and is to be left out, is not asked for.
    passed = {n for n in theirs.keys() - ours.keys() if any(_is(n, a) for a in asked)}
    differing = {}
    for name in sorted((theirs.keys() | ours.keys()) - left - passed):
        there, here = _shape(theirs.get(name)), _shape(ours.get(name))
        if there != here:
            differing[name] = f"{name} is {there} there, {here} here"
    if differing:
        raise ValueError(_another(path, differing, head))
    logging.warning(
        "starting from %s: %d arrays taken%s",
        path,
        len(ours) - len(left),
        f"; as initialised: {', '.join(sorted(left))}" if left else "",
    )
    return jax.tree_util.tree_map_with_path(
        lambda where, leaf: leaf if (n := _name(where)) in left else theirs[n], like
    )


def head_of(config: Mapping[str, Any], example: Images) -> set[str]:
    """Returns the leaves whose shape follows the number of classes.

    They are found by a network that differs in `model.num_classes` alone; computes
    nothing. Empty for a network without such a field.
    """
    first, logits = _shapes(create_model(config), example)
    wider = {**config["model"], "num_classes": logits.shape[-1] + 1}
    try:
        second, _ = _shapes(create_model({"model": wider}), example)
    except TypeError:  # no such field
        return set()
    return {name for name, leaf in first.items() if second.get(name) != leaf}


def _shapes(model: nn.Module, example: Images) -> tuple[_Leaves, Any]:
    """Returns the shapes and dtypes of a network's variables and of its logits."""

    def both(key: Key, x: Images) -> tuple[Any, Any]:
        variables = model.init(key, x, train=False)
        return variables, models.logits_fn(model, variables)(x)

    variables, logits = jax.eval_shape(both, jax.random.key(0), example)
    return _leaves(variables), logits


def _leaves(tree: Any) -> _Leaves:
    return {_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _is(leaf: str, name: str) -> bool:
    """Says whether a name or pattern is a leaf's, or that of a module around it.

    The collection in front (`params`) may be left out.
    """
    parts = leaf.split("/")
    starts = [parts, parts[1:]]
    heads = {"/".join(s[:end]) for s in starts for end in range(1, len(s) + 1)}
    return any(fnmatch.fnmatchcase(head, name) for head in heads)


def _shape(leaf: Any) -> str:
    return "missing" if leaf is None else f"{tuple(jnp.shape(leaf))}"


def _another(path: str, differing: Mapping[str, str], head: Set[str]) -> str:
    shown = "; ".join(list(differing.values())[:3])
    more = f" (and {len(differing) - 3} more)" if len(differing) > 3 else ""
    advice = (
        "Give this config the same model fields, or name what is to start anew in "
        "--config.train.init_skip (head = the classifier)."
    )
    if differing.keys() <= head:
        advice = (
            "The classifier alone differs: --config.train.init_skip=head takes all but "
            "it, which starts anew."
        )
    return (
        f"`train.init_from` {path} holds another architecture than this config: "
        f"{shown}{more}. {advice}"
    )
