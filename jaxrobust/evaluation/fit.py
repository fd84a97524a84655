"""Whether a network takes a data set's images, found without computing anything."""

from collections.abc import Callable

import flax.errors
import jax
import jax.numpy as jnp

from jaxrobust.array_types import Images, Logits
from jaxrobust.data import Source


def count_classes(
    logits_fn: Callable[[Images], Logits], dataset: Source, name: str
) -> int:
    """Returns the number of classes K that a network tells apart.

    Args:
      logits_fn: images `[1, H, W, C]` to logits `[1, K]`; only traced, never run.
      dataset: whose images it gets.
      name: of the data set, for the error.

    Raises:
      ValueError: if it cannot take images of this size, or so many channels.
    """
    example = jax.ShapeDtypeStruct((1, *dataset.shape), jnp.float32)
    try:
        return jax.eval_shape(logits_fn, example).shape[-1]
    except (ValueError, TypeError, flax.errors.FlaxError) as error:
        [reason, *_] = str(error).splitlines() or [type(error).__name__]
        raise ValueError(
            f"the network does not take the {'x'.join(map(str, dataset.shape))} images "
            f"of {name}: {reason.rstrip('.')}. --config.data.image_size and "
            "--config.data.channels change the images."
        ) from None
