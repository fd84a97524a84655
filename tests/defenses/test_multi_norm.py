"""Attacks in several balls: each in its own, and the worst of them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import defenses, losses, threat
from jaxrobust.array_types import Norm
from jaxrobust.defenses import base

ATTACK = {"norm": "linf", "eps": 0.1, "step_size": 0.05, "steps": 3, "quantize": False}
NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")
RADII = (0.02, 0.3, 1.5)


def made(problem, mix, key=4, **options):
    """The prepared images of a mix, and the loss of the attacked network."""
    model, params, state, batch = problem
    given = {"attack": ATTACK, "norms": NORMS, "radii": RADII, "mix": mix, **options}
    [phase] = defenses.create("multi_norm", model, given).phases
    assert phase.prepare is not None
    key, step = jax.random.key(key), jnp.int32(0)
    found = jax.jit(phase.prepare)(params, state, batch, key, step)
    logits_fn = base.attacked_fn(model, params, state, key, "eval")
    return found, lambda x: losses.cross_entropy(logits_fn(x), batch["label"])


def inside(x_adv, x):
    """In which balls the images are, [B, 3]."""
    each = [
        threat.distance(x_adv, x, norm=norm) <= eps + 1e-5
        for norm, eps in zip(NORMS, RADII, strict=True)
    ]
    return np.stack(each, 1)


def test_the_worst_of_all_balls(problem):
    x = problem[3]["image"]
    single, value = made(problem, "avg")
    assert sorted(single) == ["attacked0", "attacked1", "attacked2"]
    for number in range(3):
        assert inside(single[f"attacked{number}"], x)[:, number].all()
    worst, _ = made(problem, "max")
    losses_of = np.stack([value(images) for images in single.values()])
    chex.assert_trees_all_close(value(worst["attacked"]), losses_of.max(0), rtol=1e-4)


@pytest.mark.full
def test_one_ball_per_batch(problem):
    single, _ = made(problem, "avg")
    found = set()
    for key in range(8):
        attacked = made(problem, "random", key=key)[0]["attacked"]
        same = [np.allclose(attacked, one, atol=1e-6) for one in single.values()]
        assert sum(same) == 1
        found.add(same.index(True))
    assert len(found) > 1


def test_multi_steepest_descent_stays_in_a_ball_and_ascends(problem):
    x = problem[3]["image"]
    found, value = made(problem, "msd")
    assert inside(found["attacked"], x).any(1).all()
    # With one ball it is PGD from the image, of the best iterate.
    alone, _ = made(problem, "msd", norms=("l2",), radii=(0.3,))
    assert (value(found["attacked"]) >= value(x)).all()
    assert value(found["attacked"]).mean() >= value(alone["attacked"]).mean() - 1e-4


@pytest.mark.parametrize("mix", ["max", "avg"])
def test_the_loss_is_that_of_what_was_made(problem, evaluate, mix):
    options = {"attack": ATTACK, "norms": NORMS, "radii": RADII, "mix": mix}
    value, metrics, grads, _ = evaluate(
        defenses.create("multi_norm", problem[0], options)
    )
    assert np.isfinite(value)
    assert 0 <= metrics["robust_accuracy"] <= 1
    chex.assert_tree_all_finite(grads)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mix": "mean"}, "mix.*avg.*'mean'"),
        ({"norms": ("linf", "l3"), "radii": (0.1, 0.1)}, "norms.*linf.*'l3'"),
        ({"radii": (0.1,)}, r"`radii` must be one for each of `norms`.*\(0.1,\)"),
        ({"norms": (), "radii": ()}, "`radii` must be one for each"),
        ({"radii": (0.1, -1.0, 1.0)}, "eps.*-1"),
    ],
)
def test_mistakes_are_found_when_it_is_built(problem, options, message):
    with pytest.raises(ValueError, match=message):
        defenses.create("multi_norm", problem[0], {"attack": ATTACK, **options})
