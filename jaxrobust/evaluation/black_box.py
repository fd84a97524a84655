"""NumPy and PyTorch functions as networks, for attacks that need no gradient.

They run on the host, by a callback from the compiled attack.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import named_code
from jaxrobust.array_types import Images, Logits
from jaxrobust.attacks import registry
from jaxrobust.data import Dataset
from jaxrobust.evaluation import external

LAYOUTS = ("NHWC", "NCHW")


def check_attacks(fields: Mapping[str, Any]) -> None:
    """Refuses attacks of `config.eval` that a black box cannot answer."""
    names = [one["name"] for one in fields["attacks"].values()]
    names = [fields["suite"]] if fields["suite"] else names
    if wrong := sorted({n for n in names if registry.needs_gradient(n)}):
        raise ValueError(
            f"{', '.join(wrong)} cannot attack a black box, which has no gradient; "
            f"choose --attack of {', '.join(registry.without_gradient())}."
        )


def is_torch_module(function: Any) -> bool:
    """Whether it is a `torch.nn.Module`; torch is not imported for that."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(function, torch.nn.Module)


def in_layout(function: Callable[..., Any], layout: str | None) -> Callable[..., Any]:
    """Returns a function of images `[B, H, W, C]` of one that takes `layout`."""
    if layout != "NCHW":
        return function
    return lambda x, *keys: function(x.transpose(0, 3, 1, 2), *keys)


def wrap(function: Any, dataset: Dataset, layout: str | None) -> external.Function:
    """Makes a function that JAX can call, and never differentiate, of one on the host.

    Args:
      function: images, float32, to logits `[B, K]`: of NumPy arrays, or of PyTorch
        tensors (a `torch.nn.Module` runs on its own device, without gradients). What it
        returns may be an array of either.
      dataset: whose first images to try it on.
      layout: of the images it takes, one of `LAYOUTS`; those of the result are NHWC.
        None is NCHW for a `torch.nn.Module`.

    Raises:
      ValueError: if it fails on the first images, or returns no logits `[B, K]`.
    """
    host_fn = host_function(function, layout)
    first = dataset.images[:3].astype(np.float32) / 255
    try:
        classes = host_fn(first).shape[1]
    except ValueError:
        raise
    except Exception as error:
        layout = layout or _usual_layout(function)
        raise ValueError(
            f"the function does not take images {first.shape} as {layout}: "
            f"{named_code.said(error)}"
        ) from error
    return called_back(host_fn, lambda shape: classes)


def _usual_layout(function: Any) -> str:
    return "NCHW" if is_torch_module(function) else "NHWC"


def host_function(
    function: Any, layout: str | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function of NumPy images, NHWC, to float32 logits, see `wrap`.

    It raises ValueError if what it calls returns no floating logits `[B, K]`.
    """
    layout, call = layout or _usual_layout(function), _caller(function)

    def host_fn(images: np.ndarray) -> np.ndarray:
        x = np.array(images, np.float32)  # its own: it may change them in place
        if layout == "NCHW":
            x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
        try:
            out = call(x)
        except SystemExit as error:  # else the whole evaluation ends without a word
            raise RuntimeError(
                f"it ends the program ({named_code.said(error)})"
            ) from error
        if hasattr(out, "detach"):
            out = out.detach().cpu().numpy()
        logits = np.asarray(out)
        external.check_shape(logits, len(images))
        if not np.issubdtype(logits.dtype, np.floating):
            raise ValueError(
                f"the function must return floating logits, got {logits.dtype}."
            )
        return logits.astype(np.float32)

    return host_fn


def called_back(
    host_fn: Callable[[np.ndarray], np.ndarray],
    count: Callable[[tuple[int, ...]], int],
) -> external.Function:
    """Makes a function that JAX can call of one on the host.

    `count` tells the number of classes for images of a shape `(H, W, C)`.
    """

    def from_device(x: Images) -> Logits:
        classes = count(x.shape[1:])

        def rows(images: np.ndarray) -> np.ndarray:
            flat = np.asarray(images).reshape(-1, *x.shape[1:])
            return host_fn(flat).reshape(*images.shape[:-3], classes)

        like = jax.ShapeDtypeStruct((x.shape[0], classes), jnp.float32)
        return jax.pure_callback(rows, like, x, vmap_method="expand_dims")

    return from_device


def _caller(function: Any) -> Callable[[np.ndarray], Any]:
    """Returns what calls a function with NumPy images, as tensors where it needs so."""
    torch = sys.modules.get("torch")
    if torch is None:
        return function

    def with_tensors(x: np.ndarray) -> Any:
        parameters = getattr(function, "parameters", tuple)()
        device = next((p.device for p in parameters), torch.device("cpu"))
        with torch.no_grad():
            return function(torch.from_numpy(x.copy()).to(device))

    if is_torch_module(function):
        return with_tensors

    def either(x: np.ndarray) -> Any:
        try:
            return function(x)
        except (TypeError, AttributeError):  # what torch says of NumPy arrays
            return with_tensors(x)

    return either
