"""Convolutions that XLA runs slowly inside loops on CPU, found in a jaxpr.

XLA:CPU sends a convolution inside a loop body to its fast kernel only if its layout
is NHWC x HWIO -> NHWC without input dilation; every input gradient of a stock
convolution is of another kind and runs about ten times slower (jax-ml/jax#12868).
"""

from typing import Any

import jax

from jaxrobust.attacks._capture import inner_jaxprs

MAX_UNROLL = 25


def on_cpu() -> bool:
    """Whether computations go to the CPU by default."""
    config: Any = jax.config
    device = config.jax_default_device
    platform = getattr(device, "platform", device)
    return (platform or jax.default_backend()) == "cpu"


def has_slow_convolution(jaxpr: Any) -> bool:
    """Whether a jaxpr holds a convolution that is slow inside a loop on CPU."""
    return any(_is_slow(eqn) for eqn in jaxpr.eqns) or any(
        has_slow_convolution(inner) for eqn in jaxpr.eqns for inner in _inner(eqn)
    )


def _inner(eqn: Any) -> list[Any]:
    platforms = eqn.params.get("branches_platforms")
    bodies = [jaxpr for jaxpr, _ in inner_jaxprs(eqn.params)]
    if platforms is None:
        return bodies
    # lax.platform_dependent: only the branch for the CPU will be compiled here.
    named = [b for b, p in zip(bodies, platforms, strict=True) if p and "cpu" in p]
    return named or [b for b, p in zip(bodies, platforms, strict=True) if p is None]


def _is_slow(eqn: Any) -> bool:
    if eqn.primitive.name != "conv_general_dilated":
        return False
    numbers = eqn.params["dimension_numbers"]
    last = len(numbers.lhs_spec) - 1
    images = (0, last, *range(1, last))
    kernel = (last, last - 1, *range(last - 1))
    plain = (
        tuple(numbers.lhs_spec) == images
        and tuple(numbers.rhs_spec) == kernel
        and tuple(numbers.out_spec) == images
    )
    return not plain or any(d != 1 for d in eqn.params["lhs_dilation"])
