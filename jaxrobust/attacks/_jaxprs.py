"""What is asked of a traced program: what it calls on the host, what is slow on a CPU.

XLA:CPU sends a convolution inside a loop body to its fast kernel only if its layout
is NHWC x HWIO -> NHWC without input dilation; every input gradient of a stock
convolution is of another kind and runs about ten times slower (jax-ml/jax#12868).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

MAX_UNROLL = 25
# Calls that leave a program, beside callbacks; what prints or logs gives nothing back.
_OUTSIDE = ("ffi_call", "infeed", "outfeed", "debug_print")
_HARMLESS = ("debug_callback", "debug_print")


def inner_jaxprs(params: dict[str, Any]) -> Iterator[tuple[Any, Sequence[Any]]]:
    """Yields `(jaxpr, consts)` of everything an equation's parameters hold."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if hasattr(item, "jaxpr") and hasattr(item, "consts"):
                yield item.jaxpr, item.consts
            elif hasattr(item, "eqns"):
                yield item, ()


def outside_calls(jaxpr: Any, *, harmless: bool = False) -> set[str]:
    """Names the primitives of a jaxpr, and of all within it, that call the host.

    Two models that call different Python functions have the same program, arrays and
    all. So no executable of theirs is kept, and no name is made of what they are. Those
    that give nothing back are `harmless`, and named where that is asked for.
    """
    found = set()
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        leaves = "callback" in name or name in _OUTSIDE
        if leaves and (harmless or name not in _HARMLESS):
            found.add(name)
        for inner, _ in inner_jaxprs(eqn.params):
            found |= outside_calls(inner, harmless=harmless)
    return found


def on_cpu() -> bool:
    """Whether computations go to the CPU by default."""
    config: Any = jax.config
    device = config.jax_default_device
    platform = getattr(device, "platform", device)
    return (platform or jax.default_backend()) == "cpu"


def slow_in_loop(function: Callable[..., Any], *args: Any) -> bool:
    """Whether a function is slow in the body of a loop: only on a CPU may it be."""
    return on_cpu() and has_slow_convolution(jax.make_jaxpr(function)(*args).jaxpr)


def has_slow_convolution(jaxpr: Any) -> bool:
    """Whether a jaxpr holds a convolution that is slow inside a loop on CPU."""
    return any(_is_slow(eqn) for eqn in jaxpr.eqns) or any(
        has_slow_convolution(inner) for eqn in jaxpr.eqns for inner in _on_cpu(eqn)
    )


def _on_cpu(eqn: Any) -> list[Any]:
    """The jaxprs within an equation that a CPU runs."""
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


def scan_sizes(eqn: Any) -> tuple[int, int]:
    """Returns how many operands of a `scan` are constants, and how many are carried.

    What is new in each round, and what it leaves, has one axis more outside. The names
    of the parameters that say so are not the same in all versions of JAX.
    """
    body = eqn.params["jaxpr"]
    body = getattr(body, "jaxpr", body)
    new = _with_one_axis_more(eqn.invars, body.invars)
    left = _with_one_axis_more(eqn.outvars, body.outvars)
    carried = len(eqn.outvars) - left
    return len(eqn.invars) - carried - new, carried


def _with_one_axis_more(outside: Sequence[Any], inside: Sequence[Any]) -> int:
    pairs = zip(outside, inside, strict=True)
    return sum(len(a.aval.shape) > len(b.aval.shape) for a, b in pairs)
