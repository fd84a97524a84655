"""Functions of NumPy and PyTorch under attacks that need no gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import attacks, bridges

DRAW = np.random.default_rng(0)
W = DRAW.normal(size=(32, 3)).astype(np.float32)
X = jnp.asarray(DRAW.uniform(0.3, 0.7, (5, 4, 4, 2)), jnp.float32)


def on_host(images):
    assert type(images) is np.ndarray
    return images.reshape(len(images), -1) @ W


def in_jax(x):
    return x.reshape(len(x), -1) @ W


Y = in_jax(X).argmax(-1)


@pytest.mark.parametrize("name", ["square", "hop_skip_jump"])
def test_the_same_as_a_network_in_jax(name):
    options = {"key": jax.random.key(0), "eps": 0.1, "queries": 30, "norm": "linf"}
    attack = getattr(attacks, name)
    got, want = (
        attack(f, X, Y, **options) for f in (bridges.numpy_model(on_host), in_jax)
    )
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_layouts():
    first = bridges.numpy_model(
        lambda x: on_host(x.transpose(0, 2, 3, 1)), layout="NCHW"
    )
    np.testing.assert_allclose(jax.jit(first)(X), in_jax(X), rtol=1e-5)
    with pytest.raises(ValueError, match="`layout` must be NHWC or NCHW, got 'HWC'"):
        bridges.numpy_model(on_host, layout="HWC")


def test_a_torch_module():
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(32, 3))
    model = bridges.torch_model(net)
    want = net(torch.tensor(np.asarray(X).transpose(0, 3, 1, 2))).detach().numpy()
    np.testing.assert_allclose(model(X), want, rtol=1e-5)


def test_what_are_no_logits_is_told():
    with pytest.raises(ValueError, match="must return floating logits, got int"):
        bridges.numpy_model(lambda x: np.zeros((len(x), 3), int))(X)
