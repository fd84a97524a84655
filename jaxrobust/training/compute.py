"""How training computes: in which precision, and what backward passes keep."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrobust import models
from jaxrobust.array_types import PyTree

DTYPES = ("float32", "bfloat16", "float64")


def state_dtype(config: Mapping[str, Any]) -> Any:
    """Returns the dtype of images, parameters, statistics and loss.

    float32, whatever the network computes in; float64 where `train.compute_dtype` says
    so, which tests of parity between devices need: ValueError if JAX has it turned off.
    """
    if config["train"]["compute_dtype"] != "float64":
        return jnp.float32
    if jax.dtypes.canonicalize_dtype(jnp.float64) != jnp.float64:
        raise ValueError(
            "`train.compute_dtype` float64 needs JAX's 64-bit mode: set the "
            "environment variable JAX_ENABLE_X64=1."
        )
    return jnp.float64


def cast(tree: PyTree, dtype: Any) -> PyTree:
    """Returns the tree with its floating arrays in `dtype`, the others as they are."""
    return jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def training_model(model: nn.Module, config: Mapping[str, Any]) -> nn.Module:
    """Returns the network as training runs it; its variables are the same.

    `train.compute_dtype` bfloat16 and `train.remat`, which computes blocks again in the
    backward pass (`models.layers.run_block`), are fields of `models.layers.Computing`
    in our networks. Another module needs a field `dtype` or `remat`. Modules that are
    fields of the network (the encoder of `models.fpd`) follow.

    Raises:
      ValueError: if neither the network nor a module inside it can, or as
        `state_dtype`.
    """
    train = config["train"]
    state_dtype(config)
    wanted: list[tuple[str, Any, str, str]] = []
    if train["compute_dtype"] == "bfloat16":
        told = "train.compute_dtype bfloat16", "use float32."
        wanted.append(("dtype", jnp.bfloat16, *told))
    if train["remat"]:
        told = "train.remat", "nothing would be computed again; set it to False."
        wanted.append(("remat", True, *told))
    for field, value, setting, hint in wanted:
        changed = models.computing_with(model, field, value)
        if changed is None:
            lacks = "blocks" if hasattr(model, "computing") else f"field `{field}`"
            raise ValueError(
                f"`{setting}`: {type(model).__name__} has no {lacks}; {hint}"
            )
        model = changed
    return model
