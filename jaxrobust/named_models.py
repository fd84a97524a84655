"""The network that a config describes: the caller's own config, or one from a file.

The caller's may name any function, which is imported and called. One from a file is
data: it may name networks of `models.names()`, with fields of a size that fits what was
stored; code of others runs only where the caller names it too.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrobust import models, named_code
from jaxrobust.array_types import LogitsFn
from jaxrobust.runtime import reading
from jaxrobust.runtime.checkpoint_folder import RefusedCheckpoint

# Fields that count blocks: each has weights of its own.
_COUNTS = ("blocks", "depth", "layers", "stages")
_SMALLEST = 1 << 16  # sizes up to here are never too large
# Nor are counts: `layers` of FPD stand in for a depth of up to 152.
_FEWEST = 200


def create_model(config: Mapping[str, Any]) -> nn.Module:
    """Builds the network that `config['model']` of the caller's own config describes.

    `name` is one of `models.names()` or `package.module:build`, a function that returns
    a network of Linen or NNX, see `models.to_linen`; it gets those of the other fields
    that it takes. An unknown name is a ValueError, an unknown field a TypeError.
    """
    fields = {k: _tuples(v) for k, v in config["model"].items() if k != "name"}
    name = config["model"]["name"]
    if ":" not in name:
        return models.create(name, **fields)
    build = named_code.load("model", name)
    accepted = models.arguments(build)
    if not any(p.kind is p.VAR_KEYWORD for p in accepted.values()):
        fields = {k: v for k, v in fields.items() if k in accepted}
    return models.to_linen(build, **fields)


def taken_by(name: str) -> dict[str, Any]:
    """Returns what a network of the caller's config takes, with defaults or None.

    Nothing where the name is not known, which is told where it is built.
    """
    try:
        if ":" not in name:
            return models.defaults(name)
        taken = models.arguments(named_code.load("model", name))
    except (ValueError, TypeError):
        return {}
    return {
        field: None if one.default is one.empty else one.default
        for field, one in taken.items()
        if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    }


def create_stored(
    config: Mapping[str, Any],
    where: str,
    sizes: Sequence[int],
    model_name: str | None = None,
) -> nn.Module:
    """Builds the network that a config from a file describes.

    Args:
      config: as it was read.
      where: it was read from, for errors.
      sizes: how many numbers each array holds that was stored beside it.
      model_name: code from outside jaxrobust that the caller names, too.

    Raises:
      RefusedCheckpoint: if the config names other code, or is no description of a
        network with these arrays.
    """
    fields = config.get("model")
    name = fields.get("name") if isinstance(fields, dict) else None
    if not isinstance(fields, dict) or not isinstance(name, str):
        raise RefusedCheckpoint(
            f"{where} is damaged: its config does not name a network."
        )
    if ":" in name and name != model_name:
        raise RefusedCheckpoint(
            f"{where} names the network {name!r}, which is code from outside "
            "jaxrobust, and a file's code is not run: if it is yours, give a config "
            f"with that model.name, or load(..., model_name={name!r}) from Python."
        )
    # What the caller's own code does not take is not built, whatever it says.
    built = taken_by(name) if ":" in name else fields
    for (field, *_), number in jax.tree_util.tree_leaves_with_path(fields):
        if field.key not in built or not isinstance(number, int | float):
            continue
        most = max(sum(sizes), _SMALLEST)
        if field.key in _COUNTS:
            most = max(len(sizes), _FEWEST)
        if abs(number) > most:
            raise RefusedCheckpoint(
                f"{where} is damaged: model.{field.key} is {number:.7g}, and its "
                f"weights are {len(sizes)} arrays of {sum(sizes)} numbers."
            )
    try:
        return create_model(config)
    except (ValueError, TypeError, AttributeError) as error:
        reason = reading.first_line(error)[:200]
        raise RefusedCheckpoint(
            f"{where}: its config describes no network ({reason})."
        ) from None


def count_classes(logits_fn: LogitsFn, shape: Sequence[int], name: str) -> int:
    """Returns the number of classes K that a network tells apart, computing nothing.

    `logits_fn` takes images `[1, H, W, C]` to logits `[1, K]` and is only traced;
    `shape` is `(H, W, C)` of the images of a data set `name`. ValueError is raised if
    it cannot take images of this size, or so many channels.
    """
    example = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    try:
        out = jax.eval_shape(logits_fn, example)
        if getattr(out, "ndim", 0) != 2:
            raise TypeError(f"it must return logits [B, K], and returns {out}")
        return out.shape[-1]
    except (ValueError, TypeError, flax.errors.FlaxError) as error:
        reason = reading.first_line(error).rstrip(".")
        advice = (
            " --config.data.image_size and --config.data.channels change the images."
            if re.search("shape|size|channel|dimension|pixel", reason)
            else ""
        )
        raise ValueError(
            f"the network does not take the {'x'.join(map(str, shape))} images "
            f"of {name}: {reason}.{advice}"
        ) from None


def _tuples(value: Any) -> Any:
    """Lists (from JSON) become tuples, which modules can hash."""
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
