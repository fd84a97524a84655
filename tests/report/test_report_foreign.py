"""Files of a work directory that somebody else made: a line, never a traceback."""

import copy
import json

import numpy as np
import pytest

from jaxrobust import report
from jaxrobust.evaluation import paired
from jaxrobust.evaluation.ensemble import state
from jaxrobust.report import figures
from jaxrobust.training import metrics

NASTY = "<script>alert(1)</script>\ud800\0 & \"'"
SHARE = {"ci95": [0.4, 0.6], "n": 10}
ATTACK = {
    "label": "pgd",
    "name": "pgd",
    "norm": "linf",
    "eps": 0.1,
    "eps_text": "0.1",
    "robust_accuracy": 0.5,
    "seconds": 1.0,
    **SHARE,
}
FINE = {
    "clean": {"accuracy": 0.5, "seconds": 1.0, **SHARE},
    "attacks": [ATTACK],
    "worst_case": {"robust_accuracy": 0.5, **SHARE},
    "flags": [{"name": "x", "message": "y", "severe": True}],
    "per_class": [{"class": "a", "n": 5, "accuracy": 0.5, "robust_accuracy": 0.5}],
    "curve": {
        "norm": "linf",
        "eps": [0.0, 0.1],
        "eps_text": ["0", "0.1"],
        "robust_accuracy": [0.5, 0.4],
        "ci95": [[0.4, 0.6], [0.3, 0.5]],
        "n": 10,
        "steps": 5,
    },
    "data": {"name": "toy", "examples": 10, "of": 10},
    "suite": "own",
}


def leaves(value, path=()):
    """Gives the path of every part of nested JSON."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from leaves(inner, (*path, i))


def changed(path, new):
    whole = {"": copy.deepcopy(FINE)}
    place, path = whole, ("", *path)
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = new
    return whole[""]


def told(folder):
    """Writes a page, or returns the line that says why there is none."""
    try:
        report.write(folder)
    except ValueError as error:
        text = str(error)
        assert str(folder) in text
        assert "\n" not in text
        assert len(text) < 700
        return text
    page = (folder / "report.html").read_text()
    assert "<script" not in page
    return ""


@pytest.mark.parametrize("new", [None, {}, NASTY, 10**400])
def test_any_part_of_the_results_may_be_anything(new, tmp_path):
    for path in leaves(FINE):
        (tmp_path / "results.json").write_text(json.dumps(changed(path, new)))
        told(tmp_path)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Drawings are looked at elsewhere; here they take all the time."""
    monkeypatch.setattr(figures, "to_svg", lambda figure, description: "<svg></svg>")


def test_the_results_as_they_are(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(FINE))
    assert told(tmp_path) == ""


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", "[" * 9999, "\x00", '{"clean": NaN}', "1"]
)
@pytest.mark.parametrize("name", ["results.json", "config.json"])
def test_a_damaged_file_is_named(name, content, tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    (tmp_path / name).write_text(content)
    assert name in told(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"x" * 100])
def test_damaged_arrays_are_named(content, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(FINE))
    (tmp_path / "evaluation.npz").write_bytes(content)
    assert "evaluation.npz" in told(tmp_path)
    with pytest.raises(ValueError, match=r"evaluation\.npz"):
        paired.read(tmp_path)


ARRAYS = {
    "grid_images": np.zeros((2, 4, 4, 3), np.uint8),
    "grid_x_adv": np.zeros((2, 4, 4, 3)),
    "grid_labels": np.zeros(2, int),
    "grid_predicted": np.zeros(2, int),
    "grid_predicted_adv": np.zeros(2, int),
    "grid_attack": np.asarray("pgd"),
    "class_names": np.asarray(["a", "b"]),
}


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize(
    "new", [np.zeros(0), np.full((2, 3), np.nan), np.asarray(NASTY[:20]), np.arange(9)]
)
def test_arrays_that_do_not_fit(name, new, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(FINE))
    np.savez(tmp_path / "evaluation.npz", **{**ARRAYS, name: new})
    told(tmp_path)


@pytest.mark.parametrize("new", ['"x"', "[1]", "null", "{}", "1e999", "true"])
def test_metrics_that_are_no_numbers(new, tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        f'{{"step": 1, "loss": 1.0}}\n{{"step": {new}, "loss": 1}}\n'
        f'{{"step": 2, "loss": {new}, "epoch": {new}}}\n'
    )
    assert [row["step"] for row in metrics.read(tmp_path / "metrics.jsonl")] == [1, 2]
    told(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"x" * 100])
def test_a_damaged_state_is_named(content, tmp_path):
    (tmp_path / "state.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"state\.npz .*: delete it to start anew"):
        state.load(tmp_path / "state.npz")


def test_a_state_of_another_shape_is_named(tmp_path):
    for meta in ("[]", "5", "{", "[" * 9999):
        np.savez(tmp_path / "state.npz", meta=np.asarray(meta))
        with pytest.raises(ValueError, match=r"state\.npz"):
            state.load(tmp_path / "state.npz")
