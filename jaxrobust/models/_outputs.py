"""What every network returns, and networks as functions of images."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.errors
import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust.array_types import Images, Key, Logits, Variables


@flax.struct.dataclass
class Outputs:
    """What a network returns.

    Attributes:
      logits: `[B, K]`, float32 or wider.
      features: named inner values; `penultimate` is `[B, D]`.
      restored: the restored images `[B, H, W, C]` of networks that make them.
    """

    logits: Logits
    features: dict[str, Array] = flax.struct.field(default_factory=dict)
    restored: Images | None = None


# What Flax raises where weights are not those that the network asks for.
_MISFITS = (
    flax.errors.ScopeParamShapeError,
    flax.errors.ScopeParamNotFoundError,
    flax.errors.ScopeCollectionNotFound,
    flax.errors.ScopeVariableNotFoundError,
)


@dataclasses.dataclass(frozen=True)
class Apply:
    """`model.apply` as a function of arrays; equal for equal models and modes."""

    model: nn.Module
    train: bool

    def __call__(
        self, variables: Variables, key: Key | None, x: Images, keys: Key | None = None
    ) -> Logits:
        try:
            return self._logits(variables, key, x, keys)
        except _MISFITS as error:
            raise ValueError(self._misfit(variables, x, error)) from error

    def _logits(
        self, variables: Variables, key: Key | None, x: Images, keys: Key | None
    ) -> Logits:
        if keys is not None:
            if getattr(self.model, "takes_keys", False):  # of a whole batch
                out = self.model.apply(variables, x, keys, train=False)
                return as_outputs(out).logits
            return self._per_example(variables, x, keys)
        rngs = {} if key is None else {"dropout": key}
        if not self.train:
            out = self.model.apply(variables, x, train=False, rngs=rngs)
            return as_outputs(out).logits
        state = [name for name in variables if name != "params"]
        out, _ = self.model.apply(variables, x, train=True, mutable=state, rngs=rngs)
        return as_outputs(out).logits

    def _misfit(self, variables: Variables, x: Images, error: Exception) -> str:
        """Says that network, weights and images do not go together."""
        told = f"`variables` do not fit {type(self.model).__name__} and images `x` of "
        told += f"shape {x.shape}: "
        if "params" not in variables:
            return (
                f"{told}they hold {', '.join(sorted(variables)) or 'nothing'}, and no "
                "`params`. Give all that `init` returned, {'params': ...}."
            )
        if isinstance(error, flax.errors.ScopeCollectionNotFound):
            return (
                f"{told}they hold {', '.join(sorted(variables))} alone. Give all that "
                "`init` returned, its other collections too."
            )
        return (
            f"{told}{str(error).partition(' (https')[0].rstrip('. ')}. They are of "
            "other fields of the network, or of images of another size or number of "
            "channels."
        )

    def _per_example(self, variables: Variables, x: Images, keys: Key) -> Logits:
        if self.train and "batch_stats" in variables:
            raise ValueError(
                "`keys` per example need train=False: batch statistics are of a batch."
            )
        return jax.vmap(lambda row, key: self(variables, key, row[None])[0])(x, keys)


def as_outputs(out: Any) -> Outputs:
    """Returns what a network returned, `Outputs` or bare logits, as `Outputs`.

    Logits in half precision, of a network of anyone's, become float32.
    """
    if not isinstance(out, Outputs):
        out = Outputs(out, {}, None)
    if getattr(out.logits, "dtype", None) in (jnp.bfloat16, jnp.float16):
        out = dataclasses.replace(out, logits=out.logits.astype(jnp.float32))
    return out


def logits_fn(
    model: nn.Module, variables: Variables, train: bool = False, key: Key | None = None
) -> jax.tree_util.Partial:
    """Returns `x [B, H, W, C] -> logits [B, K]`, as attacks take it.

    The result is a pytree whose leaves are `variables` and `key`, and equal in all
    else for equal `model` and `train`: as an argument of a jitted function it neither
    recompiles nor goes stale when weights change.

    Args:
      model: any Linen module with `model.apply(variables, x, train=...)` that returns
        `Outputs` or logits.
      variables: of the model.
      train: run in train mode (batch statistics, dropout); updates of the state are
        dropped.
      key: for dropout, the same at each call. A network that is random in evaluation
        takes keys at the call instead: `logits_fn(x, keys)` with `[B]` keys.

    Raises:
      TypeError: for a model that is no module, or variables that are no mapping. The
        function raises ValueError where network, variables and images do not fit.
    """
    if not callable(getattr(model, "apply", None)):
        raise TypeError(
            f"`model` must be a Linen module, got {type(model).__name__}; a function "
            "of images to logits is what attacks take already."
        )
    if not isinstance(variables, Mapping):
        raise TypeError(
            "`variables` must be what the module's `init` returned, {'params': ...}, "
            f"got {type(variables).__name__}."
        )
    return jax.tree_util.Partial(Apply(model, bool(train)), variables, key)


@dataclasses.dataclass(frozen=True)
class _PerExample:
    """See `per_example`."""

    function: Callable[..., Logits]

    def __call__(self, *args: Any) -> Logits:
        """Calls the function on each row and its key; bound arrays come first."""
        *bound, x, keys = args

        def row(x: Array, key: Key) -> Array:
            return self.function(*bound, x[None], key)[0]

        return jax.vmap(row)(x, keys)


def per_example(
    function: Callable[[Images, Key], Logits],
) -> Callable[[Images, Key], Logits]:
    """Lifts `f(x, key)` with one key to one key per example, `f(x, keys [B])`.

    Row i is `f(x[i:i+1], keys[i])`, so it depends on nothing else in the batch.
    A `Partial` stays one, with the same leaves.
    """
    if isinstance(function, jax.tree_util.Partial):
        return jax.tree_util.Partial(
            _PerExample(function.func), *function.args, **function.keywords
        )
    return _PerExample(function)
