"""Catastrophic overfitting, told from the validations of a run."""

import json

import pytest

from jaxrobust.evaluation import flags_of_training
from jaxrobust.training.overfitting import Watch


def rows(*validations):
    """Rows as in metrics.jsonl: clean and robust accuracy every ten steps."""
    found = []
    for number, (clean, robust) in enumerate(validations, 1):
        found.append({"step": 10 * number - 5, "loss": 1.0})
        validated = {"validation/accuracy": clean, "validation/robust_accuracy": robust}
        found.append({"step": 10 * number, **validated})
    return found


def test_the_collapse_is_told_with_its_numbers():
    found = rows((0.5, 0.3), (0.6, 0.4), (0.8, 0.02), (0.6, 0.39))
    [flag] = flags_of_training.robustness_lost(found, 1000)
    assert (flag["name"], flag["severe"]) == ("catastrophic_overfitting", False)
    told = {"best": 0.4, "best_step": 20, "left": 0.02, "step": 30, "clean": 0.8}
    assert flag["values"] == told
    assert "from 40.0% (step 20) to 2.0% (step 30)" in flag["message"]


def test_validations_that_are_no_numbers_say_nothing():
    nan = float("nan")
    odd = rows((0.5, nan), (0.6, 0.4), (nan, 0.0), (0.8, 0.02))
    [flag] = flags_of_training.robustness_lost(odd, 1000)
    assert (flag["values"]["best_step"], flag["values"]["step"]) == (20, 40)
    assert not flags_of_training.robustness_lost(rows((0.5, nan), (0.6, 0.4)), 1000)


@pytest.mark.parametrize(
    ("validations", "n"),
    [
        ((), 1000),
        (((0.5, 0.4),), 1000),
        (((0.5, 0.4), (0.6, 0.25), (0.7, 0.21)), 1000),  # robust overfitting
        (((0.43, 0.27), (0.63, 0.135), (0.96, 0.54)), 1000),  # a high rate
        (((0.5, 0.4), (0.1, 0.05)), 1000),  # all is lost
        (((0.9, 0.01), (0.9, 0.0)), 1000),  # nothing was there
        (((0.5, 0.4), (0.6, 0.1)), 10),  # luck of ten images
    ],
)
def test_what_is_no_collapse(validations, n):
    assert not flags_of_training.robustness_lost(rows(*validations), n)


def test_a_run_tells_it_once_over_restarts_too(tmp_path):
    before, after = (0.5, 0.4), {"accuracy": 0.7, "robust_accuracy": 0.0}
    watch = Watch(tmp_path, 0, 1000)
    first = dict(zip(("accuracy", "robust_accuracy"), before, strict=True))
    assert not watch.saw(10, first)
    assert "fell from 40.0% (step 10) to 0.0% (step 20)" in watch.saw(20, after)
    assert not watch.saw(30, after)
    lines = [json.dumps(row) for row in rows(before, (0.7, 0.0))]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert not Watch(tmp_path, 20, 1000).saw(30, after)
    assert Watch(tmp_path, 10, 1000).saw(20, after)
