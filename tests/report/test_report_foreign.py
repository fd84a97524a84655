"""Files of a work directory that somebody else made: a line, never a traceback."""

import copy
import json
import re
from unittest import mock

import numpy as np
import pytest

from jaxrobust import report
from jaxrobust.evaluation import comparison
from jaxrobust.evaluation.autoattack import saved_state
from jaxrobust.report import drawing
from jaxrobust.results.files import read_metrics

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
    "pending": [{"label": "a", "name": "apgd", "reason": "no logits"}],
    "stopping": {"used": 10, "of": 20, "block": 5, "reason": "narrow"},
    "randomised": {"draws": 20},
    "environment": {"jax": "1"},
}
CORRUPTED = {"accuracy": 0.5, "ci95": [0.4, 0.6]}
PAIRED = {"difference": 0.1, "ci95": [0, 0.2], "only_a": 3, "only_b": 2, "p_value": 0.1}
MORE = {
    "comparison": {"n": 9, "same_attacks": True, "clean": PAIRED, "worst_case": PAIRED},
    "corruptions": {
        "clean": CORRUPTED,
        "n": 10,
        "note": "own",
        "rows": [{"name": "fog", "severity": 1, "accuracy": 0.5}],
        "by_name": [{"name": "fog", **CORRUPTED}],
        "by_severity": [{"severity": 1, "accuracy": 0.5}],
        "mean_accuracy": 0.5,
        "ci95": [0.4, 0.6],
        "worst_case": {"robust_accuracy": 0.4, "ci95": [0.3, 0.5]},
    },
}
MINIMAL = {
    "label": "cw",
    "eps": None,
    "median_distance": 0.1,
    "accuracy_within": [
        {"eps_text": "0.1", "robust_accuracy": 0.5, "ci95": [0.4, 0.6]}
    ],
    "why": "it fits",
}
NOTHING = object()  # the part is left out


def leaves(value, path=()):
    """Gives the path of every part of nested JSON."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from leaves(inner, (*path, i))


def changed(path, new, fine=FINE):
    whole = {"": copy.deepcopy(fine)}
    place, path = whole, ("", *path)
    for key in path[:-1]:
        place = place[key]
    if new is NOTHING:
        del place[path[-1]]
    else:
        place[path[-1]] = new
    return whole.get("", {})


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


@pytest.fixture
def everything(make_results, make_autoattack, make_analyses):
    """All that a results.json can have."""
    more = make_results(0.5)
    kept = {k: more[k] for k in ("growth", "diagnostics")}
    attacks = [ATTACK, {**ATTACK, **MINIMAL}, make_autoattack()]
    rest = {"attacks": attacks, "analyses": make_analyses(), **kept}
    return {**FINE, **MORE, **rest}


@pytest.mark.parametrize(
    "new",
    [NASTY, *(pytest.param(v, marks=pytest.mark.full) for v in (NOTHING, None, {}))],
)
def test_one_schema_has_every_part_that_is_read(new, everything, tmp_path, capsys):
    # What the schema lets through is shown: no part of results.json alone is left to
    # the line about files that do not fit together.
    other = write_compared(tmp_path / "other", FINE)
    write_compared(tmp_path, FINE)
    for path in leaves(everything):
        if new is NOTHING and not path:
            continue
        results = changed(path, new, everything)
        (tmp_path / "results.json").write_text(json.dumps(results))
        assert "shown together" not in told(tmp_path)
        comparison.main([str(tmp_path), str(other)])
        assert capsys.readouterr().err.count("\n") <= 1


def write_compared(folder, results):
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results))
    names = ("indices", "labels", "predicted_clean")
    rows = dict.fromkeys(names, np.arange(2)) | {"robust": np.ones(2, bool)}
    np.savez(folder / "evaluation.npz", **rows)
    return folder


PARTS = {
    "`attacks[0].eps`": ("attacks", 0, "eps"),
    "`data.of`": ("data", "of"),
    "`attacks`": ("attacks",),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_comparison_names_the_part_and_the_file(name, tmp_path):
    results = changed(PARTS[name], NOTHING)
    write_compared(tmp_path, results)
    with pytest.raises(ValueError, match=r"results\.json") as told:
        comparison.read(tmp_path)
    assert f"it has no {name}" in str(told.value)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Drawings are looked at elsewhere; here they take all the time."""
    axes = mock.MagicMock(), mock.MagicMock()
    monkeypatch.setattr(drawing, "make_axes", lambda size=None: axes)
    monkeypatch.setattr(drawing, "to_svg", lambda figure, description: "<svg></svg>")


def test_lists_of_a_drawing_are_equally_long(everything, tmp_path):
    whole = everything
    for path in (
        ("curve", "eps"),
        ("growth", "l2"),
        ("analyses", "class_ranks", "eps_text"),
        ("analyses", "class_ranks", "attacks", 0, "share"),
    ):
        short = whole
        for key in path:
            short = short[key]
        results = changed(path, short[1:], whole)
        (tmp_path / "results.json").write_text(json.dumps(results))
        assert re.search(rf"`{path[0]}.*{path[-1]}`.* differ in length", told(tmp_path))


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
        comparison.read(tmp_path)


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
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]
    told(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"x" * 100])
def test_a_damaged_state_is_named(content, tmp_path):
    (tmp_path / "state.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"state\.npz .*; delete it to start anew"):
        saved_state.read(tmp_path / "state.npz")


def test_a_state_of_another_shape_is_named(tmp_path):
    for meta in ("[]", "5", "{", "[" * 9999):
        np.savez(tmp_path / "state.npz", meta=np.asarray(meta))
        with pytest.raises(ValueError, match=r"state\.npz"):
            saved_state.read(tmp_path / "state.npz")
