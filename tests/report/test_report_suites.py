"""The report on attacks of any size, transfers, adaptive suites and comparisons."""

import json

from jaxrobust import report
from jaxrobust.report import verdict
from jaxrobust.results import Results, read
from tests.report import pages

SMALLEST = {
    "label": "fab",
    "name": "fab",
    "norm": "l2",
    "eps": None,
    "eps_text": "any",
    "robust_accuracy": 0.01,
    "ci95": [0.0, 0.02],
    "n": 2000,
    "seconds": 3.0,
    "median_distance": 0.4567,
    "accuracy_within": [
        {"eps": 0.5, "eps_text": "0.5", "robust_accuracy": 0.375, "ci95": [0.3, 0.4]}
    ],
}
PAIRED = {
    "difference": 0.4,
    "ci95": [0.37, 0.43],
    "only_a": 900,
    "only_b": 100,
    "p_value": 1e-9,
}


def write(folder, results):
    (folder / "results.json").write_text(json.dumps(results))
    return pages.read(folder)


def test_an_attack_of_any_size_stands_apart(tmp_path, make_results):
    results = make_results(0.4)
    results["attacks"].append(SMALLEST)
    text = write(tmp_path, results)
    assert "L2, any size, median 0.457" in text
    assert "whatever fgsm and pgd20 do to them (L∞, eps 8/255)" in text
    assert "they do not count in the worst case" in text
    assert "Accuracy within radii" in text
    assert "37.5 %" in text
    results["attacks"][-1] = {**SMALLEST, "median_distance": None}
    assert "any size, none found" in write(tmp_path, results)


def test_alone_it_gives_no_robust_accuracy(tmp_path, make_results):
    text = write(tmp_path, make_results(0.4) | {"attacks": [SMALLEST]})
    assert "no attack with a radius was run" in text
    assert "robust accuracy, " not in text
    assert "<td>worst case</td>" not in text


def test_transfers_and_reasons(tmp_path, make_results):
    results = make_results(0.4)
    source = {"name": "transfer", "attack": "mim", "source": "runs/<other>"}
    results["attacks"][0] |= source
    results["attacks"][1]["why"] = "The margin keeps its gradient."
    text = write(tmp_path, results)
    assert "mim on runs/&lt;other&gt;" in text
    assert "Why these attacks" in text
    assert "The margin keeps its gradient." in text


def test_the_comparison_with_the_twin(full_run):
    file = full_run / "results.json"
    results = json.loads(file.read_text())
    found = {"n": 2000, "clean": PAIRED, "worst_case": PAIRED, "same_attacks": True}
    file.write_text(json.dumps(results | {"comparison": found}))
    text = report.write(full_run).read_text()
    assert "on the same 2,000 images: clean +40.0 points [+37.0, +43.0]" in text
    assert "under attack +40.0 points" in text
    assert "900 images that only this network gets right, 100 only the twin" in text
    found["same_attacks"] = False
    assert "under attack" not in verdict.paired(
        read(Results, results | {"comparison": found})
    )
    assert verdict.paired(read(Results, results)) is None


def test_stopping_says_how_many(tmp_path, make_results):
    stopped = {"used": 500, "of": 10000, "block": 250, "reason": "narrow enough"}
    text = write(tmp_path, make_results(0.4) | {"stopping": stopped})
    assert "Evaluated 500 of 10,000 images, in blocks of 250: narrow enough." in text
