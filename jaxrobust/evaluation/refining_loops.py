"""A loop inside a forward pass, seen in its program: a defence that adapts.

A loop that goes on with what it made of the image, and to which each round brings
nothing new, refines or solves for something (Croce et al. 2022, arXiv 2202.13711). A
loop over layers takes each one's weights, one over the rows of an image these rows.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend import core

from jaxrobust.attacks.programs import inner_jaxprs, scan_sizes
from jaxrobust.evaluation.dynamic_defence import inner_programs


def refines_in_a_loop(jaxpr: core.Jaxpr, weights: int) -> bool:
    """Says whether a loop works on what it made of the image, with nothing new.

    Arguments as those of `dynamic_defence.turns_weights_round`.
    """
    places = range(len(jaxpr.invars))
    return _refines(jaxpr, [_Reads(i <= weights, i == weights) for i in places])[0]


class _Reads(NamedTuple):
    """Whether a value depends on weights or the image, and whether on the image."""

    anything: bool = False
    image: bool = False


def _refines(jaxpr: core.Jaxpr, given: Sequence[_Reads]) -> tuple[bool, list[_Reads]]:
    """Returns whether there is such a loop, and what the results read."""
    known = dict(zip(jaxpr.invars, given, strict=True))

    def of(var: Any) -> _Reads:
        return _Reads() if isinstance(var, core.Literal) else known.get(var, _Reads())

    for eqn in jaxpr.eqns:
        reads = [of(var) for var in eqn.invars]
        if _is_refining(eqn, reads):
            return True, []
        for inner, places in inner_programs(eqn):
            if _refines(inner, [reads[p] for p, _ in places])[0]:
                return True, []
        joined = _Reads(any(r.anything for r in reads), any(r.image for r in reads))
        known.update(dict.fromkeys(eqn.outvars, joined))
    return False, [of(var) for var in jaxpr.outvars]


def _has_loop(params: Mapping[str, Any]) -> bool:
    return any(
        eqn.primitive.name in ("while", "scan") or _has_loop(eqn.params)
        for inner, _ in inner_jaxprs(dict(params))
        for eqn in inner.eqns
    )


class _Loop(NamedTuple):
    """A loop; its operands are for the condition, for the body, carried, then new."""

    body: core.Jaxpr
    condition: core.Jaxpr | None
    of_condition: int
    of_body: int
    carried: int


def _loop(eqn: Any) -> _Loop | None:
    name, params = eqn.primitive.name, eqn.params
    if name == "while":
        asked, own = params["cond_nconsts"], params["body_nconsts"]
        condition, body = params["cond_jaxpr"].jaxpr, params["body_jaxpr"].jaxpr
        return _Loop(body, condition, asked, own, len(eqn.invars) - asked - own)
    if name == "scan" and params["length"] > 1:
        body = params["jaxpr"]
        return _Loop(getattr(body, "jaxpr", body), None, 0, *scan_sizes(eqn))
    return None


def _is_refining(eqn: Any, reads: Sequence[_Reads]) -> bool:
    """Whether an equation is a loop that works on its own results, of the image."""
    if eqn.primitive.name == "custom_linear_solve":  # by iterations, or at once
        return any(one.image for one in reads) and _has_loop(eqn.params)
    loop = _loop(eqn)
    if loop is None:
        return False
    start = loop.of_condition + loop.of_body
    consts, carry = list(reads[loop.of_condition : start]), list(reads[start:])
    carry, new = carry[: loop.carried], carry[loop.carried :]
    if any(one.anything for one in new):
        return False
    for _ in carry:  # until nothing more is of the image
        refines, ends = _refines(loop.body, [*consts, *carry, *new])
        if refines:
            return True
        more = [
            _Reads(a.anything or b.anything, a.image or b.image)
            for a, b in zip(carry, ends, strict=False)
        ]
        if more == carry:
            break
        carry = more
    if _picks_by_number(loop.body, consts, carry):
        return False
    # What carries whole numbers alone looks for a place, as a binary search does.
    kept = loop.body.outvars[: len(carry)]
    marks = [
        one.image and _is_inexact(var) for one, var in zip(carry, kept, strict=True)
    ]
    other = [False] * len(consts)
    if loop.condition is not None:
        asks = [*[False] * loop.of_condition, *marks]
        if _works_on(loop.condition, asks)[0]:
            return True
    return _works_on(loop.body, [*other, *marks, *[False] * len(new)])[0]


def _is_inexact(var: Any) -> bool:
    return bool(jnp.issubdtype(var.aval.dtype, jnp.inexact))


def _picks_by_number(
    body: core.Jaxpr, consts: Sequence[_Reads], carry: Sequence[_Reads]
) -> bool:
    """Whether each round takes another part of what is given, by its own number.

    The weights of a layer, or a row of the image: that is new in each round.
    """
    given = {v for v, one in zip(body.invars, consts, strict=False) if one.anything}
    rest = body.invars[len(consts) :]
    numbers = {v for v, one in zip(rest, carry, strict=False) if not one.anything}
    numbers |= set(rest[len(carry) :])
    for eqn in body.eqns:
        reads = {v for v in eqn.invars if not isinstance(v, core.Literal)}
        if eqn.primitive.name in ("dynamic_slice", "gather"):
            if eqn.invars[0] in given and reads & numbers:
                return True
        elif reads and reads <= numbers:
            numbers |= set(eqn.outvars)
    return False


# They add to a value, or put something into it: it is collected, not worked on.
_COLLECT = ("add", "add_any", "dynamic_update_slice", "scatter", "scatter-add")
_COLLECT += ("max", "min", "convert_element_type", "reshape", "transpose", "copy")


def _works_on(jaxpr: core.Jaxpr, marked: Sequence[bool]) -> tuple[bool, list[bool]]:
    """Returns whether a marked argument is worked on, and the marks of the results."""
    known = {var: mark for var, mark in zip(jaxpr.invars, marked, strict=True)}

    def of(var: Any) -> bool:
        return not isinstance(var, core.Literal) and known.get(var, False)

    for eqn in jaxpr.eqns:
        marks = [of(var) for var in eqn.invars]
        if not any(marks):
            continue
        ends = [True] * len(eqn.outvars)
        if eqn.primitive.name not in _COLLECT:
            parts = list(inner_programs(eqn))
            if not parts:
                return True, []
            for inner, places in parts:
                worked, ends = _works_on(inner, [marks[p] for p, _ in places])
                if worked:
                    return True, []
        known.update(zip(eqn.outvars, ends, strict=False))
    return False, [of(var) for var in jaxpr.outvars]
