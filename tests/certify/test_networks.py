"""No point of a ball leaves the bounds of a registered network, in both precisions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import attacks, certify, models
from tests.certify import networks
from tests.marks import full_but

SMALL = {
    "ssp_cifar": {"blocks": 1, "width": 4},
    "ssp_mnist": {"blocks": 1, "width": 8, "norm": "b"},
    "ssp_tinyimagenet": {"blocks": 1, "width": 4, "num_classes": 10},
    "pcl_resnet": {"depth": 8, "width": 4, "embedding_size": 16},
    "lenet5": {"num_classes": 5},
    "lenet_sigmoid": {},
    "cnn3": {"width": 2},
    "ibp_cnn": {"size": "medium", "num_classes": 3},
    "vgg": {"depth": 11, "width": 2},
    "alexnet": {"width": 1},
    "resnet": {"width": 4},
    "resnet_cifar": {"depth": 8, "width": 4},
    "fpd_resnet": {"layers": (1, 1, 1, 1), "width": 4},
    "fpd_resnext": {"layers": (1, 1, 1, 1), "width": 4},
    "preact_resnet": {"width": 4},
    "wide_resnet": {"depth": 10, "width": 1},
    "convnext": {"layers": (1, 1, 1, 1), "width": 4},
    "vit": {"blocks": 1, "width": 4, "heads": 2},
    "swin": {"layers": (1, 1, 1, 1), "width": 4, "head_size": 2, "window": 4},
    "xcit": {"blocks": 1, "width": 8, "heads": 2},
}
SHAPES = {
    "lenet5": (12, 12, 1),
    "lenet_sigmoid": (12, 12, 1),
    "cnn3": (20, 20, 1),
    "ibp_cnn": (16, 16, 1),
    "vgg": (32, 32, 3),
    "convnext": (32, 32, 3),
    "vit": (16, 16, 3),
    "swin": (32, 32, 3),
}
EPS = 2e-3


def made(name):
    """A small network with random weights whose outputs stay near 1."""
    shape = (1, *SHAPES.get(name, (8, 8, 3)))
    model = models.create(name, **SMALL[name])
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.ones(shape))
    rng = np.random.default_rng(0)

    def weight(path, s):
        if "var" in jax.tree_util.keystr(path):
            return rng.uniform(0.5, 1.5, s.shape).astype(s.dtype)
        fan = max(1, int(np.prod(s.shape[:-1])))
        return (rng.normal(size=s.shape) / np.sqrt(fan)).astype(s.dtype)

    variables = jax.tree_util.tree_map_with_path(weight, shapes)
    return models.logits_fn(model, variables), rng.uniform(0.2, 0.8, shape)


def points(x, count=200):
    """Corners of the ball, and points between."""
    rng = np.random.default_rng(1)
    sign = rng.choice([-1.0, 1.0], (count, *x.shape[1:]))
    share = np.where(rng.random((count, 1, 1, 1)) < 0.5, 1, rng.random(sign.shape))
    return x + EPS * sign * share


EACH = [(name, dtype) for name in models.names() for dtype in (np.float32, np.float64)]


@pytest.mark.parametrize(
    ("name", "dtype"),
    full_but(EACH, [("lenet5", np.float64), ("pcl_resnet", np.float32)]),
)
def test_no_point_leaves_the_bounds(name, dtype):
    with jax.enable_x64(dtype == np.float64):
        fn, x = made(name)
        z = points(x).astype(dtype)
        low, high = (x - EPS).astype(dtype)[0], (x + EPS).astype(dtype)[0]
        z, values = (
            np.clip(z, low, high),
            np.asarray(jax.jit(fn)(np.clip(z, low, high))),
        )
        for method in ("ibp", "crown_ibp"):
            bound = jax.jit(
                lambda a, b, m=method: certify.bounds(lambda q: fn(q[None])[0], a, b, m)
            )
            least, most = map(np.asarray, bound(low, high))
            assert (values >= least).all(), method
            assert (values <= most).all(), method


def test_attacks_stay_inside_the_margins_of_a_convolutional_network():
    """Of three methods, on the iterates of an attack; CROWN proves the most."""
    held = networks.load()["cnn"]
    fn = networks.network("cnn", held)
    x = jnp.asarray(
        np.random.default_rng(2).uniform(0.1, 0.9, (4, 8, 8, 1)), jnp.float32
    )
    y = jnp.argmax(fn(x), 1)
    found = {
        m: np.asarray(certify.margin(fn, x, y, eps=EPS, method=m))
        for m in ("ibp", "crown_ibp", "crown")
    }
    for steps in (3,):
        x_adv = attacks.bim(fn, x, y, eps=EPS, step_size=EPS / 3, steps=steps)
        logits = np.asarray(fn(x_adv))
        true = logits[np.arange(4), y]
        others = np.where(np.eye(5)[np.asarray(y)] > 0, -np.inf, logits)
        for margins in found.values():
            assert (margins <= true - others.max(1) + 1e-6).all()
    assert found["crown"].mean() > found["crown_ibp"].mean() > found["ibp"].mean()
