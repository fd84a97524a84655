"""Attacks and certificates inside of `jax.shard_map`, which checks its types."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from jaxrobust import attacks, certify
from jaxrobust.attacks import registry
from tests.marks import full_but

WEIGHTS = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
QUICK = ["fgsm", "pgd", "fab", "jsma", "square"]
NAMES = [n for n in sorted(registry.table()) if n != "uniform_noise"]


def network(x):
    return jnp.tanh(x.reshape(len(x), -1)) @ WEIGHTS


def on_two_devices(function, x, y, keys):
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    rows = PartitionSpec("data")
    return jax.jit(
        jax.shard_map(function, mesh=mesh, in_specs=(rows,) * 3, out_specs=rows)
    )(x, y, keys)


@pytest.fixture
def examples():
    x = np.random.default_rng(1).random((4, 4, 4, 1)).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 4)
    return jnp.asarray(x), jnp.array([0, 1, 2, 0]), keys


@pytest.mark.parametrize("name", full_but(NAMES, QUICK))
def test_attacks_are_the_same(name, examples):
    own, of = registry.parameters(name), registry.table()[name]
    options = {"steps": 3, "queries": 6, "step_size": 0.03}
    options = {k: v for k, v in options.items() if k in own}
    if "eps" in own and (of.goal == "radius" or own["eps"].default is own["eps"].empty):
        options["eps"] = 0.1 if "linf" in of.norms else 1.0
    attack = registry.get(name, **options)

    def call(x, y, keys):
        return attack(network, x, y, keys)

    found, alone = on_two_devices(call, *examples), call(*examples)
    np.testing.assert_allclose(found, alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", full_but(["stadv", "recolor", "patch"], ["recolor"]))
def test_other_threats_are_the_same(name, examples):
    x, y, keys = examples
    x = jnp.repeat(x, 3, axis=-1)

    def call(x, y, keys):
        flat = lambda z: jnp.tanh(z.mean(-1).reshape(len(z), -1)) @ WEIGHTS  # noqa: E731
        options = {"side": 2} if name == "patch" else {}
        return getattr(attacks, name)(flat, x, y, key=keys, steps=2, **options)

    found, alone = on_two_devices(call, x, y, keys), call(x, y, keys)
    np.testing.assert_allclose(found, alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", full_but(certify.bounding.METHODS, ["crown"]))
def test_certificates_are_the_same(method, examples):
    def call(x, y, _):
        return certify.margin(network, x, y, eps=0.01, method=method)

    np.testing.assert_allclose(
        on_two_devices(call, *examples), call(*examples), rtol=1e-5, atol=1e-6
    )


def test_weights_that_are_given_to_all(examples):
    x, y, keys = examples
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    rows, everywhere = PartitionSpec("data"), PartitionSpec()

    def call(weights, x, y, keys):
        return attacks.pgd(
            lambda z: z.reshape(len(z), -1) @ weights, x, y, key=keys, eps=0.1,
            step_size=0.03, steps=3,
        )  # fmt: skip

    specs = (everywhere, rows, rows, rows)
    found = jax.shard_map(call, mesh=mesh, in_specs=specs, out_specs=rows)
    np.testing.assert_allclose(
        found(WEIGHTS, x, y, keys), call(WEIGHTS, x, y, keys), rtol=0, atol=1e-6
    )
