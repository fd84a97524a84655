"""One perturbation and one patch for all images, on a linear network."""

import numpy as np
import pytest

from jaxrobust import evaluation
from jaxrobust.evaluation.analyses import universal
from jaxrobust.report import figures
from jaxrobust.report.source import RunFiles
from jaxrobust.results import Results, npz, read

FIELDS = dict(universal.DEFAULTS) | {
    "enabled": True, "examples": 20, "eps": "0.1", "side": 2, "steps": 20, "batch": 8,
}  # fmt: skip


def test_both_are_judged_on_other_images(linear, tmp_path):
    config = linear.make_config(universal=FIELDS, grid=0)
    given = (linear.model, linear.variables, config, tmp_path)
    found = read(Results, evaluation.evaluate(*given, dataset=linear.dataset))
    with np.load(tmp_path / "evaluation.npz") as arrays:
        arrays = dict(arrays)
    held = npz.UniversalArrays.of(arrays)
    assert np.abs(held.universal_perturbation).max() <= 0.1 * (1 + 1e-6)
    assert held.universal_patch.shape[:2] == (2, 2)
    assert held.universal_patch.min() >= 0
    assert held.universal_patch.max() <= 1
    one = found.universal
    assert one.n == min(20, len(linear.dataset.labels) // 2)
    assert one.perturbed.n == one.patched.n == one.clean.n == one.n
    assert one.perturbed.robust_accuracy <= one.clean.accuracy
    page = "".join(figures.at(figures.Place.ANALYSES, RunFiles(found, arrays=arrays)))
    assert "One perturbation for all images" in page
    assert page.count("<img") == 4


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"eval\.universal\.eps"):
        universal.check(FIELDS | {"eps": "ten"})
    with pytest.raises(ValueError, match=r"eval\.universal\.side.* got 9"):
        universal.check_images(FIELDS | {"side": 9}, (8, 8, 1))
