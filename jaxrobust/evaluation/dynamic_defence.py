"""A gradient or a loop inside a forward pass, seen in its program: it adapts.

Croce et al., Evaluating the adversarial robustness of adaptive test-time defenses, ICML
2022, arXiv 2202.13711: such networks (purification by gradients, an inner optimisation)
need attacks of their own, and AutoAttack alone overrates them.

A layer maps an image's features by a weight; a gradient maps them back by the same
weight turned round. So a weight that meets values of the image over two different axes
of its own is a sign of a gradient. Weights that are tied on purpose (a decoder that is
the encoder's transpose) look the same.

A loop that goes on with what it made of the image, and to which each round brings
nothing new, refines or solves for something. A loop over layers takes each one's
weights, one over the rows of an image these rows.
"""

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.extend import core

from jaxrobust.attacks.programs import inner_jaxprs, scan_sizes

# Of each axis of a value, the axes of the weight it is made of.
Axes = tuple[frozenset[int], ...]


class Origin(NamedTuple):
    """Where a value comes from: one weight alone, or not; whether from the image."""

    weight: int | None = None
    axes: Axes = ()
    of_image: bool = False


_CONSTANT = Origin()
_IMAGE = Origin(of_image=True)
# They move the values of a weight and leave its axes in place.
_SAME_AXES = ("convert_element_type", "rev", "copy", "stop_gradient", "slice")


def turns_weights_round(
    jaxpr: core.Jaxpr, weights: int, but: Collection[int] = ()
) -> bool:
    """Says whether a weight meets values of the image over different axes of its own.

    Args:
      jaxpr: of a forward pass.
      weights: how many of its arguments, the first, are weights; the next is the image.
      but: places of weights that may: see `is_rotation`.
    """
    origins = [
        Origin(i, tuple(frozenset({d}) for d in range(_rank(var))))
        if i < weights
        else (_IMAGE if i == weights else _CONSTANT)
        for i, var in enumerate(jaxpr.invars)
    ]
    seen: dict[int, set[frozenset[int]]] = {}
    for weight, axes in _meetings(jaxpr, origins, []):
        if weight not in but:
            seen.setdefault(weight, set()).add(axes)
    # A convolution may be written as a product over more axes, but not over others.
    pairs = (
        pair for found in seen.values() for pair in itertools.combinations(found, 2)
    )
    return any(one.isdisjoint(other) for one, other in pairs)


def is_rotation(weight: Any) -> bool:
    """Whether a matrix turned round is its inverse, as that of a cosine transform.

    It is meant to be used both ways.
    """
    shape = np.shape(weight)
    if len(shape) != 2 or shape[0] != shape[1]:
        return False
    matrix = np.asarray(weight, np.float64)
    return np.allclose(matrix @ matrix.T, np.eye(len(matrix)), atol=1e-3)


def refines_in_a_loop(jaxpr: core.Jaxpr, weights: int) -> bool:
    """Says whether a loop works on what it made of the image, with nothing new.

    Arguments as those of `turns_weights_round`.
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
        for inner, places in _inner(eqn):
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
            parts = list(_inner(eqn))
            if not parts:
                return True, []
            for inner, places in parts:
                worked, ends = _works_on(inner, [marks[p] for p, _ in places])
                if worked:
                    return True, []
        known.update(zip(eqn.outvars, ends, strict=False))
    return False, [of(var) for var in jaxpr.outvars]


def _meetings(
    jaxpr: core.Jaxpr, origins: Sequence[Origin], ends: list[Origin]
) -> Iterator[tuple[int, frozenset[int]]]:
    """Yields each weight that meets the image, and over which of its axes.

    `ends` gets the origins of the results.
    """
    known: dict[Any, Origin] = dict(zip(jaxpr.invars, origins, strict=True))

    def of(var: Any) -> Origin:
        return _CONSTANT if isinstance(var, core.Literal) else known.get(var, _CONSTANT)

    for eqn in jaxpr.eqns:
        given = [of(var) for var in eqn.invars]
        for mine, other, axes in _products(eqn):
            one = given[mine]
            if one.weight is not None and given[other].of_image:
                yield one.weight, frozenset().union(*(one.axes[a] for a in axes))
        results = [_moved(eqn, given)] * len(eqn.outvars)
        for inner, places in _inner(eqn):
            found: list[Origin] = []
            yield from _meetings(
                inner, [_fitted(given[p], v) for p, v in places], found
            )
            if len(found) == len(results):
                results = found
        known.update(zip(eqn.outvars, results, strict=True))
    ends.extend(of(var) for var in jaxpr.outvars)


def _products(eqn: Any) -> Iterable[tuple[int, int, Sequence[int]]]:
    """Returns (operand, the other, axes summed over) of products of two values."""
    if eqn.primitive.name == "dot_general":
        (left, right), _ = eqn.params["dimension_numbers"]
        return (0, 1, left), (1, 0, right)
    if eqn.primitive.name == "conv_general_dilated":
        return ((1, 0, [eqn.params["dimension_numbers"].rhs_spec[1]]),)
    return ()


def _moved(eqn: Any, given: Sequence[Origin]) -> Origin:
    """Returns the origin of a result: a weight's where its values are only moved."""
    of_image = any(one.of_image for one in given)
    name, first = eqn.primitive.name, given[0] if given else _CONSTANT
    if first.weight is None or of_image:
        return Origin(of_image=of_image)
    if name in _SAME_AXES:
        return first
    if name == "transpose":
        axes = tuple(first.axes[a] for a in eqn.params["permutation"])
        return first._replace(axes=axes)
    if name == "reshape":
        old, new = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
        return first._replace(axes=_regrouped(first.axes, old, new))
    if name == "squeeze":
        gone = eqn.params["dimensions"]
        kept = tuple(a for i, a in enumerate(first.axes) if i not in gone)
        return first._replace(axes=kept)
    return _CONSTANT


def _regrouped(axes: Axes, old: Sequence[int], new: Sequence[int]) -> Axes:
    """Returns the axes of a reshaped value: what shares a product shares its axes."""
    if 0 in (*old, *new):  # of nothing, every value is of every axis
        return (frozenset[int]().union(*axes),) * len(new)
    found: list[frozenset[int]] = []
    i = 0
    while len(found) < len(new):
        start, first = i, len(found)
        last, i = first + 1, min(i + 1, len(old))
        # Ones at the ends are in a group of their own, without axes.
        before, after = math.prod(old[start:i]), new[first]
        while before != after:
            if before < after:
                before, i = before * old[i], i + 1
            else:
                after, last = after * new[last], last + 1
        found += [frozenset[int]().union(*axes[start:i])] * (last - first)
    return tuple(found)


def _inner(eqn: Any) -> Iterator[tuple[core.Jaxpr, list[tuple[int, Any]]]]:
    """Yields programs inside an equation, with the operand of each argument."""
    params: Mapping[str, Any] = eqn.params
    name, count = eqn.primitive.name, len(eqn.invars)
    skipped = {"cond": 1, "while": params.get("cond_nconsts", 0)}.get(name, 0)
    for key, value in params.items():
        if name == "while" and key == "cond_jaxpr":
            continue
        for part in value if isinstance(value, tuple | list) else (value,):
            jaxpr = getattr(part, "jaxpr", part)
            if not hasattr(jaxpr, "eqns"):
                continue
            if len(jaxpr.invars) == count - skipped:
                yield jaxpr, list(zip(range(skipped, count), jaxpr.invars, strict=True))


def _fitted(origin: Origin, var: Any) -> Origin:
    """Returns the origin inside a loop that takes slices along the first axis."""
    lost = len(origin.axes) - _rank(var)
    return origin._replace(axes=origin.axes[lost:]) if lost > 0 else origin


def _rank(var: Any) -> int:
    return getattr(var.aval, "ndim", 0)
