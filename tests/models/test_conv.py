import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxrobust import models
from jaxrobust.models import layers

NHWC = ("NHWC", "HWIO", "NHWC")
CASES = [
    # height, width, kernel, strides, padding
    (8, 7, (3, 3), (1, 1), [(1, 1), (1, 1)]),
    (8, 9, (3, 3), (2, 2), [(1, 1), (1, 1)]),
    (7, 7, (4, 4), (2, 2), [(1, 1), (1, 1)]),
    (9, 6, (1, 1), (2, 2), [(0, 0), (0, 0)]),
    (9, 8, (3, 2), (3, 1), [(2, 0), (0, 3)]),
    (5, 5, (5, 5), (1, 1), [(0, 0), (0, 0)]),
    (6, 6, (2, 2), (1, 1), [(3, 3), (4, 2)]),
    (8, 8, (3, 3), (2, 1), "SAME"),
    (8, 8, (3, 3), (3, 3), "VALID"),
]


def stock(x, kernel, strides, padding):
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=NHWC)


def ours(x, kernel, strides, padding):
    return layers.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=NHWC
    )


def arrays(height, width, kernel, dtype, channels=(4, 5)):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(3, height, width, channels[0]))
    return jnp.asarray(x, dtype), jnp.asarray(
        generator.normal(size=(*kernel, *channels)), dtype
    )


# A sum over places, a product of patches, the backend's kernel (its gradient scattered)
# and without; more channels than pixels.
CHANNELS = [(2, 5), (3, 9), (5, 9), (9, 5), (10, 800)]


@pytest.mark.parametrize(
    ("case", "channels", "dtype"),
    [(case, c, "float64") for case in CASES for c in CHANNELS]
    + [
        (case, c, dtype)
        for case in CASES[:2]
        for c in CHANNELS
        for dtype in ("float32", "bfloat16")
    ],
    ids=str,
)
def test_equal_to_lax_with_gradients(case, channels, dtype):
    height, width, size, strides, padding = case
    with jax.enable_x64(dtype == "float64"):
        x, kernel = arrays(height, width, size, dtype, channels)

        def loss(convolve, x, kernel):
            return jnp.sum(jnp.sin(convolve(x, kernel, strides, padding)))

        results = [
            jax.jit(jax.value_and_grad(lambda *a, f=f: loss(f, *a), (0, 1)))(x, kernel)
            for f in (ours, stock)
        ]
    tolerance = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 3e-2}[dtype]
    chex.assert_trees_all_equal_shapes_and_dtypes(*results)
    for got, want in zip(*map(jax.tree.leaves, results), strict=True):
        chex.assert_type(got, dtype)
        got, want = (np.asarray(a, np.float64) for a in (got, want))
        chex.assert_trees_all_close(got, want, rtol=0, atol=tolerance * abs(want).max())


@pytest.mark.parametrize("case", CASES[:7], ids=str)
def test_gradients_of_grouped_convolutions(case):
    height, width, size, strides, padding = case
    with jax.enable_x64(True):
        generator = np.random.default_rng(0)
        x = jnp.asarray(generator.normal(size=(2, height, width, 6)))
        kernel = jnp.asarray(generator.normal(size=(*size, 2, 9)))

        def loss(convolve, x, kernel):
            out = convolve(
                x, kernel, strides, padding, dimension_numbers=NHWC,
                feature_group_count=3,
            )  # fmt: skip
            return jnp.sum(jnp.sin(out))

        got, want = (
            jax.jit(jax.value_and_grad(lambda *a, f=f: loss(f, *a), (0, 1)))(x, kernel)
            for f in (layers.conv_general_dilated, lax.conv_general_dilated)
        )
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        chex.assert_trees_all_close(a, b, rtol=0, atol=1e-12 * np.abs(b).max())


def test_eager_equals_jit():
    x, kernel = arrays(8, 8, (3, 3), jnp.float32)
    grad = jax.grad(lambda x: jnp.sum(jnp.sin(ours(x, kernel, (2, 2), "SAME"))))
    chex.assert_trees_all_close(grad(x), jax.jit(grad)(x), rtol=1e-5, atol=1e-5)


def test_gradient_of_a_gradient():
    x, kernel = arrays(6, 6, (3, 3), jnp.float32)

    def penalty(convolve, x, kernel):
        grad = jax.grad(lambda x: jnp.sum(jnp.sin(convolve(x, kernel, (1, 1), "SAME"))))
        return jnp.sum(grad(x) ** 2)

    got, want = (
        jax.jit(jax.grad(lambda *a, f=f: penalty(f, *a), (0, 1)))(x, kernel)
        for f in (ours, stock)
    )
    for a, b in zip(got, want, strict=True):
        chex.assert_trees_all_close(a, b, rtol=1e-4, atol=1e-4)


def test_vmap_over_images_and_over_kernels():
    x, kernel = arrays(6, 6, (3, 3), jnp.float32)
    many, kernels = jnp.stack([x, 2 * x]), jnp.stack([kernel, -kernel])

    def grads(convolve):
        grad = jax.grad(lambda x, k: jnp.sum(jnp.sin(convolve(x, k, (1, 1), "SAME"))))
        return jax.jit(jax.vmap(grad, (0, None)))(many, kernel), jax.jit(
            jax.vmap(grad, (None, 0))
        )(x, kernels)

    for a, b in zip(grads(ours), grads(stock), strict=True):
        chex.assert_trees_all_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "fields",
    [{"kernel_dilation": 2}, {"input_dilation": 2}],
)
def test_other_convolutions_take_the_stock_path(fields):
    x, _ = arrays(8, 8, (3, 3), jnp.float32)
    hook = layers.conv_general_dilated
    plain, hooked = (
        nn.Conv(6, (3, 3), conv_general_dilated=f, **{"padding": 2, **fields})
        for f in (None, hook)
    )
    variables = plain.init(jax.random.key(0), x)
    chex.assert_trees_all_equal(plain.apply(variables, x), hooked.apply(variables, x))
    jax.jvp(lambda x: hooked.apply(variables, x), (x,), (x,))  # forward mode works


def in_loop(loop_safe, argument):
    """Lowers three gradient steps of a network inside a loop."""
    model = models.create(
        "ssp_cifar", integrator="ssp2", blocks=1, width=4, loop_safe=loop_safe
    )
    x = jnp.ones((2, 8, 8, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    variables = jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), shapes)

    def loss(variables, x):
        return jnp.sum(model.apply(variables, x).logits ** 2)

    def body(_, carry):
        moved = jax.grad(loss, argument)(*carry)
        carry = list(carry)
        carry[argument] = jax.tree.map(jnp.add, carry[argument], moved)
        return tuple(carry)

    def run(variables, x):
        return lax.fori_loop(0, 3, body, (variables, x))

    return jax.jit(run).lower(variables, x).as_text()


@pytest.mark.parametrize("argument", [0, 1], ids=["weights", "images"])
def test_loops_hold_nothing_but_fast_convolutions(argument):
    fast = "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"

    def layouts(text):
        return set(re.findall(r"dim_numbers = (\[.*?\]x\[.*?\]->\[.*?\])", text))

    safe, plain = in_loop(True, argument), in_loop(False, argument)
    assert layouts(safe) == {fast}
    assert layouts(plain) > {fast}


def test_forward_mode_needs_loop_safe_off():
    x = jnp.ones((1, 8, 8, 3))
    for loop_safe in (True, False):
        conv = layers.Conv(4, 3, computing=layers.Computing(loop_safe=loop_safe))
        variables = conv.init(jax.random.key(0), x)

        def apply(x, conv=conv, variables=variables):
            return conv.apply(variables, x)

        if loop_safe:
            with pytest.raises(TypeError, match="custom_vjp"):
                jax.jvp(apply, (x,), (x,))
        else:
            chex.assert_shape(jax.jvp(apply, (x,), (x,))[1], (1, 6, 6, 4))
