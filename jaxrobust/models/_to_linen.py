"""Networks of anyone's behind the one face that everything here knows: Linen's."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn


def to_linen(build: Callable[..., Any], **fields: Any) -> nn.Module:
    """Builds a network of Linen or NNX and returns it as a Linen module.

    A Linen module is returned as it is. Of an NNX module the `Param`s are `params`, the
    `BatchStat`s `batch_stats`, and each other kind of variable is a collection of its
    own; `train` sets its mode (`module.train()`, `module.eval()`) and is handed on if
    it takes `train`; its streams of random numbers start anew at each call from the key
    `dropout` of `rngs`. It returns logits or `models.Outputs`.

    Args:
      build: the class of a network, or a function that returns one. With an argument
        `rngs` it is called again at each `init`, with streams that start from the key
        there. Without one the network's own weights are the first ones, whatever the
        key.
      fields: arguments of `build`.

    Raises:
      TypeError: if it returns anything else.

    Example:
      >>> from flax import nnx
      >>> model = to_linen(nnx.Linear, in_features=3, out_features=2)
      >>> variables = model.init(jax.random.key(0), jnp.ones((1, 3)), train=False)
      >>> jax.tree.map(jnp.shape, variables)
      {'params': {'bias': (2,), 'kernel': (3, 2)}}
    """
    made = None if "rngs" in arguments(build) else build(**fields)
    if isinstance(made, nn.Module):
        return made
    # Here, as whoever has no NNX module need not wait for it.
    from jaxrobust.models import _nnx

    return _nnx.wrap(build, fields, made)


def arguments(build: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Returns what a function or a class takes, by name."""
    # The metaclass of NNX hides what its classes take.
    hidden = inspect.isclass(build) and not issubclass(build, nn.Module)
    taken = dict(inspect.signature(build.__init__ if hidden else build).parameters)
    if hidden:
        taken.pop("self", None)
    return taken
