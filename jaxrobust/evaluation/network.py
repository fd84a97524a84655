"""Any function to logits, compiled for one batch size."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from jaxrobust import losses, parallel
from jaxrobust.analysis import masking
from jaxrobust.array_types import (
    Bounds,
    Images,
    Key,
    Labels,
    Logits,
    LogitsFn,
    Scalar,
)
from jaxrobust.attacks import stepping
from jaxrobust.attacks.programs import inner_jaxprs
from jaxrobust.evaluation import dynamic_defence, refining_loops
from jaxrobust.evaluation.setting import Devices, padded_rows

_ONE_DEVICE = Devices(None)


class CompiledNetwork:
    """A function to logits, compiled for `size` images at a time on some devices.

    It takes any number of images. The arrays that it captured stay arguments of its
    programs. A `stochastic` one takes keys too, and is asked for no gradient.
    """

    def __init__(
        self,
        logits_fn: LogitsFn,
        image: Any,
        size: int,
        devices: Devices = _ONE_DEVICE,
        *,
        stochastic: bool = False,
    ) -> None:
        """Traces and compiles the function for images that are like `image`."""
        self.size, self._devices, self._stochastic = size, devices, stochastic
        self._like = jax.ShapeDtypeStruct((size, *image.shape), image.dtype)
        self.model = stepping.capture_model(
            logits_fn, self._like, stochastic=stochastic
        )
        self.arrays = devices.put_copies(list(self.model.arrays))
        keys = stepping.row_keys(jax.random.key(0), size)
        self._forward = self._build(
            lambda *inputs: losses.comparable(self.model.fn(*inputs)),
            *self._placed(np.zeros(self._like.shape, self._like.dtype), keys),
        )

    def _build(self, function: Any, *inputs: Any, seldom: bool = False) -> Any:
        return stepping.build(
            function,
            self.arrays,
            *inputs,
            model=self.model,
            shardings=self._devices.by_rows,
            seldom=seldom,
        )

    def _placed(self, x: Any, keys: Any) -> Any:
        return self._devices.put_rows((x, keys)[: 1 + self._stochastic])

    def __call__(self, x: Any, keys: Key | None = None) -> Any:
        """Returns the logits `[n, K]` of n images, on the host."""
        x, parts = np.asarray(x), []
        for rows in padded_rows(len(x), self.size):
            inputs = self._placed(x[rows], None if keys is None else keys[rows])
            parts.append(parallel.to_host(self._forward(self.arrays, *inputs)))
        return np.concatenate(parts)[: len(x)]

    def gradient_fn(self, *, seldom: bool = False) -> Callable[..., Any]:
        """Returns `(x, y, scale=1.0, odds=False) -> gradient [n, H, W, C], logits`.

        It is that of the cross-entropy of the logits times a scale, or of the log-odds.
        Where it is called `seldom`, compiling it quickly matters more.
        """

        def gradient(
            arrays: Any, x: Images, y: Labels, scale: Scalar, odds: Scalar
        ) -> tuple[Images, Logits]:
            fn = functools.partial(self.model.fn, arrays)
            return masking.input_gradient(fn, x, y, scale, odds)

        def placed(x: Any, y: Any) -> Any:
            return self._devices.put_rows((np.asarray(x), np.asarray(y, np.int32)))

        blank = np.zeros(self._like.shape, self._like.dtype), np.zeros(self.size)
        run = self._build(gradient, *placed(*blank), 1.0, False, seldom=seldom)

        def rows(scale: float, odds: bool, x: Images, y: Labels) -> Any:
            found = run(self.arrays, *placed(x, y), scale, odds)
            return jax.tree.map(jnp.asarray, parallel.to_host(found))

        def call(x: Images, y: Labels, scale: float = 1.0, odds: bool = False) -> Any:
            return in_batches(functools.partial(rows, scale, odds), self.size, x, y)

        return call

    @property
    def resolution(self) -> float:
        """The `finfo(dtype).eps` of the coarsest float type that it computes with."""
        return coarsest(self._program)

    @property
    def turns_weights_round(self) -> bool:
        """Whether a gradient seems to be taken inside its forward pass."""
        weights = jax.tree.leaves(self.arrays)
        turned = [i for i, w in enumerate(weights) if dynamic_defence.is_rotation(w)]
        return dynamic_defence.turns_weights_round(self._program, len(weights), turned)

    @property
    def refines_in_a_loop(self) -> bool:
        """Whether its forward pass has a loop of what it made of the image."""
        weights = len(jax.tree.leaves(self.arrays))
        return refining_loops.refines_in_a_loop(self._program, weights)

    @functools.cached_property
    def _program(self) -> Any:
        keys = stepping.row_keys(jax.random.key(0), self.size)
        inputs = (self._like, keys)[: 1 + self._stochastic]
        return jax.make_jaxpr(self.model.fn)(self.arrays, *inputs).jaxpr


def coarsest(jaxpr: Any) -> float:
    """Returns the largest `finfo(dtype).eps` of the floats in a program."""
    variables = [*jaxpr.invars, *jaxpr.constvars]
    variables += [var for eqn in jaxpr.eqns for var in eqn.outvars]
    dtypes = {var.aval.dtype for var in variables if hasattr(var.aval, "dtype")}
    found = [jnp.finfo(d).eps for d in dtypes if jnp.issubdtype(d, jnp.floating)]
    inner = (part for eqn in jaxpr.eqns for part, _ in inner_jaxprs(eqn.params))
    return max(map(float, [*found, *map(coarsest, inner)]), default=0.0)


def among_others(
    forward: masking.Forward, x: Images, bounds: Bounds
) -> Float[np.ndarray, "N K"]:
    """Returns logits of the same images in batches of another composition.

    Every second image is replaced by its negative and all rows move by one place; a
    second batch does the same with the other half. A network that treats each image
    by itself gives the logits of `forward(x)`; one with batch statistics does not. Of a
    single image nothing is told.
    """
    images = np.asarray(x)
    even = np.arange(len(images)) % 2 == 0
    negative = np.asarray(bounds[0] + bounds[1] - images, images.dtype)

    def with_rows(kept: Bool[np.ndarray, "N"]) -> Float[np.ndarray, "N K"]:
        batch = np.where(kept[:, None, None, None], images, negative)
        return np.roll(forward(jnp.asarray(np.roll(batch, 1, axis=0))), -1, axis=0)

    return np.where(even[:, None], with_rows(even), with_rows(~even))


def in_batches(function: Callable[..., Any], size: int, *arrays: Any) -> Any:
    """Calls a function on batches of `size` rows; the last one repeats its last row."""
    total = len(arrays[0])
    if size == total:
        return function(*arrays)
    parts = [
        function(*(array[rows] for array in arrays))
        for rows in padded_rows(total, size)
    ]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:total], *parts)
