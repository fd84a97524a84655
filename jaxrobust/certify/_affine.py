"""Primitives that are affine in the nodes among their inputs."""

import enum
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from jaxrobust._shards import varied_alike
from jaxrobust.certify._graph import Node

# Units in the last place by which an interval grows before an operation that rounds.
ULPS = 4


class Interval(NamedTuple):
    """Least and largest values of an array."""

    lower: Array
    upper: Array


def without_nan(interval: Interval) -> Interval:
    """Returns an interval that says nothing where an end of it is no number.

    Planes compare ends: what is not above 0 would count as below.
    """
    low, high = interval
    return Interval(
        jnp.where(jnp.isnan(low), -jnp.inf, low),
        jnp.where(jnp.isnan(high), jnp.inf, high),
    )


def interval_of(value: Any) -> Interval:
    """Returns an array as an interval without extent; intervals pass."""
    return value if isinstance(value, Interval) else Interval(value, value)


def ulps(dtype: Any) -> float:
    """Returns `ULPS` units in the last place of 1."""
    return ULPS * float(jnp.finfo(dtype).eps)


@jax.custom_jvp
def widened(interval: Interval) -> Interval:
    """Grows an interval outwards by `ULPS` units in the last place of its ends.

    Its derivative is that of the interval: the growth costs none, and changes nothing.
    """
    low, high = interval
    share, tiny = ulps(low.dtype), float(jnp.finfo(low.dtype).tiny)
    wide = low - share * jnp.abs(low) - tiny, high + share * jnp.abs(high) + tiny
    # Rounding keeps signs.
    return Interval(
        jnp.where(low >= 0, jnp.maximum(wide[0], 0), wide[0]),
        jnp.where(high <= 0, jnp.minimum(wide[1], 0), wide[1]),
    )


@jax.custom_jvp
def _with_rounding(extent: Array, centre: Array) -> Array:
    """Adds what a sum of products rounds, at most so many units of its terms."""
    return extent + ulps(centre.dtype) * (jnp.abs(centre) + extent)


def _leave_out_the_growth(grown: jax.custom_jvp) -> None:
    """Has the derivative of what grew be that of its first argument."""
    grown.defjvp(lambda primals, tangents: (grown(*primals), tangents[0]))


_leave_out_the_growth(widened)
_leave_out_the_growth(_with_rounding)


class Sign(enum.Enum):
    """What an affine primitive does to the order of its values."""

    KEEPS = enum.auto()  # each value of each input counts by a factor of at least 0
    TURNS = enum.auto()  # all by one of at most 0
    SECOND = enum.auto()  # the second input's by one of at most 0
    WEIGHS = enum.auto()  # a product with the one input that is constant


class Affine(NamedTuple):
    """How a primitive treats its inputs.

    Attributes:
      sign: of the factors.
      rounds: whether it computes, or moves values only.
      offset: whether constants among the inputs are added; factors only, if not.
      only: places of inputs that may be nodes; all if empty.
      mixes: whether two values of the result may depend on one of the input.
      pull: `(node, forms) -> forms` of its one node, where JAX's own transpose is slow.
    """

    sign: Sign = Sign.KEEPS
    rounds: bool = False
    offset: bool = False
    only: tuple[int, ...] = ()
    mixes: bool = False
    pull: Callable[[Node, Array], Array | None] | None = None


def _pull_conv(node: Node, forms: Array) -> Array | None:
    """Transposes a plain convolution by one that is fast in loops on CPU.

    None for one of another layout, dilated or in groups: JAX's own transpose will do.
    """
    p, kernel = node.params, node.inputs[1]
    plain = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
    ones = {*p["lhs_dilation"], *p["rhs_dilation"]}
    ones |= {p["feature_group_count"], p["batch_group_count"]}
    if tuple(p["dimension_numbers"]) != plain or ones != {1}:
        return None
    (x,) = node.parents
    spread = [(0, 0, 0)]
    for axis, (low, stride) in enumerate(
        zip((pad[0] for pad in p["padding"]), p["window_strides"], strict=True), 1
    ):
        before = kernel.shape[axis - 1] - 1 - low
        after = x.shape[axis] + low - (node.shape[axis] - 1) * stride - 1
        spread.append((before, after, stride - 1))
    flat = forms.reshape(-1, *node.shape[1:])
    padded = lax.pad(flat, jnp.zeros((), flat.dtype), [*spread, (0, 0, 0)])
    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    out = lax.conv_general_dilated(
        padded, flipped, (1, 1), [(0, 0)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=p["precision"],
    )  # fmt: skip
    return out.reshape(forms.shape[0], *x.shape)


_MOVES = Affine()
_PRODUCT = Affine(Sign.WEIGHS, rounds=True, mixes=True)
_SUM = Affine(rounds=True, mixes=True)
_SCALES = Affine(Sign.WEIGHS, rounds=True)
# A primitive that is in no table is unsupported; a new one is one entry.
AFFINE: Mapping[str, Affine] = {
    **dict.fromkeys(
        ("reshape", "transpose", "rev", "squeeze", "expand_dims", "copy", "slice"),
        _MOVES,
    ),
    "copy_p": _MOVES,
    "convert_element_type": Affine(rounds=True),
    **dict.fromkeys(("broadcast_in_dim", "tile"), Affine(mixes=True)),
    "gather": Affine(only=(0,), mixes=True),
    "dynamic_slice": Affine(only=(0,)),
    "select_n": Affine(only=(1, 2), offset=True),
    "pad": Affine(offset=True),
    "concatenate": Affine(offset=True, mixes=True),
    "stack": Affine(offset=True, mixes=True),
    "dynamic_update_slice": Affine(only=(0, 1), offset=True),
    "add": Affine(rounds=True, offset=True, mixes=True),
    "add_any": Affine(rounds=True, offset=True, mixes=True),
    "sub": Affine(Sign.SECOND, rounds=True, offset=True, mixes=True),
    "neg": Affine(Sign.TURNS),
    "reduce_sum": _SUM,
    "cumsum": _SUM,
    "reduce_window_sum": _SUM,
    "mul": _SCALES,
    "div": Affine(Sign.WEIGHS, rounds=True, only=(0,)),
    "dot_general": _PRODUCT,
    "conv_general_dilated": _PRODUCT._replace(only=(0,), pull=_pull_conv),
}


def is_affine(node: Node) -> bool:
    """Whether a node is affine in the nodes among its inputs."""
    one = AFFINE.get(node.op)
    if one is None or not _computes_in_full(node):
        return False
    nodes = [i for i, value in enumerate(node.inputs) if isinstance(value, Node)]
    if one.only and not set(nodes) <= set(one.only):
        return False
    return one.sign is not Sign.WEIGHS or len(nodes) == 1


def is_linear(node: Node) -> bool:
    """Whether a node is affine in its inputs, by a primitive of the table."""
    return node.op in AFFINE and is_affine(node)


def _computes_in_full(node: Node) -> bool:
    """Whether no number is rounded to a narrower type, an integer, or half precision.

    Rounding to such types is larger than what bounds allow for.
    """
    kinds = [one.dtype for one in node.inputs if isinstance(one, Node)]
    return all(
        jnp.issubdtype(node.dtype, jnp.floating)
        and jnp.issubdtype(kind, jnp.floating)
        and jnp.finfo(node.dtype).bits >= max(32, jnp.finfo(kind).bits)
        for kind in kinds
    )


def keeps_box(node: Node) -> bool:
    """Whether values that are free of each other stay so."""
    one = AFFINE[node.op]
    alone = len(node.parents) == 1
    return alone and (not one.mixes or node.op in ("add", "sub", "concatenate"))


def reads_one(node: Node) -> bool:
    """Whether each value is one value of the one input, maybe scaled."""
    return keeps_box(node) or node.op in ("broadcast_in_dim", "tile")


def interval(node: Node, *operands: Any) -> Interval:
    """Returns the interval of a node, of intervals and constants for its inputs."""
    one = AFFINE[node.op]
    if one.rounds:
        operands = tuple(
            widened(value) if isinstance(value, Interval) else value
            for value in operands
        )
    if one.sign is Sign.WEIGHS:
        return _weighed(node, one, operands)
    lower, upper = ([interval_of(v)[end] for v in operands] for end in (0, 1))
    if one.sign is Sign.SECOND:
        lower[1], upper[1] = upper[1], lower[1]
    if one.sign is Sign.TURNS:
        lower, upper = upper, lower
    return Interval(node.apply(*lower), node.apply(*upper))


def _weighed(node: Node, one: Affine, operands: tuple[Any, ...]) -> Interval:
    """Multiplies an interval by a constant."""
    at = next(i for i, v in enumerate(operands) if isinstance(v, Interval))
    given = operands[at]

    def product(value: Array, size: bool = False) -> Array:
        return node.apply(
            *(
                value if i == at else jnp.abs(v) if size else v
                for i, v in enumerate(operands)
            )
        )

    if not one.mixes:
        ends = product(given.lower), product(given.upper)
        return widened(Interval(jnp.minimum(*ends), jnp.maximum(*ends)))
    centre, extent = (given.upper + given.lower) / 2, (given.upper - given.lower) / 2
    extent = _with_rounding(extent, centre)
    middle, reach = product(centre), product(extent, size=True)
    return Interval(middle - reach, middle + reach)


def of_parents(node: Node) -> Callable[..., Array]:
    """Returns a node as a function of those inputs that are nodes."""
    places = [i for i, v in enumerate(node.inputs) if isinstance(v, Node)]

    def at(*values: Array) -> Array:
        inputs = list(node.inputs)
        for place, value in zip(places, values, strict=True):
            inputs[place] = value
        return node.apply(*inputs)

    return at


def pull(node: Node, forms: Array) -> tuple[list[tuple[Node, Array]], Array | None]:
    """Takes linear forms of a node to forms of its inputs and an offset.

    Args:
      node: an affine one.
      forms: coefficients `[R, *node.shape]`.

    Returns:
      `(parent, coefficients)` for each input that is a node, and the constants
      `[R, *node.shape]` to be multiplied and summed; None where there are none.
    """
    one = AFFINE[node.op]
    if one.pull is not None and (found := one.pull(node, forms)) is not None:
        return [(node.parents[0], found)], None
    zeros = [jnp.zeros(p.shape, p.dtype) for p in node.parents]
    zeros = varied_alike((zeros, forms))[0]
    out, back = jax.vjp(of_parents(node), *zeros)
    forms = varied_alike((forms, out))[0]
    offset = None
    if one.offset and len(zeros) < len(node.inputs):
        offset = out
    found = jax.vmap(back)(forms.astype(node.dtype))
    return list(zip(node.parents, found, strict=True)), offset


def same_shape(node: Node) -> bool:
    """Whether the inputs that are arrays of numbers have the shape of the node."""
    return all(np.shape(one) in ((), node.shape) for one in node.inputs)
