"""Attacks whose threat is no ball: their own worst case, and none of the ball's."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import evaluation, report
from jaxrobust.evaluation import attack_text, suite
from tests.report import pages

FGSM = {"name": "fgsm", "eps": "0.001"}
GRID = {"name": "rotate_translate", "rotation": 90.0, "translation": 1.0, "angles": 3}
RANDOM = {**GRID, "search": "random", "draws": 3}
COLOUR = {"name": "recolor", "steps": 3, "colours": 2, "change": 0.3}


def run(linear, folder, **changes):
    config = linear.make_config(**changes)
    one = linear.model, linear.variables, config, folder
    return evaluation.evaluate(*one, dataset=linear.dataset)


def test_each_threat_has_a_worst_case_and_none_is_in_that_of_the_ball(linear, tmp_path):
    table = {"fgsm": FGSM, "grid": GRID, "some": RANDOM, "colours": COLOUR}
    found = run(linear, tmp_path, attacks=table)
    # In JSON as it is read back.
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(
        json.dumps(found)
    )
    left = {one["label"]: one["robust_accuracy"] for one in found["attacks"]}
    assert found["worst_case"]["attacks"] == ["fgsm"]
    assert found["worst_case"]["robust_accuracy"] == left["fgsm"] > left["colours"]
    spatial, colour = found["other_threats"]
    assert (spatial["threat"], spatial["attacks"]) == ("spatial", ["grid", "some"])
    assert (colour["threat"], colour["attacks"]) == ("colour", ["colours"])
    assert colour["robust_accuracy"] == left["colours"]
    with np.load(tmp_path / "evaluation.npz") as arrays:
        assert arrays["robust"].mean() == left["fgsm"]
        both = arrays["robust_grid"] & arrays["robust_some"]
        assert both.mean() == spatial["robust_accuracy"] < left["fgsm"]
        assert not [name for name in arrays if name.startswith("distance")]
        assert str(arrays["grid_attack"]) == "fgsm"
    [grid] = [one for one in found["attacks"] if one["label"] == "grid"]
    assert (grid["threat"], grid["eps"], grid["eps_text"]) == (
        "spatial",
        None,
        "spatial",
    )
    assert "median_distance" not in grid
    text = pages.read(tmp_path)
    for said in ("worst case, spatial", "spatial, rotation 90.0", "worst case, colour"):
        assert said in text
    assert "(spatial and colour) does not count in it" in text
    assert "any size" not in text


def test_without_a_ball_there_is_no_worst_case_of_one(linear, tmp_path):
    found = run(linear, tmp_path, attacks={"grid": GRID})
    assert found["worst_case"]["attacks"] == []
    assert found["worst_case"]["robust_accuracy"] == found["clean"]["accuracy"]
    [spatial] = found["other_threats"]
    assert spatial["robust_accuracy"] == found["attacks"][0]["robust_accuracy"]
    report.write(tmp_path)
    assert "no attack with a radius was run" in pages.read(tmp_path)


def test_a_radius_is_refused_and_none_is_needed():
    [entry] = suite.read({"a": GRID})
    assert (entry.threat, entry.eps, entry.written) == ("spatial", None, "spatial")
    assert suite.read({"a": {**GRID, "eps": None, "norm": None}})
    for more in ({"eps": "8/255"}, {"norm": "linf"}):
        with pytest.raises(ValueError, match=r"attack 'a': its threat \(spatial\)"):
            suite.read({"a": {**GRID, **more}})
    with pytest.raises(ValueError, match="`rotation` must be at most 180"):
        suite.read({"a": {**GRID, "rotation": 200.0}})
    # As large as real images have room for.
    assert suite.read({"a": {"name": "patch", "side": 50}})
    [moved] = suite.read({"t": {"name": "transfer", "attack": "recolor"}}, "zoo:x")
    assert moved.threat == "colour"


def test_as_text_it_takes_its_own_options_alone():
    texts = ["rotate_translate:rotation=15,search=random", "pgd"]
    table = attack_text.table(texts, eps="8/255")
    expected = {"name": "rotate_translate", "rotation": 15.0, "search": "random"}
    assert table["rotate_translate"] == expected
    with pytest.raises(ValueError, match="rotate_translate has no option 'eps'"):
        attack_text.table(["rotate_translate:eps=8/255"], eps="8/255")


def test_the_suite_knows_the_size_of_images():
    table = suite.get("spatial", data="cifar10")
    assert list(table) == ["grid", "random10", "first_order", "stadv"]
    assert table["grid"]["translation"] == 3
    assert suite.get("spatial", data="imagenet")["grid"]["translation"] == 24
    assert suite.get("spatial", data="digits")["grid"]["translation"] == 1


def shift(logits_fn, x, y, *, key=None, way: float = 0.1):
    """An attack from outside that says what its threat is."""
    del logits_fn, y, key
    return jnp.clip(x + way, 0, 1)


shift.threat = "light"  # pyright: ignore


def test_an_attack_from_outside_says_its_threat():
    name = f"{__name__}:shift"
    [entry] = suite.read({"mine": {"name": name, "way": 0.2}})
    assert (entry.threat, entry.eps) == ("light", None)
