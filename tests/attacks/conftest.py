"""Settings of the tests of attacks, and the golden data's own network."""

import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden"


@pytest.fixture
def compilations():
    """Tells how many programs were compiled so far."""
    compiled = []

    def listen(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield lambda: len(compiled)
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture(scope="session")
def golden():
    """`load(case)`, `nhwc(images)` and `net(case's data)` of the golden data."""
    return types.SimpleNamespace(load=_load, nhwc=_nhwc, net=_net)


def _load(name):
    with np.load(GOLDEN / f"{name}.npz") as data:
        return {k: data[k] for k in data}


def _nhwc(x):
    return np.transpose(x, (0, 2, 3, 1))


def _net(data):
    """Three tanh convolutions and a linear layer, in the precision of the moment."""
    sd = {
        k[3:]: jnp.asarray(v, jnp.result_type(float))
        for k, v in data.items()
        if "sd/" in k
    }

    def logits_fn(x):
        for i, stride in enumerate((1, 2, 2), 1):
            x = jax.lax.conv_general_dilated(
                x, sd[f"conv{i}.weight"], (stride, stride), [(1, 1)] * 2,
                dimension_numbers=("NHWC", "OIHW", "NHWC"),
            )  # fmt: skip
            x = jnp.tanh(x + sd[f"conv{i}.bias"][None, None, None])
        flat = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
        return flat @ sd["fc.weight"].T + sd["fc.bias"][None]

    return logits_fn
