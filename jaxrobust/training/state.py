"""The training state: one pytree of arrays, all that a step changes."""

import functools
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from jaxrobust.array_types import Images, Key, PyTree, Variables
from jaxrobust.defenses.base import Defense
from jaxrobust.training.optimizer import Patience, Plateau


class Averaged(flax.struct.PyTreeNode):
    """A network whose statistics are averaged as its weights are."""

    params: PyTree
    model_state: PyTree


class TrainState(flax.struct.PyTreeNode):
    """Everything a step changes; arrays only."""

    step: Int[Array, ""]  # updates made so far
    params: PyTree  # `{"model": ..., "extra": a defence's own trainables}`
    model_state: PyTree  # the network's other collections (`batch_stats`)
    opt_state: optax.OptState
    ema_params: PyTree  # averaged `params["model"]`, `Averaged` of SWA, or None
    plateau: Plateau
    patience: Patience

    @property
    def variables(self) -> dict[str, Any]:
        """The network to evaluate: averaged weights where an average is kept."""
        params, model_state = self.ema_params, self.model_state
        if params is None:
            params = self.params["model"]
        elif isinstance(params, Averaged):
            params, model_state = params.params, params.model_state
        extra = {"extra": self.params["extra"]} if self.params["extra"] else {}
        return {"params": params, **model_state, **extra}


def init_variables(model: nn.Module, example: Images, key: Key) -> Variables:
    """Initialises a network on the shape and dtype of `example` [B, H, W, C]."""
    # One program is faster than eager initialisation, which compiles every small op; it
    # runs once, so optimising its many random draws would cost more than it gains.
    quickly = {"xla_backend_optimization_level": 0}
    init = functools.partial(model.init, train=False)
    return jax.jit(init, compiler_options=quickly)(key, example)


def create(
    variables: Variables,
    defense: Defense,
    tx: optax.GradientTransformation,
    example: Images,
    *,
    key: Key,
    ema: bool = False,
    swa: bool = False,
) -> TrainState:
    """Returns the state before the first step, with averages for `ema` or `swa`.

    A defence's own trainables start from `key`; `example` is an image, for shapes.
    """
    params = {
        "model": variables["params"],
        "extra": defense.init(jax.random.fold_in(key, 1), variables, example),
    }
    model_state = {k: v for k, v in variables.items() if k != "params"}
    averaged: Any = None
    if swa:
        averaged = Averaged(variables["params"], model_state)
    elif ema:
        averaged = variables["params"]
    return TrainState(
        step=jnp.int32(0),
        params=params,
        model_state=model_state,
        opt_state=tx.init(params),
        # A donated state must not hold one buffer twice, hence the copy.
        ema_params=jax.tree.map(jnp.copy, averaged),
        plateau=Plateau(),
        patience=Patience(),
    )
