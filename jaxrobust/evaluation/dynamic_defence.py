"""A gradient inside a forward pass, seen in its program: a defence that adapts.

Croce et al., Evaluating the adversarial robustness of adaptive test-time defenses, ICML
2022, arXiv 2202.13711: such networks (purification by gradients, an inner optimisation)
need attacks of their own, and AutoAttack alone overrates them.

A layer maps an image's features by a weight; a gradient maps them back by the same
weight turned round. So a weight that meets values of the image over two different axes
of its own is a sign of a gradient. Weights that are tied on purpose (a decoder that is
the encoder's transpose) look the same.
"""

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.extend import core

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
        for inner, places in inner_programs(eqn):
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


def inner_programs(eqn: Any) -> Iterator[tuple[core.Jaxpr, list[tuple[int, Any]]]]:
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
