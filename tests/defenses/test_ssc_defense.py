"""SSC-DM and MART objectives against their losses; range errors before compute."""

from typing import Any

import chex
import jax
import numpy as np
import pytest

from jaxrobust import defenses, losses
from jaxrobust.defenses import base

ATTACK = {"eps": 0.1, "step_size": 0.05, "steps": 2, "norm": "linf", "decay": 0.9}


def outputs(problem, batch):
    model, params, model_state, _ = problem
    key = jax.random.key(4)
    return [
        base.forward(model, params, model_state, batch[name], key)[0]
        for name in ("image", "attacked")
    ]


@pytest.mark.parametrize("embedding", ["logits", "penultimate"])
@pytest.mark.parametrize("same_class", [False, True])
def test_objective_is_its_three_terms(problem, evaluate, embedding, same_class):
    compare = "cosine" if same_class else "frobenius"
    defense = defenses.ssc(
        problem[0],
        attack=ATTACK,
        alpha=0.4,
        beta=0.7,
        structure_weight=20.0,
        embedding=embedding,
        distance="manhattan",
        same_class=same_class,
        compare=compare,
    )
    value, metrics, grads, batch = evaluate(defense)
    clean, attacked = outputs(problem, batch)
    y = batch["label"]
    h, h_adv = (
        out.logits if embedding == "logits" else out.features["penultimate"]
        for out in (clean, attacked)
    )
    structure = losses.spatial_structure(
        h, h_adv, "manhattan", y=y if same_class else None, compare=compare
    )
    expected = (
        0.4 * losses.cross_entropy(clean.logits, y).mean()
        + 0.7 * losses.cross_entropy(attacked.logits, y).mean()
        + 20 * structure
    )
    chex.assert_trees_all_close(value, expected, rtol=1e-5)
    chex.assert_trees_all_close(metrics["structure"], structure, rtol=1e-4)
    chex.assert_tree_all_finite(grads)


@pytest.mark.parametrize("name", ["fgsm", "pgd", "mim", "bim"])
def test_training_attacks(problem, evaluate, name):
    """Each stays in the ball and reaches its surface; defaults are the release's."""
    defense = defenses.ssc(problem[0], attack=ATTACK, attack_name=name)
    value, metrics, grads, batch = evaluate(defense)
    moved = np.abs(batch["attacked"] - batch["image"]).max()
    chex.assert_trees_all_close(moved, 0.1, rtol=1e-4)
    attacked = outputs(problem, batch)[1]
    hard = losses.cross_entropy(attacked.logits, batch["label"]).mean()
    chex.assert_trees_all_close(value, hard + 300 * metrics["structure"], rtol=1e-4)
    chex.assert_tree_all_finite(grads)


def test_an_attack_of_radius_zero_costs_no_structure(problem, evaluate):
    defense = defenses.ssc(problem[0], attack={**ATTACK, "eps": 0.0})
    value, metrics, grads, _ = evaluate(defense)
    assert metrics["structure"] == 0
    plain = evaluate(defenses.standard(problem[0]))
    chex.assert_trees_all_close(value, plain[0], rtol=1e-5)
    chex.assert_trees_all_close(grads, plain[2], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"alpha": -0.1}, "`alpha` must be at least 0 and finite, got -0.1"),
        ({"beta": float("nan")}, "`beta` must be at least 0 and finite, got nan"),
        ({"structure_weight": -1.0}, "`structure_weight` must be at least 0"),
        ({"alpha": 0.0, "beta": 0.0}, "`alpha` and `beta` are both 0"),
        ({"embedding": "logit"}, "`embedding` must be one of logits, penultimate"),
        ({"distance": "l2"}, "`distance` must be one of euc, manhattan, cos, got 'l2'"),
        ({"compare": "l2"}, "`compare` must be one of frobenius, cosine, got 'l2'"),
        ({"attack_name": "pdg"}, "Unknown attack 'pdg'.*pgd"),
        ({"attack_bn": "both"}, "`attack_bn` must be one of train, eval, got 'both'"),
    ],
)
def test_out_of_range(problem, fields, message):
    with pytest.raises(ValueError, match=message):
        defenses.create("ssc", problem[0], {"attack": ATTACK, **fields})


def test_a_weight_that_is_no_number(problem):
    with pytest.raises(TypeError, match="`structure_weight` must be a number, got '3"):
        defenses.ssc(problem[0], attack=ATTACK, structure_weight="300")  # pyright: ignore


def test_a_network_without_features_is_told(problem, evaluate):
    model, *_ = problem

    class Bare:
        def apply(self, *args, mutable, **kwargs):
            out, moved = model.apply(*args, mutable=mutable, **kwargs)
            return out.logits, moved

    made = evaluate(defenses.ssc(model, attack=ATTACK))[3]
    bare: Any = Bare()
    loss = defenses.ssc(bare, attack=ATTACK, embedding="penultimate").phases[0].loss
    with pytest.raises(ValueError, match=r"no 'penultimate' features.*'logits'"):
        loss(problem[1], problem[2], made, jax.random.key(0), 0)


@pytest.mark.parametrize(
    ("name", "fn"), [("mart", losses.mart), ("trades", losses.trades)]
)
def test_objectives_of_two_logits(problem, evaluate, name, fn):
    attack = {k: v for k, v in ATTACK.items() if k != "decay"}
    defense = defenses.create(name, problem[0], {"attack": attack, "beta": 3.0})
    value, metrics, _, batch = evaluate(defense)
    clean, attacked = outputs(problem, batch)
    expected = fn(clean.logits, attacked.logits, batch["label"], 3.0).mean()
    chex.assert_trees_all_close(value, expected, rtol=1e-5)
    assert set(metrics) == {"accuracy", "robust_accuracy"}
    moved = np.abs(batch["attacked"] - batch["image"]).max()
    assert 0 < moved <= 0.1 + 1e-6
    with pytest.raises(ValueError, match="`beta` must be at least 0 and finite"):
        defenses.create(name, problem[0], {"attack": attack, "beta": -1.0})
