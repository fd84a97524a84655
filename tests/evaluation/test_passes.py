"""Blocks of examples, until intervals are narrow enough."""

import chex
import numpy as np
import pytest

from jaxrobust import evaluation
from jaxrobust.evaluation import passes, setting, wilson_interval

BLOCK = 20


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(passes, "BLOCK", BLOCK)


def run(linear, folder, **changes):
    found = evaluation.evaluate(
        linear.model,
        linear.variables,
        linear.make_config(**changes),
        folder,
        dataset=linear.dataset,
    )
    with np.load(folder / "evaluation.npz") as arrays:
        return found, dict(arrays)


def widest(arrays, count):
    """The width of the wider interval after so many examples."""
    clean = arrays["predicted_clean"] == arrays["labels"]
    both = (clean[:count], arrays["robust"][:count])
    ends = [wilson_interval(int(flags.sum()), count) for flags in both]
    return max(high - low for low, high in ends)


def test_stops_at_the_first_block_that_is_narrow_enough(linear, tmp_path):
    total = len(linear.dataset.labels)
    _, everything = run(linear, tmp_path / "all", ci=1e-3)
    ci = widest(everything, 2 * BLOCK) + 1e-6
    assert widest(everything, BLOCK) > ci
    found, arrays = run(linear, tmp_path / "some", ci=ci, save_adversarial=True)
    stopped = found["stopping"]
    assert (stopped["used"], stopped["of"], stopped["block"]) == (40, total, BLOCK)
    assert "at most" in stopped["reason"]
    assert max(stopped["widths"].values()) == pytest.approx(ci, abs=1e-5)
    assert found["clean"]["n"] == found["data"]["examples"] == 40
    chex.assert_trees_all_equal(arrays["indices"], setting.shuffled(total, 40))
    for name in ("robust", "predicted_fgsm", "labels"):
        chex.assert_trees_all_equal(arrays[name], everything[name][:40])
    with np.load(tmp_path / "some" / "adversarial.npz") as adversarial:
        x = linear.dataset.images[adversarial["indices"]] / 255
        moved = np.abs(adversarial["x_adv_fgsm"] - x)
    chex.assert_trees_all_close(moved.max((1, 2, 3)), 0.1, rtol=0, atol=1e-6)
    rows = setting.picked(BLOCK, 4)
    chex.assert_trees_all_equal(arrays["grid_labels"], arrays["labels"][rows])
    chex.assert_trees_all_close(
        arrays["grid_x_adv"], everything["grid_x_adv"], rtol=1e-7
    )


@pytest.mark.full
def test_the_examples_do_not_depend_on_the_batch_size(linear, tmp_path):
    found = [run(linear, tmp_path / str(b), ci=0.4, batch_size=b) for b in (7, 64)]
    (one, a), (other, b) = found
    assert one["stopping"] == other["stopping"]
    chex.assert_trees_all_equal(a["predicted_fgsm"], b["predicted_fgsm"])


def test_runs_out_of_examples(linear, tmp_path):
    found, arrays = run(linear, tmp_path, ci=0.01, examples=25)
    assert (found["stopping"]["used"], found["stopping"]["of"]) == (25, 25)
    assert "no more examples" in found["stopping"]["reason"]
    assert set(arrays["indices"]) == set(setting.picked(60, 25))


def test_off_by_default(linear, tmp_path):
    found, arrays = run(linear, tmp_path)
    assert "stopping" not in found
    chex.assert_trees_all_equal(arrays["indices"], np.arange(60))


@pytest.mark.parametrize("ci", [-0.1, 1, float("nan")])
def test_a_width_out_of_range_is_refused(linear, tmp_path, ci):
    with pytest.raises(ValueError, match=rf"`eval\.ci` .* got {ci}"):
        run(linear, tmp_path, ci=ci)
