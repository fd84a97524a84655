"""Attacks without a radius: the smallest perturbation, beside the worst case."""

import json

import chex
import numpy as np
import pytest

from jaxrobust import evaluation, report
from jaxrobust.evaluation import step, suite, verify
from jaxrobust.evaluation.analyses import smallest_perturbation

FGSM = {"name": "fgsm", "eps": "0.1"}
FAB = {"name": "fab", "eps": None, "steps": 10}
OVERSHOOT = 1.05  # of FAB: it stops a little behind the boundary


def run(linear, folder, **changes):
    return evaluation.evaluate(
        linear.model,
        linear.variables,
        linear.make_config(**changes),
        folder,
        dataset=linear.dataset,
    )


def test_distance_is_the_closed_form_and_stays_out_of_the_worst_case(linear, tmp_path):
    within = {"linf": ["0.05", "1/10"], "l2": ["1"]}
    attacks = json.loads(json.dumps({"fab": FAB, "fgsm": FGSM}))
    found = run(linear, tmp_path, attacks=attacks, within=within, save_adversarial=True)
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(
        json.dumps(found)
    )
    nearest = linear.margin / np.abs(linear.variables["params"]["w"]).sum()
    clean = nearest > 0
    fab, fgsm = found["attacks"]
    assert (fab["eps"], fab["eps_text"], fab["norm"]) == (None, "any", "linf")
    assert fab["robust_accuracy"] == 0
    median = np.median(nearest[clean])
    assert median < fab["median_distance"] < OVERSHOOT * median
    # The suite's radius and the config's are the same one.
    assert [row["eps_text"] for row in fab["accuracy_within"]] == ["0.05", "0.1"]
    for row in fab["accuracy_within"]:
        least = (nearest > row["eps"]).mean()
        most = (OVERSHOOT * nearest > row["eps"]).mean()
        assert least <= row["robust_accuracy"] <= most
        assert row["n"] == len(clean)
    assert found["worst_case"]["attacks"] == ["fgsm"]
    assert found["worst_case"]["robust_accuracy"] == fgsm["robust_accuracy"] > 0
    with np.load(tmp_path / "evaluation.npz") as arrays:
        assert arrays["robust"].mean() == fgsm["robust_accuracy"]
        assert str(arrays["grid_attack"]) == "fgsm"
        got = arrays["distance_fab"]
    chex.assert_trees_all_close(got[clean], nearest[clean], rtol=OVERSHOOT - 1)
    chex.assert_trees_all_close(got[~clean], 0, rtol=0, atol=1e-7)


def test_alone_it_leaves_the_clean_accuracy_as_the_worst_case(linear, tmp_path):
    found = run(linear, tmp_path, attacks={"fab": {**FAB, "norm": "l2"}})
    assert found["worst_case"]["attacks"] == []
    assert found["worst_case"]["robust_accuracy"] == found["clean"]["accuracy"]
    assert found["attacks"][0]["accuracy_within"] == []


def test_nothing_fooled_has_no_median():
    (entry,) = suite.read({"fab": FAB})
    right = np.ones(3, bool)
    one = step.EvalRun(
        right,
        np.zeros(3, int),
        np.zeros(3),
        np.zeros((3, 2), np.float32),
        np.zeros((0, 1, 1, 1), np.float32),
        {"linf": np.zeros(3)},
    )
    found = smallest_perturbation.describe(one, right, entry, {"0.1": 0.1})
    assert found["median_distance"] is None
    assert found["accuracy_within"][0].robust_accuracy == 1


@pytest.mark.parametrize("eps", [None, "none"])
def test_no_radius_is_for_attacks_that_go_without(eps):
    (entry,) = suite.read({"a": {"name": "fab", "eps": eps}})
    assert entry.eps is None
    with pytest.raises(TypeError, match=r"attack 'b' .*`eps` must be .*None"):
        suite.read({"b": {"name": "fgsm", "eps": eps}})


def test_bad_radii_within_are_named():
    assert smallest_perturbation.read_within({}) == {}
    with pytest.raises(ValueError, match=r"`eval\.within\.l2` must be .*'x'"):
        smallest_perturbation.read_within({"l2": ["x"]})
    with pytest.raises(ValueError, match=r"unknown norm in eval\.within 'l3'"):
        smallest_perturbation.read_within({"l3": ["1"]})


def test_without_a_radius_bounds_and_finiteness_are_checked():
    images = np.full((2, 1, 1, 1), 255, np.uint8)
    ball = verify.Ball(None, "l2")
    far = np.zeros((2, 1, 1, 1), np.float32)
    assert verify.check_ball(far, images, ball)["l2"].tolist() == [1, 1]
    for bad in (1.1, np.nan):
        x_adv = far.copy()
        x_adv[1] = bad
        with pytest.raises(ValueError, match=r"1 of 2 .* outside `bounds` \(0"):
            verify.check_ball(x_adv, images, ball)


def test_sparse_attacks_are_counted_checked_and_drawn(linear, tmp_path):
    """In L0 and in pixels, with and without a radius; the curve is of one run."""
    attacks = {
        "zero": {"name": "sigma_zero", "eps": None, "steps": 40},
        "rs": {"name": "sparse_rs", "eps": "3", "queries": 40},
    }
    within = {"l0": ["1", "5"]}
    found = run(linear, tmp_path, attacks=attacks, within=within)
    zero, rs = found["attacks"]
    assert (zero["norm"], rs["norm"]) == ("l0", "l0_pixels")
    assert zero["median_distance"] >= 1
    assert [row["eps_text"] for row in zero["accuracy_within"]] == ["1", "5"]
    assert 0 < rs["mean_perturbation"]["l0_pixels"] <= 3
    with np.load(tmp_path / "evaluation.npz") as arrays:
        told = arrays["distance_zero"]
    chex.assert_trees_all_equal(told, np.round(told))
    report.write(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "Robust accuracy over the radius, L0" in page
    assert "L0 (pixels), eps 3" in page
