"""A convolution that is fast on the CPU: few channels, gradients inside loops.

XLA's CPU backend sends a convolution in the body of `fori_loop`, `scan`, `while_loop`
or `cond` to its fast kernel only in the layout NHWC x HWIO -> NHWC; the gradients
that JAX derives are in another one and run in a naive kernel (jax-ml/jax#12868). Here
both gradients are written so that they never meet that kernel. Even the fast kernel
waits more than it computes where an image enters (few input channels), so those are
written as matmuls, or as sums of products. Other backends get the convolution and the
gradients of JAX: the choice is made when the program is lowered.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Kernel = Float[Array, "h w i o"]
Features = Float[Array, "B H W C"]

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
# Input channels up to which, and places of a kernel up to which, one product of patches
# is faster than the kernel: `python -m benchmarks.narrow_convolutions`. From or to few
# channels a sum over the places is faster still. Gradients to `_FEW` channels are
# scattered; with strides that would take several times the memory. So they are where
# a pixel of the batch has `_WIDE` channels at least to itself: turning the kernel round
# would take most of the time. Its own gradient is a product from twice as many on.
_NARROW, _PLACES, _FEW, _WIDE = 3, 25, 8, 2


class Form(NamedTuple):
    """The static part of a convolution."""

    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    groups: int
    precision: Any


def conv_general_dilated(
    lhs: Features,
    rhs: Kernel,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **kwargs: Any,
) -> Features:
    """Convolves like `lax.conv_general_dilated`; for `nn.Conv(conv_general_dilated=)`.

    Two-dimensional, undilated convolutions of NHWC by HWIO (grouped or not, of any
    stride and non-negative padding) are loop-safe. All others take JAX's own path and
    stay slow inside CPU loops. A loop-safe convolution has no forward-mode derivative
    (`jax.jvp`, `jax.jacfwd`); reverse mode of any order works.
    """
    if not _is_plain(lhs, kwargs) or lhs.dtype != rhs.dtype:
        return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **kwargs)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(
            lhs.shape[1:3], rhs.shape[:2], tuple(window_strides), padding
        )
    pads = tuple((int(low), int(high)) for low, high in padding)
    extents = [
        size + sum(pair) for size, pair in zip(lhs.shape[1:3], pads, strict=True)
    ]
    room = min(e - k for e, k in zip(extents, rhs.shape[:2], strict=True))
    if min(min(pair) for pair in pads) < 0 or room < 0:
        return lax.conv_general_dilated(lhs, rhs, window_strides, pads, **kwargs)
    groups, precision = kwargs.get("feature_group_count", 1), kwargs.get("precision")
    return _conv(lhs, rhs, Form(tuple(window_strides), pads, groups, precision))


def with_derivatives_of(
    plain: Callable[[Features, Kernel], Features], params: Mapping[str, Any]
) -> Callable[[Features, Kernel], Features]:
    """Returns a convolution by what is fastest, with the derivatives of `plain`.

    `params` are those of `lax.conv_general_dilated_p`. Forward mode works, and mapping
    over images one by one: the gradients above choose by the size of a batch.
    """

    @jax.custom_jvp
    def convolve(lhs: Features, rhs: Kernel) -> Features:
        return conv_general_dilated(lhs, rhs, **params)

    @convolve.defjvp
    def _derivative(primals, tangents):
        (lhs, rhs), (lhs_dot, rhs_dot) = primals, tangents
        return convolve(lhs, rhs), plain(lhs_dot, rhs) + plain(lhs, rhs_dot)

    return convolve


def _is_plain(lhs: Features, kwargs: dict[str, Any]) -> bool:
    """Says whether the gradients below cover this kind of convolution."""
    dilations = (kwargs.get("lhs_dilation"), kwargs.get("rhs_dilation"))
    layouts = (_DIMENSIONS, lax.conv_dimension_numbers((1,) * 4, (1,) * 4, _DIMENSIONS))
    return (
        lhs.ndim == 4
        and all(set(dilation or (1,)) == {1} for dilation in dilations)
        and kwargs.get("batch_group_count", 1) == 1
        and kwargs.get("preferred_element_type") is None
        and kwargs.get("dimension_numbers") in layouts
    )


def _convolve(x: Features, kernel: Kernel, form: Form) -> Features:
    """Convolves by what is fastest on the platform."""
    if form.groups > 1 or not _is_narrow(kernel):
        return _plain(x, kernel, form)
    few = kernel.shape[2] == 1 or kernel.shape[3] <= _FEW
    way = _sum_of_places if few else _patch_product
    return lax.platform_dependent(
        x, kernel,
        cpu=functools.partial(way, form=form),
        default=functools.partial(_plain, form=form),
    )  # fmt: skip


def _is_narrow(kernel: Kernel, most: int = _NARROW) -> bool:
    rows, columns, channels, _ = kernel.shape
    return channels <= most and rows * columns <= _PLACES


def _is_small(cotangent: Features, wide: int = _WIDE) -> bool:
    *pixels, channels = cotangent.shape
    return wide * math.prod(pixels) <= channels


def _plain(x: Features, kernel: Kernel, form: Form) -> Features:
    return lax.conv_general_dilated(
        x, kernel, form.strides, form.pads, dimension_numbers=_DIMENSIONS,
        feature_group_count=form.groups, precision=form.precision,
    )  # fmt: skip


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x: Features, kernel: Kernel, form: Form) -> Features:
    return _convolve(x, kernel, form)


def _forward(x, kernel, form):
    return _convolve(x, kernel, form), (x, kernel)


def _backward(form, residuals, cotangent):
    def derived(convolve):
        return lambda x, kernel, cotangent: jax.vjp(
            lambda x, kernel: convolve(x, kernel, form), x, kernel
        )[1](cotangent)

    def written(x, kernel, cotangent):
        return (
            _input_gradient(cotangent, kernel, x.shape, form),
            _kernel_gradient(cotangent, x, kernel.shape, form),
        )

    # Of groups the gradients of matmuls: the naive kernel is 40 times slower.
    on_cpu = written if form.groups == 1 else derived(_by_groups)
    return lax.platform_dependent(
        *residuals, cotangent, cpu=on_cpu, default=derived(_plain)
    )


_conv.defvjp(_forward, _backward)


def _input_gradient(
    cotangent: Features, kernel: Kernel, shape: tuple[int, ...], form: Form
) -> Features:
    narrow = _is_narrow(kernel, _FEW) and max(form.strides) == 1
    way = _scattered if narrow or _is_small(cotangent) else _flipped
    return way(cotangent, kernel, shape, form)


def _flipped(
    cotangent: Features, kernel: Kernel, shape: tuple[int, ...], form: Form
) -> Features:
    """Convolves the dilated cotangent with the flipped, in/out-swapped kernel."""
    config = [(0, 0, 0)]
    for axis, (stride, (low, _)) in enumerate(
        zip(form.strides, form.pads, strict=True), 1
    ):
        before = kernel.shape[axis - 1] - 1 - low
        # What the forward pass left out at the end, for want of a whole window, too.
        after = shape[axis] + low - (cotangent.shape[axis] - 1) * stride - 1
        config.append((before, after, stride - 1))
    zero = jnp.zeros((), cotangent.dtype)
    padded = lax.pad(cotangent, zero, [*config, (0, 0, 0)])
    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    # Differentiable again: gradients of gradients stay off the naive kernel too.
    return _conv(padded, flipped, Form((1, 1), ((0, 0), (0, 0)), 1, form.precision))


def _kernel_gradient(
    cotangent: Features, x: Features, shape: tuple[int, ...], form: Form
) -> Kernel:
    """Convolves the images with the cotangent, channels and batch changing places.

    As fast as the derivative JAX takes, in loops too; a matmul over gathered patches
    is up to nine times slower at few channels. Of few pixels it is faster.
    """
    if _is_small(cotangent, 2 * _WIDE):
        rows, columns, channels, features = shape
        patches = jnp.concatenate(_windows(x, (rows, columns), form), axis=-1)
        flat = patches.reshape(-1, rows * columns * channels)
        product = jnp.matmul(
            flat.T, cotangent.reshape(-1, features), precision=form.precision
        )
        return product.reshape(shape)
    used, margins = list(x.shape), []
    for axis, (stride, (low, _)) in enumerate(
        zip(form.strides, form.pads, strict=True), 1
    ):
        extent = (cotangent.shape[axis] - 1) * stride + shape[axis - 1]
        used[axis] = min(x.shape[axis], extent - low)
        margins.append((low, extent - low - used[axis]))
    return lax.conv_general_dilated(
        lax.slice(x, (0,) * 4, used).transpose(3, 1, 2, 0),
        cotangent.transpose(1, 2, 0, 3),
        (1, 1),
        margins,
        rhs_dilation=form.strides,
        dimension_numbers=_DIMENSIONS,
        precision=form.precision,
    ).transpose(1, 2, 0, 3)


def _windows(x: Features, size: tuple[int, int], form: Form) -> list[Features]:
    """Returns what each place of a kernel of `size` sees: `[B, H', W', C]` each."""
    padded = jnp.pad(x, ((0, 0), *form.pads, (0, 0)))
    (rows, columns), (down, right) = size, form.strides
    tall = (padded.shape[1] - rows) // down * down + 1
    wide = (padded.shape[2] - columns) // right * right + 1
    return [
        padded[:, i : i + tall : down, j : j + wide : right]
        for i in range(rows)
        for j in range(columns)
    ]


def _patch_product(x: Features, kernel: Kernel, form: Form) -> Features:
    """Multiplies the patches under the kernel, each one vector, with the kernel."""
    rows, columns, channels, features = kernel.shape
    patches = jnp.concatenate(_windows(x, (rows, columns), form), axis=-1)
    weights = kernel.reshape(rows * columns * channels, features)
    return jnp.matmul(patches, weights, precision=form.precision)


def _sum_of_places(x: Features, kernel: Kernel, form: Form) -> Features:
    """Adds up, at each place of the kernel, what the pixels there give."""
    exact = jnp.promote_types(x.dtype, jnp.float32)
    wide, weights = x.astype(exact), kernel.astype(exact)
    (rows, columns), down = kernel.shape[:2], form.strides[0]
    padded = jnp.pad(wide, ((0, 0), *form.pads, (0, 0)))
    flat = weights.reshape(rows * columns, *kernel.shape[2:])

    def part(start: Any, count: int) -> Features:
        band = lax.dynamic_slice_in_dim(
            padded, start * down, (count - 1) * down + rows, 1
        )
        windows = _windows(band, (rows, columns), form._replace(pads=((0, 0),) * 2))
        terms = [
            window[..., c, None] * flat[place, c].reshape(1, 1, 1, -1)
            for place, window in enumerate(windows)
            for c in range(x.shape[-1])
        ]
        return functools.reduce(jnp.add, terms)

    height = (padded.shape[1] - rows) // down + 1
    return _by_halves(part, height).astype(x.dtype)


def _by_halves(part: Callable[[Any, int], Features], height: int) -> Features:
    """Returns `part(0, height)`, rows `[B, height, W, C]`, made in a loop of two turns.

    XLA would compute a sum anew inside each operation that reads it (four times for a
    max pool of four places); what leaves a loop is there once. `part(start, count)`
    gives some of the rows; those in the middle may be made twice.
    """
    if height < 2:
        return part(0, height)
    count = -(-height // 2)
    shape = jax.eval_shape(lambda: part(0, count))
    batch, _, *rest = shape.shape

    def turn(i: Any, rows: Features) -> Features:
        start = i * (height - count)
        return lax.dynamic_update_slice_in_dim(rows, part(start, count), start, 1)

    return lax.fori_loop(0, 2, turn, jnp.zeros((batch, height, *rest), shape.dtype))


def _scattered(
    cotangent: Features, kernel: Kernel, shape: tuple[int, ...], form: Form
) -> Features:
    """Adds up, at each pixel, what it gave to each place of the kernel (col2im)."""
    rows, columns, channels, features = kernel.shape
    exact = jnp.promote_types(cotangent.dtype, jnp.float32)
    product = functools.partial(
        jnp.einsum, precision=form.precision, preferred_element_type=exact
    )
    if _is_small(cotangent):
        # Place by place: of one product the backend would turn the whole kernel round.
        weights = kernel.reshape(rows * columns, channels, features)
        parts = list(product("bhwo,pio->pbhwi", cotangent, weights))
    else:
        weights = kernel.reshape(rows * columns * channels, features)
        parts = product("bhwo,io->bhwi", cotangent, weights)
        parts = jnp.split(parts, rows * columns, axis=-1)
    windows = functools.partial(_windows, size=(rows, columns), form=form)
    place = jax.linear_transpose(windows, jax.ShapeDtypeStruct(shape, exact))
    found = place(parts)[0].astype(cotangent.dtype)
    return _by_halves(
        lambda start, count: lax.dynamic_slice_in_dim(found, start, count, 1), shape[1]
    )


def _by_groups(x: Features, kernel: Kernel, form: Form) -> Features:
    """Sums, over the places of the kernel, a matmul of each group with its weights."""
    rows, columns, size, features = kernel.shape
    groups = form.groups
    weights = kernel.reshape(rows * columns, size, groups, features // groups)
    terms = [
        jnp.einsum(
            "bhwgi,igo->bhwgo",
            window.reshape(*window.shape[:3], groups, size),
            weights[place],
            precision=form.precision,
        )
        for place, window in enumerate(_windows(x, (rows, columns), form))
    ]
    out = functools.reduce(jnp.add, terms)
    return out.reshape(*out.shape[:3], features)
