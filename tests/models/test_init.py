"""Initial values, drawn with enough weights to tell the distributions apart."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.models import layers, ssp
from tests.marks import full_but


def drawn(module, channels=16):
    x = jnp.ones((1, 4, 4, channels))
    init = jax.jit(module.init, compiler_options={"xla_backend_optimization_level": 0})
    params = init(jax.random.key(0), x)["params"]
    return jax.tree.map(np.asarray, params)


def assert_uniform(values, low, high):
    span = high - low
    assert low <= values.min() < low + 0.2 * span
    assert high - 0.2 * span < values.max() <= high
    assert abs(values.mean() - (low + high) / 2) < 0.2 * span


def net_parts(norm="b", init="basic", blocks=3):
    return ssp.SSPNet(norm=norm, init_option=init, blocks=blocks).parts()


def test_cifar_kaiming_uniform_of_depth():
    params = drawn(ssp.Block("res", net_parts()))
    fan_in = 9 * 16
    bound = np.sqrt(6 / ((1 + 5 * 9) * fan_in))
    assert_uniform(params["conv1"]["kernel"], -bound, bound)
    assert_uniform(params["conv2"]["bias"], -1 / np.sqrt(fan_in), 1 / np.sqrt(fan_in))
    assert_uniform(params["norm1"]["scale"], 0, 1)
    assert not params["norm1"]["bias"].any()


def test_other_norms_start_at_one():
    params = drawn(ssp.Block("res", net_parts("g")))
    assert (params["norm1"]["scale"] == 1).all()


@pytest.mark.parametrize(
    ("integrator", "factor"),
    full_but([("ark", 1), ("ssp2", 2), ("ssp3", 3)], [("ssp2", 2)]),
)
def test_upscale(integrator, factor):
    basic = drawn(ssp.Block(integrator, net_parts()), 4)
    params = drawn(ssp.Block(integrator, net_parts(init="upscale")), 4)
    for conv in ("conv1", "conv2"):
        want = np.sqrt(factor) * basic[conv]["kernel"]
        chex.assert_trees_all_close(params[conv]["kernel"], want, rtol=1e-5)
        chex.assert_trees_all_equal(params[conv]["bias"], basic[conv]["bias"])


def test_torch_default():
    params = drawn(ssp.Block("res", ssp.Parts()))
    bound = 1 / np.sqrt(9 * 16)
    assert_uniform(params["conv1"]["kernel"], -bound, bound)
    assert (params["norm1"]["scale"] == 1).all()


def test_kaiming_normal_fan_out():
    module = layers.Conv(64, 3, kernel_init=ssp.Parts(init="kn").kernel_init())
    kernel = drawn(module, 8)["kernel"]
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.05)
    assert abs(kernel).max() > 2.5 * kernel.std()


def test_orthogonal():
    kernel = drawn(ssp.Block("res", ssp.Parts(init="ortho")))["conv1"]["kernel"]
    rows = kernel.reshape(-1, 16)
    chex.assert_trees_all_close(rows.T @ rows, np.eye(16), rtol=0, atol=1e-5)


def test_ark_scalars():
    params = drawn(ssp.Block("ark"))
    assert (params["a"], params["b"]) == (-1.0, 0.5)
    assert ssp.SSPNet().ark_init == (0.25, 1.0)
    assert ssp.SSPMnist().ark_init == (-1.0, 0.5)
