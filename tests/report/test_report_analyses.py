"""What the report says and draws of the analyses, and of attacks that did not run."""

import re

import numpy as np
import pytest

from jaxrobust import report
from jaxrobust.report import verdict
from jaxrobust.report.figures import class_ranks, representations
from jaxrobust.results import Results, read
from jaxrobust.results.analysis_schema import ClassRanks
from tests.report import pages


def test_analyses_are_drawn_with_their_numbers(
    tmp_path, make_results, write_run, add_analyses
):
    write_run(tmp_path, make_results(0.4))
    add_analyses(tmp_path)
    text = pages.read(tmp_path)
    for title in (
        "Where FGSM ends",
        "Where MIM ends",
        "Probability gap",
        "Penultimate features",
        "Distances to prototypes, pooled",
    ):
        assert f"<h3>{title}</h3>" in text
    assert "38 of 40 images are correct before the attack" in text
    assert "+0.527" in text
    assert "-0.250" in text
    assert "t-SNE of the penultimate features of 40 images" in text
    assert "The own centre is the nearest for 90.0% clean" in text
    assert "restored from clean 0.002, from attacked 0.003" in text
    assert "restored from attacked</span>" in text


def test_what_was_not_measured_is_left_out(
    tmp_path, make_results, write_run, add_analyses
):
    write_run(tmp_path, make_results(0.4))
    add_analyses(tmp_path, analyses={"class_ranks": None})
    text = report.write(tmp_path).read_text()
    assert "<h2>Analyses</h2>" not in text
    assert "<h2>Restored images</h2>" in text
    sweep = {"name": "mim", "newly_successful": [0], "share": [[None]]}
    ranks = {"eps": [1], "eps_text": ["1"], "ranks": [2], "attacks": [sweep]}
    ranks |= {"n": 1, "n_correct": 1}
    add_analyses_to = {"class_ranks": ranks}
    write_run(tmp_path / "b", make_results(0.4))
    add_analyses(tmp_path / "b", analyses=add_analyses_to)
    assert "Where MIM ends" not in report.write(tmp_path / "b").read_text()


def test_pending_attacks_are_rows_and_a_note(tmp_path, make_results, write_run):
    pending = [
        {"label": "boundary", "name": "hop_skip_jump", "reason": "needs a source"},
        {"label": "zoo", "name": "zoo", "reason": "needs a source"},
    ]
    results = make_results(0.4) | {"pending": pending, "suite": "fpd2020"}
    write_run(tmp_path, results)
    write_run(tmp_path / "twin", make_results(0.1), images=False)
    text = pages.read(tmp_path)
    rows = re.findall(r"<tr.*?</tr>", text)
    boundary = next(row for row in rows if "boundary" in row)
    assert re.findall(r"<td[^>]*>(.*?)</td>", boundary)[:4] == [
        "boundary",
        "not run",
        "",
        "hop_skip_jump",
    ]
    heads = next(row for row in rows if "threat" in row)
    assert boundary.count("<td") == heads.count("<th")
    said = "2 attacks of fpd2020 did not run: boundary and zoo (needs a source)."
    assert said in text
    assert "Suite fpd2020." in text


@pytest.mark.parametrize("objective", ["pcl", "pcl_adversarial"])
def test_pcl_numbers_come_with_a_warning(tmp_path, make_results, write_run, objective):
    results = make_results(0.4)
    write_run(tmp_path, results, objective=objective)
    assert "PCL: this number misleads" in report.write(tmp_path).read_text()
    results["attacks"].append(dict(results["attacks"][0], name="autoattack"))
    assert (
        verdict.cautions({"objective": {"name": objective}}, read(Results, results))
        == []
    )


def test_other_methods_come_without(make_results):
    for config in ({}, {"objective": {"name": "pgd"}, "model": {"name": "pcl_resnet"}}):
        assert verdict.cautions(config, read(Results, make_results(0.4))) == []
    converted = {"model": {"name": "pcl_resnet"}}
    results = read(Results, make_results(0.4))
    assert "misleads" in verdict.cautions(converted, results)[0]


def clusters(count, width, rng):
    labels = np.arange(count) % 3
    centers = 20 * rng.normal(size=(3, width))
    noise = rng.normal(size=(count, 2, width))
    return (centers[labels][:, None] + noise).astype(np.float32), labels


@pytest.mark.parametrize("width", [2, 60])
def test_the_map_keeps_groups_together(width):
    pairs, labels = clusters(60, width, np.random.default_rng(0))
    places, kept = representations.embed(pairs, labels)
    assert places.shape == (60, 2, 2)
    np.testing.assert_array_equal(kept, labels)
    flat, whose = places.reshape(-1, 2), np.repeat(labels, 2)
    apart = np.linalg.norm(flat[:, None] - flat[None], axis=-1)
    np.fill_diagonal(apart, np.inf)
    assert (whose[apart.argmin(-1)] == whose).mean() > 0.95
    again, _ = representations.embed(pairs, labels)
    np.testing.assert_allclose(again, places)


def test_the_map_takes_some_of_many_and_drops_what_is_not_finite():
    pairs, labels = clusters(700, 2, np.random.default_rng(0))
    pairs[3] = np.nan
    pairs = pairs[:40]
    places, _ = representations.embed(pairs, labels[:40])
    assert len(places) == 39
    few = representations.embed(pairs[:25], labels[:25])
    assert few is None
    assert representations.embed(np.ones((50, 2, 4), np.float32), labels[:50]) is None
    assert representations.embed(np.ones((50, 2, 1), np.float32), labels[:50]) is None


def test_many_classes_have_colours_but_no_legend():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 30
    places = rng.normal(size=(60, 2, 2))
    svg = representations.scatter(places, labels, [f"name{k}" for k in range(30)])
    assert "name3" not in svg
    assert len(set(re.findall(r"fill: (#[0-9a-f]{6})", svg))) >= 25
    names = ["short", "an_extremely_long_name", "c"]
    svg = representations.scatter(places, labels % 3, names)
    assert "short" in svg
    assert "an_extremel…" in svg


def test_bars_without_any_attack_at_a_radius_are_empty():
    attack = {"name": "x", "newly_successful": [0, 2], "share": [[None], [0.5]]}
    ranks = {"eps": [1, 2], "eps_text": ["1", "2"], "ranks": [2], "attacks": [attack]}
    ranks = read(ClassRanks, ranks | {"n": 9, "n_correct": 9})
    assert "2nd" in class_ranks.draw(ranks, ranks.attacks[0])
