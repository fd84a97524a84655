"""Networks that compute as others do, in another precision."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrobust.array_types import LogitsFn
from jaxrobust.models._outputs import Apply
from jaxrobust.models.layers import Module


def computing_with(model: nn.Module, field: str, value: Any) -> nn.Module | None:
    """Returns a copy that computes with `field` set wherever there is one, else None.

    That is a part of `models.Computing` in our networks, a field of this name in other
    modules. Modules that are fields of the network (the encoder of `models.fpd`)
    follow. The variables are the same.
    """
    names = {f.name for f in dataclasses.fields(model) if f.init} - {"parent", "name"}
    new: dict[str, Any] = {}
    if isinstance(model, Module):
        if field != "remat" or model.recomputes:
            new["computing"] = dataclasses.replace(model.computing, **{field: value})
    elif field in names:
        new[field] = value
    for name in names:
        inner = getattr(model, name)
        if isinstance(inner, nn.Module):
            changed = computing_with(inner, field, value)
            if changed is not None:
                new[name] = changed
    return model.clone(**new) if new else None


def in_bfloat16(logits_fn: LogitsFn) -> LogitsFn:
    """Returns what `models.logits_fn` made, computing in bfloat16; others as they are.

    Images, variables and logits stay float32. So does the whole of a module that has
    neither `models.Computing` nor a field `dtype`, and of any other function.
    """
    made = isinstance(logits_fn, jax.tree_util.Partial)
    if not made or not isinstance(logits_fn.func, Apply):
        return logits_fn
    apply = logits_fn.func
    model = computing_with(apply.model, "dtype", jnp.bfloat16)
    if model is None:
        return logits_fn
    return jax.tree_util.Partial(
        dataclasses.replace(apply, model=model), *logits_fn.args
    )
