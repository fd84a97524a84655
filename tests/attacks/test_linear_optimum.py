"""On a linear two-class model every norm's optimum is known."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import attacks, losses, threat

SHAPE = (6, 4, 4, 2)
EPS = {"linf": 0.3, "l2": 0.4, "l1": 2.5}


@pytest.fixture(params=[True, False], ids=["inside", "at the wall"])
def problem(request):
    """A weight vector, and images that the box does not touch, or does."""
    w = jax.random.normal(jax.random.key(0), SHAPE[1:])
    low, high = (0.45, 0.55) if request.param else (0.0, 1.0)
    x = jax.random.uniform(jax.random.key(1), SHAPE, minval=low, maxval=high)
    return w, x, jnp.array([0, 1] * 3), request.param


def linear(w):
    def logits_fn(x):
        score = jnp.sum(x * w[None], axis=(1, 2, 3))
        return jnp.stack([score, -score], axis=1)

    return logits_fn


def optimum(w, x, y, norm):
    """The best point of ball and box, by NumPy, one image at a time."""
    eps, result = EPS[norm], []
    for image, label in zip(np.asarray(x, float), np.asarray(y), strict=True):
        g = np.asarray(w, float) * (1 if label else -1)
        if norm == "linf":
            best = np.clip(image + eps * np.sign(g), 0, 1)
        elif norm == "l2":
            best = image + eps * g / np.linalg.norm(g)
        else:
            best, left = image.copy(), eps
            for place in np.argsort(-np.abs(g), axis=None):
                i = np.unravel_index(place, g.shape)
                room = (1 - image[i]) if g[i] > 0 else image[i]
                step = min(room, left)
                best[i] += np.sign(g[i]) * step
                left -= step
        result.append(best)
    return np.stack(result)


@pytest.mark.parametrize("norm", threat.NORMS)
@pytest.mark.parametrize("name", ["fgsm", "bim", "mim", "pgd"])
def test_optimum(name, norm, problem):
    w, x, y, inside = problem
    if norm == "l2" and not inside:
        x = 0.45 + 0.1 * x  # ball and box together have no closed form in L2
    steps = {} if name == "fgsm" else {"steps": 30, "step_size": EPS[norm] / 3}
    attack = attacks.get(name, eps=EPS[norm], norm=norm, loss="margin", **steps)
    x_adv = attack(linear(w), x, y, jax.random.key(2))
    best = optimum(w, x, y, norm)
    margin = losses.margin(linear(w)(x_adv), y)
    expected = losses.margin(linear(w)(jnp.asarray(best, jnp.float32)), y)
    # In L2 projected steps converge to it; all else ends in it.
    exact = name == "fgsm" or norm != "l2"
    chex.assert_trees_all_close(margin, expected, rtol=1e-5 if exact else 1e-2)
    if exact:
        chex.assert_trees_all_close(x_adv, best, rtol=0, atol=2e-6)


def test_targeted_is_the_opposite(problem):
    w, x, y, _ = problem
    steps = {"eps": 0.3, "step_size": 0.1, "steps": 5}
    away = attacks.bim(linear(w), x, y, **steps)
    towards = attacks.bim(linear(w), x, 1 - y, targeted=True, **steps)
    chex.assert_trees_all_close(away, towards, rtol=0, atol=1e-6)
