"""Corruptions by name: checks, and one compiled program for all severities."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Int

from jaxrobust import _checks
from jaxrobust.array_types import Images, Key
from jaxrobust.corruptions import blur, digital, jpeg, noise, weather

SEVERITIES = 5
SMALLEST = 8

_CORRUPTIONS: Mapping[str, Callable[..., Any]] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": digital.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": jpeg.jpeg_compression,
}


def names() -> tuple[str, ...]:
    """Returns the names that `apply` knows, in the order of the paper's table."""
    return tuple(_CORRUPTIONS)


def check_name(name: object) -> None:
    """Raises ValueError, naming the nearest match, unless `name` is a corruption."""
    if name not in _CORRUPTIONS:
        hint = _checks.nearest_match(name, names())
        raise ValueError(f"Unknown corruption {name!r}. {hint}")


def apply(name: str, x: Images, *, key: Key, severity: int | Int[Array, ""]) -> Images:
    """Corrupts images.

    Severity is data to the compiled program: called eagerly, each corruption compiles
    once per shape for all five severities. Under the caller's jit nothing is added.

    Args:
      name: one of `names()`.
      x: images `[B, H, W, C]`, floating, in [0, 1]; C is 1 or 3, H and W at least 8.
      key: one key (row i uses fold_in(key, i)) or one per image `[B]`. Brightness,
        contrast, defocus and zoom blur, pixelate and JPEG draw nothing from it.
      severity: 1 (mild) to 5; may be traced, and is then clipped to that range.

    Returns:
      Corrupted images of the shape and dtype of `x`, in [0, 1]. Unlike CIFAR-10-C they
      are not cut to 8-bit levels, except by JPEG, which needs levels.

    Raises:
      ValueError: for an unknown name (with the nearest match), a severity or a shape
        out of range, or images that leave [0, 1].
      TypeError: for images that are not floating, or an old-style key.
    """
    check_name(name)
    check_images(x)
    check_severity(severity)
    keys = _checks.row_keys(key, x.shape[0])
    if any(isinstance(array, Tracer) for array in (x, keys, severity)):
        return _apply(name, x, keys, severity)
    _checks.check_not_empty(x)
    _checks.check_values(x)
    return _apply_compiled(name, jnp.asarray(x), keys, jnp.asarray(severity, jnp.int32))


def _apply(name: str, x: Images, keys: Key, severity: Any) -> Images:
    level = jnp.clip(jnp.asarray(severity, jnp.int32), 1, SEVERITIES) - 1
    # Half precision cannot hold pixel positions or sums over windows.
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    corrupt = functools.partial(_CORRUPTIONS[name], level=level)
    return jnp.clip(jax.vmap(corrupt)(wide, keys), 0, 1).astype(x.dtype)


_apply_compiled = jax.jit(_apply, static_argnums=0)


def check_images(x: Any) -> None:
    """Checks type and shape of images."""
    _checks.check_images(x, channels=(1, 3), least=SMALLEST, who="a corruption")


def check_severity(severity: Any) -> None:
    """Raises unless `severity` is a whole number from 1 to 5; a traced one passes."""
    if isinstance(severity, Tracer):
        return
    array = isinstance(severity, np.ndarray | jax.Array) and severity.ndim == 0
    value = severity.item() if array else severity
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or not 1 <= value <= SEVERITIES:
        raise ValueError(
            f"`severity` must be a whole number from 1 to {SEVERITIES}, got "
            f"{severity!r}."
        )
