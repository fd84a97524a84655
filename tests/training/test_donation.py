"""The state is updated in place: every buffer of it is an output's too."""

import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import models
from jaxrobust.training import check, config, optimizer, state, step
from tests.marks import full_but


class Encoder(nn.Module):
    """Four levels without a convolution: quick to compile."""

    @nn.compact
    def __call__(self, x, *, train):
        levels = {}
        for level, strides in (("c2", 2), ("c3", 2), ("c4", 1), ("c5", 2)):
            x = nn.elu(nn.Dense(4, name=level)(x[:, ::strides, ::strides]))
            levels[level] = x
        return levels


FPD = models.fpd(Encoder(), num_classes=3, pyramid=4, widths=(4, 4), dropout=0.0)
SSP = models.create("ssp_mnist", integrator="res", blocks=1, width=4, norm="b")


@pytest.mark.parametrize(
    ("objective", "model", "ema", "parts"),
    full_but(
        [
            ("standard", SSP, 0.0, 1),
            ("pgd", SSP, 0.9, 1),
            ("pgd", SSP, 0.9, 2),
            ("pcl", SSP, 0.0, 1),
            ("fpd", FPD, 0.0, 1),
        ],
        [("pgd", SSP, 0.9, 2), ("pcl", SSP, 0.0, 1)],
    ),
    ids=["standard", "pgd-ema", "pgd-ema-parts", "pcl", "fpd"],
)
def test_every_buffer_of_the_state_is_updated_in_place(objective, model, ema, parts):
    settings = config.base().to_dict()
    settings["attack"]["steps"] = 1
    settings["objective"]["layers"] = ("penultimate",)
    defense = check.make_defense(settings, model, objective)
    labels = {name: {} for name in ("proximity", "contrastive")}
    tx = optimizer.make_optimizer(settings["optimizer"], defense.labels, labels)
    example = jnp.zeros((1, 8, 8, 1))
    variables = state.init_variables(model, example, jax.random.key(0))
    first = state.create(
        variables, defense, tx, example, key=jax.random.key(1), ema=ema > 0
    )
    rows = {
        "image": np.zeros((4, 8, 8, 1), np.uint8),
        "label": np.arange(4, dtype=np.int32) % 3,
        "index": np.arange(4, dtype=np.int32),
    }
    run = step.make_train_step(
        defense, tx, optax.constant_schedule(0.1), lambda x, keys: x,
        ema=ema, accumulate=parts,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "Some donated buffers were not usable"
        lowered = run.lower(first, rows, jax.random.key(2))
        compiled = lowered.compile({"xla_backend_optimization_level": 0})
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(first))
    assert compiled.memory_analysis().alias_size_in_bytes == size
