"""Other people's models: any function `images -> logits` as a network to evaluate."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxrobust import losses, models, named_code, threat, zoo
from jaxrobust.array_types import Bounds, Images, Key, Logits, Variables
from jaxrobust.attacks import programs, registry
from jaxrobust.data import Dataset
from jaxrobust.evaluation import logits as outputs
from jaxrobust.evaluation.network import coarsest

Function = Callable[[Images], Logits]

# By how much of a usual lead rounding may part two shapes of one program.
_ROUNDING = 1e-3


def load(spec: str) -> Function:
    """Imports the function that `package.module:function` names.

    With parentheses, `package.module:factory()`, the named object is called without
    arguments and returns the function. The function maps images `[B, H, W, C]`,
    float32, to logits `[B, K]`; a bound method or an object with `__call__` will do.
    What is right of the colon may have dots (`Class.method`). `zoo:NAME` is a network
    of `zoo.names()`.

    Raises:
      ValueError: for another form, or a name that is not there (with the nearest).
      TypeError: if what is there is no function.
    """
    if (name := zoo.named(spec)) is not None:
        model, variables, _ = zoo.load(name)
        return models.logits_fn(model, variables)
    if re.fullmatch(r"[\w.]+:[\w.]+(\(\))?", spec) is None:
        raise ValueError(
            f"`model` must be package.module:function, or package.module:factory() for "
            f"what a factory returns, got {spec!r}."
        )
    path = spec.partition(":")[2].removesuffix("()")
    found = named_code.find(spec.removesuffix("()"), "`model`")
    found = _checked_callable(spec, path, found)
    if not spec.endswith("()"):
        return found
    try:
        made = found()
    except (Exception, SystemExit) as error:
        told = f"`model` {spec!r}: {path}() fails: {named_code.said(error)}"
        raise ValueError(told) from error
    return _checked_callable(spec, f"{path}()", made)


def _checked_callable(spec: str, name: str, value: Any) -> Callable[..., Any]:
    if not callable(value):
        raise TypeError(
            f"`model` {spec!r}: {name} is {type(value).__name__}, not a function of "
            "images."
        )
    return value


@dataclasses.dataclass(frozen=True, eq=False)
class Held:
    """A function of images (of a randomised network, and keys) and what it captured.

    The `arrays` are those of its first trace.
    """

    function: Function
    arrays: Sequence[Any]

    def __call__(self, given: Sequence[Any], *inputs: Any) -> Logits:
        """Computes the logits with the arrays `given` in place of its own.

        The function is traced for the shape at hand. An array that it captures for this
        shape only (`np.ones(B)`) stays a constant of that program.
        """
        traced = programs.capture(self.function, *map(_like, inputs))
        arrays = list(traced.arrays)
        # As many of both unless the shape decides what is captured.
        known = zip(given, self.arrays, traced.arrays, strict=False)
        for place, (value, own, found) in enumerate(known):
            if _same(own, found):
                arrays[place] = value
        return traced.fn(arrays, *inputs)


def _like(inputs: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(inputs.shape, inputs.dtype)


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    keys = jnp.issubdtype(a.dtype, jax.dtypes.extended)
    return not keys and np.array_equal(a, b, equal_nan=True)


class ExternalModel(nn.Module):
    """A function as a Linen module, so that everything here can evaluate it.

    The arrays that the function captured are its variables: compiled programs take
    them as arguments instead of holding them as constants. A randomised network is
    judged by `draws`; a `black_box` runs on the host and has no gradient.
    """

    held: Held
    draws: int = 0
    black_box: bool = False

    @property
    def takes_keys(self) -> bool:
        """Whether the network is randomised: it is called with keys `[B]` too."""
        return self.draws > 0

    def __call__(
        self, images: Images, keys: Key | None = None, *, train: bool = False
    ) -> Logits:
        """Maps images `[B, H, W, C]` in [0, 1] to logits `[B, K]`.

        A randomised network that gets no keys makes one draw, always the same.
        """
        del train  # a function has one mode
        inputs: tuple[Any, ...] = (images,)
        if self.takes_keys:
            fixed = threat.row_keys(jax.random.key(0), images.shape[0])
            inputs = (images, fixed if keys is None else keys)
        return self.held(self.get_variable("captured", "arrays"), *inputs)


def wrap(
    function: Callable[..., Logits],
    dataset: Dataset,
    *,
    bounds: Bounds = (0.0, 1.0),
    draws: int = 0,
    black_box: bool = False,
) -> tuple[ExternalModel, Variables]:
    """Makes a network of a function, after trying it on a few images of a data set.

    Args:
      function: images `[B, H, W, C]`, float32 in `bounds`, to logits `[B, K]`. It has
        to be pure and made of JAX operations. With `draws` it is called with keys
        `[B]` too, from which alone its randomness comes, row by row.
      dataset: whose first images to try it on.
      bounds: range of the images that the function takes. Attacks work in [0, 1]; the
        images are scaled right before the function.
      draws: by how many draws a randomised function is judged; 0 for any other.
      black_box: whether it runs on the host and has no gradient.

    Raises:
      ValueError: if the function cannot take the images, returns anything but finite
        logits `[B, K]`, another number of classes than the data set has, or logits
        that change from call to call or with the other images of a batch.
      TypeError: if the logits are not floating.
    """
    low, high = bounds
    if not (np.isfinite([low, high]).all() and low < high):
        raise ValueError(f"`bounds` must be two numbers, low < high, got {bounds}.")
    if (low, high) != (0, 1):
        inner, width = function, high - low
        function = lambda x, *keys: inner(low + width * x, *keys)  # noqa: E731
    images = jnp.asarray(dataset.images[:3], jnp.float32) / 255
    inputs: tuple[Any, ...] = (images,)
    if draws:
        inputs = (images, threat.row_keys(jax.random.key(0), len(images)))
    _check_outputs(function, inputs, dataset)
    _check_calls(function, inputs)
    held = programs.capture(function, *map(_like, inputs)).arrays
    network = ExternalModel(Held(function, tuple(held)), draws, black_box)
    return network, {"captured": {"arrays": [jnp.asarray(array) for array in held]}}


def traceable(function: Callable[..., Any], dataset: Dataset) -> bool:
    """Whether JAX can trace a function of images `[B, H, W, C]`; computes nothing."""
    like = jax.ShapeDtypeStruct((3, *dataset.images.shape[1:]), jnp.float32)
    try:
        jax.eval_shape(function, like)
    except Exception:  # of any kind: it is anyone's code
        return False
    return True


def _check_outputs(
    function: Callable[..., Any], inputs: Sequence[Any], dataset: Dataset
) -> None:
    """Looks at shapes and dtypes; computes nothing."""
    images = inputs[0]
    try:
        out = jax.eval_shape(function, *map(_like, inputs))
    except jax.errors.JAXTypeError as error:
        raise ValueError(
            f"the function cannot be traced ({type(error).__name__}): it has to be "
            "made of jax.numpy operations, without numpy or Python branches on values; "
            f"or give --black_box, for {', '.join(registry.without_gradient())}."
        ) from error
    except Exception as error:
        raise ValueError(
            f"the function does not take images {images.shape}"
            f"{' and keys' if len(inputs) > 1 else ''}: {named_code.said(error)}"
        ) from error
    check_shape(out, len(images))
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise TypeError(f"the function must return floating logits, got {out.dtype}.")
    if out.shape[1] != dataset.num_classes:
        raise ValueError(
            f"the function returns {out.shape[1]} classes, but the data set has "
            f"{dataset.num_classes}; it was made for another one. (The classes of an "
            "npz file are its `class_names`, or as many as its largest label says.)"
        )


def check_shape(out: Any, count: int) -> None:
    """Raises ValueError for what is no logits [B, K] of so many images."""
    found = getattr(out, "shape", None)
    if found is None or len(found) != 2 or found[0] != count:
        raise ValueError(
            f"the function must return logits [B, K] with B = {count}, got "
            f"{type(out).__name__ if found is None else found}."
        )


def _check_calls(function: Callable[..., Any], inputs: Sequence[Any]) -> None:
    """Compares logits of calls that should agree."""
    first, again = _call(function, inputs), _call(function, inputs)
    row = len(first) // 2  # neither end: others may take the key of the first or last
    alone = _call(function, [value[row : row + 1] for value in inputs])
    if not np.isfinite(first).all():
        raise ValueError(
            "the function returns logits that are not finite: they are no predictions."
        )
    resolution = coarsest(jax.make_jaxpr(function)(*map(_like, inputs)).jaxpr)
    # The same program rounds the same.
    if outputs.relative_change(first, again) > _ROUNDING:
        raise ValueError(
            "the function returns other logits when it is called again: it draws "
            "random numbers or keeps a state (dropout?); use its evaluation mode, or "
            "take them from keys [B], its second argument, and give --stochastic."
        )
    lead = outputs.typical_lead(first)  # of one image it could be nearly 0
    own = first[row : row + 1]
    if outputs.relative_change(own, alone, resolution, lead) > _ROUNDING:
        raise ValueError(
            "the function's logits of an image depend on the other images of the batch "
            "(BatchNorm in train mode?); use its evaluation mode."
        )


def _call(
    function: Callable[..., Any], inputs: Sequence[Any]
) -> Float[np.ndarray, "B K"]:
    """Traces and runs the function; an equal program is compiled once."""
    bound = programs.bind(function, *map(_like, inputs))
    arrays = [jnp.asarray(array) for array in bound.arrays]
    run = programs.jitted(bound)
    return np.asarray(losses.comparable(run(arrays, *inputs)), np.float64)
