"""The normalisation of images that an original keeps beside its weights."""

import re
from collections.abc import Mapping, Sequence

import flax.linen as nn
import numpy as np

# What the original subtracts from the images and divides them by: buffers of its own,
# or of a part in front of it, which is called so or is one of a Sequential.
NORMALIZATION = re.compile(
    r"((\d+|\w*(norm|preproc|transform)\w*)\.)?(new_)?((?P<mean>mu|mean)|sigma|std)",
    re.IGNORECASE,
)
_MOST_CHANNELS = 4


def split_normalization(
    arrays: Mapping[str, np.ndarray],
) -> tuple[dict[str, tuple[float, ...]], dict[str, np.ndarray]]:
    """Returns `mean` and `std` as far as a bare state dict has them, and the rest.

    Raises:
      ValueError: for two of either, a `std` without a `mean`, shapes that are not those
        of channels, or values that images of 0 to 1 are not normalised with.
    """
    found: dict[str, tuple[float, ...]] = {}
    named: dict[str, str] = {}
    others = {}
    for name, value in arrays.items():
        if match := NORMALIZATION.fullmatch(name):
            field = "mean" if match["mean"] else "std"
            if field in named:
                raise ValueError(
                    f"both {named[field]} and {name} may be the `{field}` that images "
                    "are normalised with; take the other out"
                )
            named[field] = name
            found[field] = _channels(name, np.asarray(value))
        else:
            others[name] = value
    if "std" in named and "mean" not in named:
        raise ValueError(
            f"{named['std']} stands alone: with a mean it would be the normalisation "
            "of the images, and nothing tells what it is; take it out, or give both"
        )
    return found, others


def _channels(name: str, value: np.ndarray) -> tuple[float, ...]:
    """Returns the values of a buffer of the normalisation, one for each channel."""
    size = value.size
    if value.shape not in ((), (size,), (size, 1, 1), (1, size, 1, 1)) or not (
        0 < size <= _MOST_CHANNELS and np.issubdtype(value.dtype, np.floating)
    ):
        raise ValueError(
            f"{name} has the name of a normalisation of images and is "
            f"{value.dtype} of shape {value.shape}, not a number for each channel"
        )
    # In decimals that give the same float32.
    return tuple(float(str(v)) for v in np.asarray(value, "f").ravel())


def _scale_of(mean: Sequence[float], std: Sequence[float]) -> float:
    """Returns 1 for values that normalise images of 0 to 1, 255 for those of bytes."""
    for scale, least in ((1.0, 0.0), (255.0, 2.0)):
        if (
            max(map(abs, mean)) <= 2 * scale
            and least < min(std) <= max(std) <= 2 * scale
        ):
            return scale
    raise ValueError(
        f"`mean` {tuple(mean)} and `std` {tuple(std)} there do not normalise images"
    )


def other_normalization(
    model: nn.Module, buffers: Mapping[str, tuple[float, ...]]
) -> list[str]:
    """Says in what the normalisation of the original differs from the model's."""
    scale = 1.0
    if buffers:
        scale = _scale_of(buffers["mean"], buffers.get("std", (1.0,)))
    problems = []
    for field, there in buffers.items():
        wanted = tuple(round(v / scale, 7) for v in there) if scale != 1 else there
        own = getattr(model, field, None) or (0.0 if field == "mean" else 1.0)
        if np.size(own) not in (1, len(wanted)) or not np.allclose(own, wanted):
            bytes_of = f" (for images of 0 to 255; ours are of 0 to 1: {wanted})"
            problems.append(
                f"another normalisation: `{field}` is {there} there"
                f"{bytes_of * (scale != 1)}, "
                f"{getattr(model, field, None)} in the model; create it with "
                f"{field}={wanted} (the program: --field)"
            )
    return problems
