"""What attacks of other libraries share here: they take arrays and run on the host."""

import abc
import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxrobust.array_types import Bounds, Images, Key, Labels, LogitsFn


@dataclasses.dataclass(frozen=True)
class HostAttack(abc.ABC):
    """An attack of another library with the arguments of ours.

    `(logits_fn, x, y, *, key=None, eps, bounds=(0, 1)) -> x_adv`, in suites by
    `package.module:name`. The random numbers are the library's, of a whole batch, and
    start from the key: other than of ours, an image's result depends on its batch.
    """

    on_host: ClassVar[bool] = True  # `attacks.registry` looks at it

    def __call__(
        self,
        logits_fn: LogitsFn,
        x: Images,
        y: Labels,
        *,
        key: Key | None = None,
        eps: float | None,
        bounds: Bounds = (0.0, 1.0),
    ) -> Images:
        """Attacks images `[B, H, W, C]` with labels `[B]`; TypeError under `jax.jit`.

        `eps` None is for attacks that look for the smallest perturbation.
        """
        if any(isinstance(one, Tracer) for one in (x, y, key, eps)):
            raise TypeError(
                f"{self} runs on the host: call it with arrays, outside of jax.jit, "
                "vmap and grad."
            )
        x = jnp.asarray(x)
        found = self.run(compiled(logits_fn), x, y, number_of(key), eps, bounds)
        return jnp.asarray(found, x.dtype)

    @abc.abstractmethod
    def run(
        self,
        logits_fn: LogitsFn,
        x: jax.Array,
        y: Labels,
        number: int,
        eps: float | None,
        bounds: Bounds,
    ) -> Any:
        """Returns the attacked images; the library's random numbers start there."""


def number_of(key: Key | None) -> int:
    """Returns a number to start other libraries' random numbers from."""
    if key is None:
        return 0
    first = key if key.ndim == 0 else key.ravel()[0]
    return int(np.asarray(jax.random.key_data(first)).ravel()[-1])


@jax.jit
def _bound(logits_fn: Any, x: Images) -> Any:
    return logits_fn(x)


def compiled(logits_fn: LogitsFn) -> LogitsFn:
    """Returns the network compiled: other libraries call it operation by operation."""
    if isinstance(logits_fn, jax.tree_util.Partial):  # its weights are arguments
        return lambda x: _bound(logits_fn, x)
    return jax.jit(logits_fn)
