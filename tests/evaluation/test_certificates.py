"""What is proved, as evaluation and report tell it."""

import dataclasses
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import data
from jaxrobust.evaluation.analyses import certificates
from jaxrobust.evaluation.analyses.base import Context
from jaxrobust.evaluation.setting import Setting
from jaxrobust.report.figures import certificates as drawn
from jaxrobust.results import schema
from jaxrobust.results.npz import CLEAN

N = 12


class Threshold(nn.Module):
    """Class 1 where the mean is above one half: its margin is linear in the image."""

    strange: bool = False

    @nn.compact
    def __call__(self, images, *, train=False):
        score = images.mean((1, 2, 3)) - 0.5
        score = jnp.sin(score) if self.strange else score
        return jnp.stack([jnp.zeros_like(score), score], 1)


def context(model=None, **fields):
    levels = np.linspace(60, 200, N).astype(np.uint8)
    images = np.tile(levels[:, None, None, None], (1, 2, 2, 1))
    labels = (levels > 127).astype(np.int32)
    setting = Setting(
        model=model or Threshold(),
        variables={},
        dataset=data.Dataset(images, labels, ("dark", "bright")),
        indices=np.arange(N),
        key=jax.random.key(0),
        batch_size=16,
        mesh=None,
        precision="highest",
        progress=None,
    )
    entry = types.SimpleNamespace(label="pgd", eps=0.1, written="0.1", norm="linf")
    fields = {**certificates.DEFAULTS, "examples": 0, **fields}
    return Context(setting, [entry], [], fields, "levels", 0)


def runs(given, unbroken):
    """Runs of a clean pass that is right, and of an attack."""
    correct = {CLEAN: np.ones(N, bool), "pgd": unbroken}
    return {k: types.SimpleNamespace(correct=v) for k, v in correct.items()}


def distance(given):
    return np.abs(given.setting.images.mean((1, 2, 3)) / 255 - 0.5)


def page(found):
    results = schema.Results(
        clean=None, attacks=[], worst_case=None, flags=[], **found.results
    )
    return "".join(map(str, drawn.figure(results, found.arrays, None)))


def test_a_linear_network_is_proved_to_its_distance():
    given = context()
    far = distance(given)
    found = certificates.run(given, runs(given, far > 0.1))
    certified = found.results["certified"]
    assert certified.proved == certified.unbroken == pytest.approx((far > 0.1).mean())
    assert certified.contradicted == 0
    assert certified.eps_text == "0.1"
    np.testing.assert_allclose(found.arrays["certified_margins"], far - 0.1, atol=1e-5)
    assert "Between" in page(found)
    assert "do not trust" not in page(found)


def test_a_proof_of_a_broken_image_is_told():
    given = context(method="ibp")
    found = certificates.run(given, runs(given, np.zeros(N, bool)))
    assert found.results["certified"].contradicted > 0
    assert "do not trust" in page(found)


def test_a_radius_of_its_own_stands_alone():
    given = context(eps="0.02", norm="l2")
    found = certificates.run(given, runs(given, np.zeros(N, bool)))
    certified = found.results["certified"]
    assert certified.unbroken is None
    # A mean over four pixels moves by half the L2 radius.
    assert certified.proved == pytest.approx((distance(given) > 0.01).mean())
    assert "At least" in page(found)


def test_a_network_without_rules_says_so():
    given = context(Threshold(strange=True))
    found = certificates.run(given, runs(given, np.ones(N, bool)))
    certified = found.results["certified"]
    assert certified.proved is None
    assert "'sin'" in certified.unsupported
    assert "test_certificates.py" in certified.unsupported
    assert "\n" not in certified.unsupported
    assert "Nothing could be proved" in page(found)


def test_smoothing_certifies_up_to_the_distance():
    given = context(sigma=0.2, n=400, alpha=0.01)
    found = certificates.run(given, runs(given, np.ones(N, bool)))
    smoothed = found.results["smoothed"]
    # The plane is twice as far in L2 as the mean is from one half.
    assert (found.arrays["smoothed_radii"] <= 2 * distance(given) + 1e-6).all()
    assert smoothed.certified_accuracy[0] > 0.5
    assert smoothed.certified_accuracy[-1] == 0
    assert "Randomised smoothing" in page(found)


def test_mistakes_are_told():
    with pytest.raises(ValueError, match=r"eval\.certify\.eps"):
        certificates.check({**certificates.DEFAULTS, "eps": "much"})


def attack(eps, norm):
    written = "any" if eps is None else str(eps)
    return types.SimpleNamespace(label=norm, eps=eps, written=written, norm=norm)


ATTACKS = [attack(None, "l2"), attack(0.3, "l2"), attack(0.1, "linf")]


@pytest.mark.parametrize(
    ("fields", "entries", "ball"),
    [
        ({}, ATTACKS, (0.3, "l2")),
        ({"norm": "linf"}, ATTACKS, (0.1, "linf")),
        ({"eps": "8/255"}, ATTACKS, (8 / 255, "l2")),
        ({"eps": "8/255", "norm": "l1"}, ATTACKS, (8 / 255, "l1")),
        ({"eps": "0.2"}, [], (0.2, "linf")),
    ],
)
def test_the_ball_is_that_of_the_config_or_of_an_attack(fields, entries, ball):
    given = context(method="ibp", **fields)
    given = dataclasses.replace(given, entries=entries)
    certificates.check_attacks(given.fields, entries)
    done = runs(given, np.ones(N, bool))
    done |= {one.label: done["pgd"] for one in entries}
    certified = certificates.run(given, done).results["certified"]
    assert certified.eps == pytest.approx(ball[0])
    assert certified.norm == ball[1]


def test_a_radius_that_nobody_names_is_asked_for():
    fields = {**certificates.DEFAULTS, "norm": "l1"}
    with pytest.raises(ValueError, match="in l1 that could be proved: set --config"):
        certificates.check_attacks(fields, ATTACKS)
    with pytest.raises(ValueError, match="eps"):
        certificates.check_attacks(certificates.DEFAULTS, [attack(3, "l0")])
    certificates.check_attacks({**fields, "method": "", "sigma": 0.1}, [])
