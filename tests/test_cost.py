"""Counts of operations on paper, against closed forms and XLA's own."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from benchmarks import cost, flops, traced


def convolve(x, kernel, stride=1, groups=1):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


X, KERNEL = jnp.ones((2, 5, 4, 6)), jnp.ones((3, 3, 6, 8))


def test_convolution_counts_taps_inside_the_image():
    found = flops.operations(convolve, X, KERNEL)
    conv, _ = found
    taps = (3 * 5 - 2) * (3 * 4 - 2)
    assert flops.flops(found) == 2 * 2 * 8 * 6 * taps
    assert conv.bytes == 4 * (X.size + KERNEL.size + 2 * 5 * 4 * 8)
    assert conv.sides == (2 * 5 * 4, 8, 6 * 9)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_and_their_gradients_agree_with_xla(stride, groups):
    kernel = KERNEL[:, :, : 6 // groups]

    def gradients(x, kernel, cotangent):
        pull = jax.vjp(lambda x, k: convolve(x, k, stride, groups), x, kernel)[1]
        return pull(cotangent)

    out = jax.eval_shape(lambda: convolve(X, kernel, stride, groups))
    arguments = (X, kernel, jnp.ones(out.shape))
    found = flops.operations(gradients, *arguments)
    matrices = sum(o.times * o.flops for o in found if o.kind == "matrix")
    analysis = jax.jit(gradients).lower(*arguments).cost_analysis()
    assert isinstance(analysis, dict)
    # The forward pass, whose result nobody needs, is in the traced program only.
    forward = flops.flops(
        flops.operations(lambda x, k, _: convolve(x, k, stride, groups), *arguments)
    )
    assert matrices - forward == pytest.approx(analysis["flops"], rel=0.01)


def test_matrix_product_counts_and_loops_multiply():
    a = jnp.ones((3, 5))

    def once(x):
        return x @ a.T @ a

    found = flops.operations(lambda x: lax.fori_loop(0, 7, lambda _, x: once(x), x), a)
    assert flops.flops(found) == 7 * 2 * (2 * 3 * 5 * 3)
    assert {o.times for o in found} == {7}


def test_statistics_over_the_batch_are_reductions_to_share():
    x = jnp.ones((4, 2, 2, 3))
    over = lambda *axes: flops.operations(lambda x: x.sum(axes), x)[0].over_batch  # noqa: E731
    assert over(0, 1, 2)
    assert not over(1, 2)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("pgd-7", (7, 7)), ("uniform_noise-10", (10, 0)), ("square-5000", (5002, 0))],
)
def test_calls_of_attacks(name, expected):
    assert traced.calls(name) == expected


def test_autoattack_makes_its_published_steps():
    """100 and 9 x 100 of APGD, 9 x 100 of FAB-T, 5,000 queries, and first points."""
    forward, backward = traced.autoattack()
    assert 1900 <= backward <= 1920
    assert 900 + 5000 <= forward - backward <= 900 + 5020


def step_of(*found):
    return traced.Step(found, gradients=450_000_000, update=0)


def test_an_operation_takes_as_long_as_what_bounds_it():
    device = cost.H100
    dense = flops.Operation("matrix", 2, 1e12, 1.0, (64, 64, 64))
    found = cost.seconds(step_of(dense), device, 1)
    expected = 2 * 1e12 / (device.peak * device.reached)
    assert found == pytest.approx(
        {"arithmetic": expected, "memory": 0, "launch": 0, "all-reduce": 0}
    )
    # Half of a tile is empty in each of two sides.
    narrow = flops.Operation("matrix", 1, 1e12, 1.0, (64, 16, 16))
    found = cost.seconds(step_of(narrow), device, 1)
    assert found["arithmetic"] == pytest.approx(4 * expected / 2)
    small = flops.Operation("other", 3, 0.0, 8.0)
    assert cost.seconds(step_of(small), device, 1)["launch"] == 3 * device.launch


def test_all_reduces_are_a_ring_and_a_latency_each():
    pair = flops.Operation("reduction", 10, 0.0, 8.0, over_batch=True)
    found = cost.seconds(step_of(pair), cost.H100, 8)
    assert found["all-reduce"] == pytest.approx(
        2 * 7 / 8 * 1e-3 + 6 * cost.H100.latency
    )


def test_tables_go_to_their_places():
    page = "a\n<!-- one -->\nold\n<!-- end -->\nb\n<!-- two -->\n<!-- end -->\n"
    table = cost.markdown([["x", "y"], ["\\1", "2"]])
    found = cost.replace(page, {"one": table})
    assert found == page.replace("old\n", table)
    with pytest.raises(ValueError, match="three"):
        cost.replace(page, {"three": table})


def test_a_step_of_a_config_is_its_attack_and_its_update():
    """PGD-4 and an update: 4 gradients to the image, one to the weights."""
    work = traced.training_step("quickstart", 8)
    n = traced.network("quickstart")
    expected = 8 * (4 * n["input"] + n["weights"])
    assert flops.flops(list(work.found)) == pytest.approx(expected, rel=0.02)
    assert work.gradients == 4 * n["parameters"]
    assert work.update == (3 + 2) * work.gradients  # weights and momentum
