"""Calls that leave a program: its text does not say what they do.

Two models that call different Python functions have the same program, arrays and
all. So no executable of theirs is kept, and no name is made of what they are.
"""

from collections.abc import Iterator
from typing import Any

from jaxrobust.attacks._capture import inner_jaxprs

# What prints or logs gives nothing back.
_HARMLESS = ("debug_callback", "debug_print")


def calls(jaxpr: Any, *, harmless: bool = False) -> set[str]:
    """Names the primitives of a jaxpr, and of all within it, that call the host.

    Args:
      jaxpr: of the program, and of its gradient where that counts.
      harmless: name those that give nothing back too.
    """
    return {
        name
        for name in _primitives(jaxpr)
        if _leaves(name) and (harmless or name not in _HARMLESS)
    }


def _leaves(name: str) -> bool:
    outside = ("ffi_call", "infeed", "outfeed", "debug_print")
    return "callback" in name or name in outside


def _primitives(jaxpr: Any) -> Iterator[str]:
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name
        for inner, _ in inner_jaxprs(eqn.params):
            yield from _primitives(inner)
