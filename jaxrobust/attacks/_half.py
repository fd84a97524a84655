"""Images of half precision: attacked in float32, rounded towards the image."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust import threat
from jaxrobust.array_types import Images
from jaxrobust.attacks._objective import OnInput, Problem


def widened(problem: Problem) -> Problem:
    """The problem in float32 where images have half precision.

    The model is asked about images as they will be returned: rounded towards the clean
    ones, so that they are in the ball. The gradient passes by the rounding.
    """
    x, logits_fn, loss = problem.x, problem.logits_fn, problem.loss
    start = problem.x_init
    dtype = threat.wide_dtype(x.dtype)
    if x.dtype == dtype:
        return problem

    def rounded(z: Images) -> Images:
        fixed = jax.lax.stop_gradient(z)
        return threat.towards(fixed, x) + (z - fixed).astype(x.dtype)

    if isinstance(loss, OnInput):
        own = loss.fn
        loss = OnInput(lambda z, y: own(rounded(z), y))
    return dataclasses.replace(
        problem,
        logits_fn=lambda z, *keys: logits_fn(rounded(z), *keys),
        loss=loss,
        x=x.astype(dtype),
        x_init=None if start is None else jnp.asarray(start).astype(dtype),
    )


def narrowed(result: Any, x: Images) -> Any:
    """Images of a result in the dtype of the clean ones; see `widened`."""
    if x.dtype == threat.wide_dtype(x.dtype):
        return result
    return jax.tree.map(
        lambda leaf: threat.towards(leaf, x) if leaf.shape == x.shape else leaf, result
    )
