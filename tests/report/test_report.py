"""The report from files alone; no network, no model, no scripts."""

import json
import re

import pytest

from jaxrobust import report
from jaxrobust.report import drawing, html, verdict
from jaxrobust.results import Results, read
from tests.report import pages


def test_says_what_was_found_in_order(full_run):
    text = pages.read(full_run)
    heads = re.findall(r"<h2>(.*?)</h2>", text)
    assert heads == [
        "Warning signs",
        "Attacks",
        "What would change this number",
        "Curves",
        "Images",
        "Restored images",
        "Analyses",
        "Training",
        "Reproduce",
        "Terms",
    ]
    assert "95.0 % of 2,000 test images are classified correctly" in text
    assert "45.0 % [43.0, 47.0] stay so whatever fgsm and pgd20 do to them" in text
    assert "not AutoAttack" in text
    assert "40 points less" in text
    assert text.count("<img ") == 24 + 3 * 4
    assert text.count("<svg") == 6 + 4


def test_escapes_and_loads_nothing(full_run):
    text = report.write(full_run).read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "--x=&lt;y&gt;" in text
    for url in re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?([^"\'\s>)]+)', text):
        assert url.startswith(("data:", "#")), url
    assert "http://" not in text
    assert "https://" not in text


def test_training_only(tmp_path, write_run):
    write_run(tmp_path, None)
    text = report.write(tmp_path).read_text()
    assert "Not evaluated yet" in text
    assert "<h2>Training</h2>" in text
    assert "<h2>Attacks</h2>" not in text


def test_results_only(tmp_path, make_results):
    (tmp_path / "results.json").write_text(json.dumps(make_results(0.4)))
    text = report.write(tmp_path).read_text()
    assert "<h2>Attacks</h2>" in text
    assert "<h2>Training</h2>" not in text


def test_no_attack(tmp_path, make_results, write_run):
    results = make_results(0.4) | {"attacks": []}
    write_run(tmp_path, results)
    assert "nothing is known about robustness" in report.write(tmp_path).read_text()


def test_many_classes_name_the_extremes(tmp_path, make_results, write_run):
    results = make_results(0.4, classes=100)
    results["per_class"][17]["robust_accuracy"] = 0.01
    write_run(tmp_path, results)
    assert "Least robust: c17, " in report.write(tmp_path).read_text()


def test_flags_come_with_their_message(tmp_path, make_results, write_run):
    flag = {"name": "zero_gradients", "message": "zero for 40 %", "values": {}}
    write_run(tmp_path, make_results(0.4) | {"flags": [flag]})
    text = report.write(tmp_path).read_text()
    assert "zero gradients" in text
    assert "zero for 40 %" in text
    assert "1 warning sign below" in text


def test_severe_flags_change_the_verdict(tmp_path, make_results, write_run):
    results = make_results(0.4)
    assert "40.0 % [38.0, 42.0] stay so" in verdict.verdict(read(Results, results))
    mild = {"name": "saturated_logits", "severe": False, "message": "m.", "values": {}}
    bad = {"name": "zero_gradients", "severe": True, "message": "b.", "values": {}}
    results["flags"] = [mild]
    assert "probably too high" in verdict.belief(read(Results, results))[0]
    assert "40.0 % [38.0, 42.0] stay so" in verdict.verdict(read(Results, results))
    results["flags"] = [mild, bad]
    assert (
        "must not be believed: zero gradients."
        in verdict.belief(read(Results, results))[0]
    )
    assert "40.0 % [38.0, 42.0] seem to stay so" in verdict.verdict(
        read(Results, results)
    )
    write_run(tmp_path, results)
    text = report.write(tmp_path).read_text()
    assert text.index("<b>zero gradients</b>") < text.index("<b>saturated logits</b>")


def test_numbers_of_the_checks_are_shown(full_run):
    text = report.write(full_run).read_text()
    assert "None of the checks on 100 images found a sign" in text
    assert "black box (50 queries)" in text


def test_what_was_not_checked_is_not_said_to_be_fine(tmp_path, make_results, write_run):
    results = make_results(0.4)
    del results["diagnostics"], results["curve"]
    write_run(tmp_path, results)
    text = report.write(tmp_path).read_text()
    assert "found a sign" not in text
    assert "Not checked: whether the gradient is the network" in text
    assert "Not checked: larger radii" in text
    results = make_results(0.4)
    results["diagnostics"]["gradients"] |= {
        "explained": None,
        "explained_at": {"clean_near": None, "clean_far": 0.5},
    }
    write_run(tmp_path, results)
    text = report.write(tmp_path).read_text()
    assert "Could not be checked: whether the gradient" in text
    assert "lost in rounding" in text
    assert "Not checked" not in text


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"black_box": True}, "of which a black box has none"),
        ({"randomised": {"draws": 20}}, "this network draws anew"),
        ({"queries": 0}, "black box finds more"),
        ({}, "config.eval.diagnostics is off"),
    ],
)
def test_why_something_was_not_checked(more, said, make_results):
    told = make_results(0.4)
    checked = told.pop("diagnostics")
    told |= {"diagnostics": checked | more} if "queries" in more else more
    results = read(Results, told)
    [note, *_] = verdict.unchecked(results)
    assert note.startswith("Not checked: ")
    assert said in note
    randomised = any("at least half of 20" in n for n in verdict.belief(results))
    assert randomised == ("randomised" in more)


def test_a_network_that_learned_nothing_is_called_that(make_results):
    flag = {"name": "learned_nothing", "severe": False, "message": "m.", "values": {}}
    [first, *rest] = verdict.belief(
        read(Results, make_results(0.1) | {"flags": [flag]})
    )
    assert "learned nothing" in first
    assert not any("warning sign" in note for note in rest)


def test_empty_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        report.write(tmp_path)


def test_figures_take_the_colours_of_the_page():
    svg = drawing.lines(
        [("a", "clean", [0, 1], [0.1, 0.9])],
        xlabel="epoch",
        ylabel="<y>",
        description="d",
        percent=True,
    )
    assert svg.startswith("<svg")
    assert "var(--clean)" in svg
    assert not re.search(r"#0[1-6]0[1-6]0[1-6]", svg)
    assert "&lt;y&gt;" in svg


def test_markup_is_escaped_once():
    assert html.tag("p", "<b>", html.tag("i", "&"), id_='"') == (
        '<p id="&quot;">&lt;b&gt;<i>&amp;</i></p>'
    )


def read_all(*results):
    return [read(Results, one) for one in results]


def test_verdict_compares_equal_threats_only(make_results):
    ours, other = make_results(0.4), make_results(0.1)
    assert "30 points less" in verdict.comparison(*read_all(ours, other), "standard")
    assert "as much" in verdict.comparison(
        *read_all(ours, make_results(0.402)), "standard"
    )
    for found in other["attacks"]:
        found["eps_text"] = "4/255"
    assert verdict.comparison(*read_all(ours, other), "standard") is None
