"""A second network that an objective keeps in its extra parameters.

Its weights follow the main optimiser where it is trained; the rest of its variables
(BatchNorm's running statistics), and all of a network that is given, never move.
"""

import dataclasses
import functools
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrobust import models
from jaxrobust.array_types import Images, Key, Logits, PyTree, Variables
from jaxrobust.defenses import base
from jaxrobust.defenses.base import Params


@dataclasses.dataclass(frozen=True)
class SecondNetwork:
    """A network beside the first one.

    Attributes:
      model: a Linen module.
      name: of its variables in `params['extra']`, and of the argument that gave it.
      beside: the first network, which has as many classes.
      given: variables of a trained network, which stays as it is; None for one that is
        initialised and trained. The latter always runs in train mode, with BatchNorm's
        statistics of its batch: its running ones are not kept.
    """

    model: nn.Module
    name: str
    beside: nn.Module
    given: Variables | None = None

    def init(self, key: Key, variables: Variables, example: Images) -> PyTree:
        """Returns its variables, as `Defense.init`.

        Raises:
          ValueError: for a network that does not take such images, or has not the
            classes of the first one.
        """
        self._check(variables, example)
        if self.given is None:
            init = functools.partial(self.model.init, train=False)
            return {self.name: dict(jax.jit(init)(key, example))}
        # A training state that is donated holds no array twice.
        return {self.name: jax.tree.map(jnp.array, dict(self.given))}

    def labels(self, params: Params) -> PyTree:
        """Returns what moves, as `Defense.labels`."""
        own = {
            collection: jax.tree.map(lambda _, at=collection: self._label(at), tree)
            for collection, tree in params["extra"][self.name].items()
        }
        model = jax.tree.map(lambda _: "model", params["model"])
        return {"model": model, "extra": {self.name: own}}

    def logits(self, params: Params, x: Images, key: Key) -> Logits:
        """Runs it on images [B, H, W, C]; `key` is for dropout."""
        variables = params["extra"][self.name]
        trained = self.given is None
        dropout = jax.random.fold_in(key, 1) if trained else None
        return models.logits_fn(self.model, variables, trained, dropout)(x)

    def _check(self, variables: Variables, example: Images) -> None:
        init = functools.partial(self.model.init, train=False)

        def both(key: Key, given: Any, variables: Variables, x: Images) -> Any:
            own = init(key, x) if given is None else given
            second = models.logits_fn(self.model, own)(x)
            return second, models.logits_fn(self.beside, variables)(x)

        try:
            second, first = jax.eval_shape(
                both, jax.random.key(0), self.given, variables, example
            )
        except (flax.errors.FlaxError, TypeError, ValueError) as error:
            told = str(error).partition(" (https://")[0]
            raise ValueError(
                f"`{self.name}` does not take images {example.shape[1:]}: {told}"
            ) from None
        if second.shape != first.shape:
            raise ValueError(
                f"`{self.name}` has {second.shape[1]} classes, and the network beside "
                f"it {first.shape[1]}: give one of the same."
            )

    def _label(self, collection: str) -> str:
        trained = self.given is None and collection == "params"
        return "model" if trained else base.FROZEN
