"""PC-LC: the objective is its losses, after cross-entropy; range errors."""

import chex
import jax
import numpy as np
import pytest

from jaxrobust import defenses, losses
from jaxrobust.defenses import base

ATTACK = {"eps": 0.1, "step_size": 0.05, "steps": 2, "norm": "linf"}


def logits_of(problem, x):
    model, params, model_state, _ = problem
    out, _ = base.forward(model, params, model_state, x, jax.random.key(4))
    return out.logits


def expected(problem, x, margin, weight):
    y, z = problem[3]["label"], logits_of(problem, x)
    return (
        losses.pc(z, y, margin).mean() + weight * losses.logit_constraint(z, y).mean()
    )


def test_objective_is_pc_plus_weighted_constraint(problem, evaluate):
    defense = defenses.pc_lc(
        problem[0], attack=ATTACK, margin=0.8, constraint_weight=0.3
    )
    value, metrics, _, batch = evaluate(defense)
    assert "attacked" not in batch
    chex.assert_trees_all_close(
        value, expected(problem, batch["image"], 0.8, 0.3), rtol=1e-5
    )
    chex.assert_trees_all_close(
        value, metrics["pc"] + 0.3 * metrics["logit_constraint"], rtol=1e-6
    )
    assert "accuracy" in metrics


def test_cross_entropy_comes_first(problem, evaluate):
    """The last warm-up step has the value and gradient of plain training."""
    defense = defenses.pc_lc(problem[0], attack=ATTACK, warmup_steps=3)
    plain = evaluate(defenses.standard(problem[0]))
    value, _, grads, batch = evaluate(defense, 2)
    chex.assert_trees_all_close(value, plain[0], rtol=1e-6)
    chex.assert_trees_all_close(grads, plain[2], rtol=1e-4, atol=1e-5)
    after = evaluate(defense, 3)[0]
    chex.assert_trees_all_close(
        after, expected(problem, batch["image"], 0.995, 0.05), rtol=1e-5
    )


def test_on_attacked_images(problem, evaluate):
    defense = defenses.pc_lc(problem[0], attack=ATTACK, attack_name="pgd")
    value, metrics, _, batch = evaluate(defense)
    moved = np.abs(batch["attacked"] - batch["image"]).max()
    chex.assert_trees_all_close(moved, 0.1, rtol=1e-5)
    chex.assert_trees_all_close(
        value, expected(problem, batch["attacked"], 0.995, 0.05), rtol=1e-5
    )
    assert "robust_accuracy" in metrics


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"margin": 1.2}, r"`margin` must be in \[0, 1\].* got 1.2"),
        ({"margin": -0.1}, r"`margin` must be in \[0, 1\].* got -0.1"),
        ({"constraint_weight": -1.0}, "`constraint_weight` must be at least 0"),
        ({"attack_name": "pdg"}, "Unknown attack 'pdg'.*pgd"),
        ({"warmup_steps": -5}, "`warmup_steps` must be at least 0"),
    ],
)
def test_out_of_range(problem, fields, message):
    with pytest.raises(ValueError, match=message):
        defenses.create("pc_lc", problem[0], {"attack": ATTACK, **fields})
