"""What the objectives share: the training attack and its warm-up."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import models
from jaxrobust.defenses import base

ATTACK = {"norm": "linf", "eps": 0.1, "step_size": 0.05, "steps": 2, "quantize": False}


@pytest.fixture(scope="module")
def setting():
    model = models.create("ssp_mnist", integrator="res", blocks=1, width=4, norm="b")
    x = jax.random.uniform(jax.random.key(0), (4, 12, 12, 1), minval=0.3, maxval=0.7)
    variables = model.init(jax.random.key(1), x)
    y = jnp.argmax(models.logits_fn(model, variables)(x), -1)
    batch = {
        "image": x,
        "label": (y + 1) % 10,
        "key": jax.random.split(jax.random.key(2), 4),
    }
    params = {"model": variables["params"], "extra": {}}
    state = {"batch_stats": variables["batch_stats"]}
    return model, params, state, batch


def attacked(setting, *, step=0, key=3, **fields):
    model, params, state, batch = setting
    fields = {"name": "fgsm", "attack": ATTACK, "attack_bn": "eval", **fields}
    prepare = base.attacker(model, **fields)
    made = prepare(params, state, batch, jax.random.key(key), jnp.int32(step))
    chex.assert_trees_all_equal_shapes_and_dtypes(made["attacked"], batch["image"])
    chex.assert_tree_all_finite(made)
    return made["attacked"]


def test_the_radius_grows_over_the_first_steps(setting):
    image = setting[-1]["image"]
    for step, share in ((0, 0.25), (1, 0.5), (3, 1.0), (30, 1.0)):
        found = attacked(setting, step=step, warmup_steps=4)
        chex.assert_trees_all_close(
            jnp.abs(found - image).max(), 0.1 * share, rtol=1e-5
        )


def test_a_radius_is_drawn_for_each_batch(setting):
    """All images of a batch share it; another key draws another, in the range."""
    image, radii = setting[-1]["image"], []
    for key in range(4):
        found = attacked(setting, key=key, eps_range=(0.02, 0.05))
        each = jnp.abs(found - image).max((1, 2, 3))
        chex.assert_trees_all_close(each, each[0], rtol=1e-5)
        radii.append(float(each[0]))
    assert len(set(radii)) == 4
    assert min(radii) >= 0.02 - 1e-7
    assert max(radii) <= 0.05 + 1e-7


def test_predicted_labels_are_attacked_instead_of_the_true_ones(setting):
    model, params, state, batch = setting
    true = attacked(setting)
    predicted = attacked(setting, labels="predicted")
    right = (model, params, state, {**batch, "label": (batch["label"] - 1) % 10})
    assert not np.array_equal(true, predicted)
    chex.assert_trees_all_equal(predicted, attacked(right))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "pdg"}, "pdg.*Did you mean.*pgd"),
        ({"attack_bn": "test"}, "attack_bn.*train, eval.*'test'"),
        ({"labels": "model"}, "labels.*true, predicted.*'model'"),
        ({"eps_range": (0.05, 0.02)}, r"eps_range.*\(0.05, 0.02\)"),
        ({"attack": {**ATTACK, "eps": -1.0}}, "eps.*-1"),
    ],
)
def test_mistakes_are_found_when_the_attack_is_built(setting, fields, message):
    with pytest.raises(ValueError, match=message):
        attacked(setting, **fields)


def test_an_unknown_hyperparameter_is_refused(setting):
    with pytest.raises(TypeError, match="alpha"):
        attacked(setting, attack={**ATTACK, "alpha": 1})
