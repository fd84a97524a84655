"""Attacks whose images are a function of parameters: of a pose, a flow, colours.

What ascends is an attack of ours, in the box [-1, 1] of parameters around 0.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust import _checks as checks
from jaxrobust import losses, threat
from jaxrobust.array_types import Bounds, Images, Labels, Logits, LogitsFn, PerExample
from jaxrobust.attacks._checks import check_images
from jaxrobust.attacks._eager import in_transformation, iterate
from jaxrobust.attacks._method import Count
from jaxrobust.attacks._objective import Keys, Loss, OnInput, Problem, fold, named
from jaxrobust.attacks._search import Carry, Search
from jaxrobust.attacks.apgd import apgd

_STREAM = 0x706F7365

Parameters = jax.Array  # [B, ...]
Change = Callable[[Images, Parameters, Bounds], Images]


class Changed(NamedTuple):
    """Images as a function of parameters, for the attacks of a ball.

    Attributes:
      x: the images.
      y: their labels.
      logits_fn: of the changed images.
      change: of the images by parameters.
      bounds: of the images.
      loss: as an attack on the images takes it.
      penalty: of parameters, taken off the loss, `[B]`; not of a stochastic model.
    """

    x: Images
    y: Labels
    logits_fn: LogitsFn
    change: Change
    bounds: Bounds
    loss: Loss
    penalty: Callable[[Parameters], PerExample] | None = None

    def images(self, parameters: Parameters) -> Images:
        """Makes the images, in the box."""
        wide = self.x.astype(threat.wide_dtype(self.x.dtype))
        made = jnp.clip(self.change(wide, parameters, self.bounds), *self.bounds)
        return jnp.clip(made.astype(self.x.dtype), *self.bounds)

    def ascend(self, shape: tuple[int, ...], **options: Any) -> Parameters:
        """Runs APGD on parameters of a shape `[B, *shape]`."""
        return self._attacked(apgd, shape, **options)

    def try_all(self, shape: tuple[int, ...], **options: Any) -> Parameters:
        """Looks at points of a grid, or at random ones: the fields of `Points`."""
        fields = {f.name for f in dataclasses.fields(Points)} & options.keys()
        method = Points(**{name: options.pop(name) for name in fields})

        def attack(
            logits_fn: LogitsFn, p: Parameters, y: Labels, *, eps: float, **rest: Any
        ) -> Parameters:
            return iterate(method, logits_fn, p, y, eps, **rest)

        return self._attacked(attack, shape, **options)

    def _attacked(
        self, attack: Callable[..., Any], shape: tuple[int, ...], **options: Any
    ) -> Parameters:
        def model(p: Parameters, *keys: Any) -> Logits:
            return self.logits_fn(self.images(p), *keys)

        def value(p: Parameters, y: Labels) -> PerExample:
            own: Any = named(self.loss)
            logits = None if on_input else losses.comparable(model(p))
            found = own.fn(self.images(p), y) if on_input else own(logits, y)
            return found if self.penalty is None else found - self.penalty(p)

        on_input = isinstance(self.loss, OnInput)
        loss = OnInput(value) if on_input or self.penalty is not None else self.loss
        dtype = threat.wide_dtype(self.x.dtype)
        start = jnp.zeros((len(self.x), *shape), dtype)
        fixed = {"eps": 1.0, "bounds": (-1.0, 1.0), "loss": loss}
        return attack(model, start, self.y, **fixed, **options)

    def found(self, parameters: Parameters) -> Images:
        """Returns the images as an attack does: no gradient flows."""
        return jax.lax.stop_gradient(self.images(parameters))


def changed(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    change: Change,
    options: dict[str, Any],
) -> Changed:
    """Checks images and model, and puts the change in front of the model.

    It takes what is about the images out of the `options`.
    """
    bounds, loss = options.pop("bounds", (0.0, 1.0)), options.pop("loss", "ce")
    checks.check_function(logits_fn)
    checks.check_bounds(bounds)
    checks.check_images(x)
    check_images(x)
    bounds = (bounds[0], bounds[1])
    if not in_transformation(x, bounds):
        checks.check_values(x, bounds)
    return Changed(jnp.asarray(x), y, logits_fn, change, bounds, loss)


@dataclasses.dataclass(frozen=True)
class Points(Search):
    """Looks at points of the box [-1, 1], one after the other; a row ends when fooled.

    They are those of a grid of so many `counts` per parameter, or drawn at random.
    """

    counts: tuple[int, ...] = ()

    @property
    def needs_key(self) -> str | None:
        """For draws alone."""
        return None if self.counts else "a random search"

    def first(self, problem: Problem, keys: Keys, r: Count) -> tuple[Images, Any]:
        """Starts where nothing changes."""
        return problem.x, None

    def propose(self, problem: Problem, keys: Keys, i: Count, carry: Carry) -> Any:
        """Returns point i."""
        x = problem.x
        if self.counts:
            at = jnp.unravel_index(jnp.asarray(i) % math.prod(self.counts), self.counts)
            point = [
                jnp.linspace(-1, 1, n, dtype=x.dtype)[k] if n > 1 else 0 * k
                for n, k in zip(self.counts, at, strict=True)
            ]
            point = jnp.stack([jnp.asarray(p, x.dtype) for p in point], axis=-1)
            return jnp.broadcast_to(point, x.shape), None

        def draw(key: Any) -> jax.Array:
            return jax.random.uniform(key, x.shape[1:], x.dtype, -1.0, 1.0)

        return jax.vmap(draw)(fold(keys, _STREAM, i)), None
