"""Each sign of masked gradients: raised when it is there, silent when not."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import data
from jaxrobust.evaluation import curve, flags
from jaxrobust.evaluation.setting import Setting


def attack(label, name, share, eps=0.1):
    return {
        "label": label,
        "name": name,
        "norm": "linf",
        "eps": eps,
        "robust_accuracy": share,
    }


def names(found):
    return [flag["name"] for flag in found]


def test_probabilities():
    logits = np.random.default_rng(0).normal(size=(5, 3))
    assert flags.from_logits(logits) == []
    assert names(flags.from_logits(np.asarray(jax.nn.softmax(logits)))) == [
        "probabilities_as_logits"
    ]


@pytest.mark.parametrize(
    ("weak", "flag"),
    [
        ("fgsm", "single_step_beats_iterative"),
        ("uniform_noise", "black_box_beats_white_box"),
    ],
)
def test_weak_attack_beats_iterative(weak, flag):
    pgd = attack("pgd20", "pgd", 0.5)
    assert flags.from_attacks([attack("w", weak, 0.6), pgd]) == []
    assert flags.from_attacks([attack("w", weak, 0.3, eps=0.2), pgd]) == []
    assert flags.from_attacks([attack("w", weak, 0.3)]) == []
    found = flags.from_attacks([attack("w", weak, 0.3), pgd])
    assert names(found) == [flag]
    assert "30.0%" in found[0]["message"]
    assert found[0]["values"] == {"weak": 0.3, "iterative": 0.5}


def described(shares, eps, n=200):
    correct = np.arange(n)[:, None] < np.asarray(shares) * n
    return curve.describe(correct, eps, [str(e) for e in eps], "linf", 5)


def test_curve():
    quiet = described([0.9, 0.5, 0.0], [0, 0.1, 1])
    assert flags.from_curve(quiet, 10, 100) == []
    short = described([0.9, 0.5], [0, 0.1])
    assert flags.from_curve(short, 10, 100) == []
    blind = described([0.9, 0.5, 0.4], [0, 0.1, 0.5])
    found = flags.from_curve(blind, 10, 100)
    assert names(found) == ["above_chance_at_largest_eps"]
    assert "40.0% resist" in found[0]["message"]
    rising = described([0.9, 0.3, 0.5], [0, 0.1, 0.2])
    assert names(flags.from_curve(rising, 10, 100)) == ["curve_rises"]


class Masked(nn.Module):
    """Bright images have a gradient that is zero, not finite, or as it should be."""

    kind: str

    @nn.compact
    def __call__(self, images, *, train=False):
        score = images.sum((1, 2, 3))
        bright = score > 2
        if self.kind == "zero":
            score = jnp.where(bright, jax.lax.stop_gradient(score), score)
        if self.kind == "non_finite":  # as the derivative of a root at 0 is
            score += jnp.sqrt(jnp.where(bright, 0 * score, 1.0))
        return jnp.stack([score, -score], -1)


@pytest.mark.parametrize("kind", ["zero", "non_finite", "fine"])
def test_gradients_that_no_attack_can_follow(kind):
    images = np.full((10, 2, 2, 1), 100, np.uint8)
    images[:4] = 200
    dataset = data.Dataset(images, np.zeros(10, np.int32), ("a", "b"))
    setting = Setting(
        model=Masked(kind),
        variables={},
        dataset=dataset,
        indices=np.arange(10),
        key=jax.random.key(0),
        batch_size=4,
        mesh=None,
        precision="highest",
        progress=None,
    )
    found = flags.gradients(setting)
    shares = {k: found[f"{k}_gradient_share"] for k in ("zero", "non_finite")}
    assert shares == pytest.approx({k: 0.4 * (k == kind) for k in shares})
    raised = flags.from_gradients(found)
    assert names(raised) == ([] if kind == "fine" else [f"{kind}_gradients"])
    assert all("40.0%" in flag["message"] for flag in raised)
