"""The report in short: what the page says, for terminals and pull requests."""

import json
import re

import pytest

from jaxrobust import report
from jaxrobust.report import forms
from jaxrobust.report.blocks import CommandLine, Table, Text, Title, Warn
from jaxrobust.results import Results, read


@pytest.mark.parametrize("form", report.FORMS)
def test_all_of_it_stands_on_the_page_too(full_run, form, make_autoattack):
    file = full_run / "results.json"
    results = json.loads(file.read_text())
    results["attacks"].append(make_autoattack())
    results["flags"] = [{"name": "zero_gradients", "message": "40 %", "severe": True}]
    file.write_text(json.dumps(results))
    text, page = report.summary(full_run, form), report.write(full_run).read_text()
    numbers = re.findall(r"\d+\.\d %|\[\d+\.\d, \d+\.\d\]", text)
    assert len(numbers) > 10
    assert set(numbers) <= set(re.findall(r"\d+\.\d %|\[\d+\.\d, \d+\.\d\]", page))
    said = " ".join(text.split())
    assert "45.0 % [43.0, 47.0] seem to stay so" in said
    assert "40 points less" in said
    assert "zero gradients" in said
    assert re.search(r"pgd20 \|? ?45\.0 %", said)


def test_what_evaluate_returns_will_do(make_results):
    results = make_results(0.4)
    results["attacks"][0]["median_distance"] = float("nan")
    assert report.summary(results) == report.summary(read(Results, make_results(0.4)))
    results["attacks"][0]["ci95"] = 3
    with pytest.raises(ValueError, match=r"`attacks\[0\]\.ci95` must be two numbers"):
        report.summary(results)


def test_a_run_without_results_says_so(tmp_path, write_run):
    write_run(tmp_path, None)
    assert "Not evaluated yet" in report.summary(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        report.summary(tmp_path / "nothing")


def test_another_form_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"one of text, markdown, got 'pdf'"):
        report.summary(tmp_path, "pdf")


def test_every_block_in_every_form():
    told = [
        Title("<T>"),
        Text("a|b _c_ @d $e$ [f](g)", soft=True),
        Warn("w\x1b[31m", "n", severe=True),
        Table(("h", "i"), [["a", "1"], ["bb", "22"]], (1,), last_counts=True),
        CommandLine("run it"),
    ]
    assert forms.as_text(told) == (
        "<T>\n---\n\na|b _c_ @d $e$ [f](g)\n\n!! n: w\\x1b[31m\n\n"
        "h    i\n------\na    1\nbb  22\n\n    run it\n"
    )
    assert forms.as_markdown(told) == (
        "## &#60;T&#62;\n\n"
        "<sub>a\\|b \\_c\\_ &#64;d &#36;e&#36; [f\\](g)</sub>\n\n"
        "> 🛑 **n**: w\\\\x1b[31m\n\n"
        "| h | i |\n| --- | ---: |\n| a | 1 |\n| **bb** | **22** |\n\n"
        "```sh\nrun it\n```\n"
    )
    assert "".join(forms.as_html(told[:3])) == (
        '<h2>&lt;T&gt;</h2><p class="soft">a|b _c_ @d $e$ [f](g)</p>'
        '<p class="flag severe"><b>n</b>: w\\x1b[31m</p>'
    )


def test_what_is_proved_stands_beside_what_attacks_leave(make_results):
    results = make_results(0.4)
    results["certified"] = {
        "eps": 0.1, "eps_text": "0.1", "norm": "linf", "method": "ibp", "n": 1000,
        "proved": 0.35, "ci95": [0.32, 0.38], "unbroken": 0.4,
    }  # fmt: skip
    results["flags"] = [{"name": "zero_gradients", "message": "40 %", "severe": True}]
    said = " ".join(report.summary(results).split())
    assert "proved, ibp, L∞, eps 0.1 35.0 % [32.0, 38.0]" in said
    assert "Between 35.0 % (proved by ibp) and 40.0 %" in said
    assert "What is proved stands all the same: 35.0 % at L∞, eps 0.1." in said
    assert "attacks can take at most 5.0 points more" in said
    results["certified"] |= {"contradicted": 3}
    said = " ".join(report.summary(results).split())
    assert "3 images proved and yet broken" in said
    assert "all the same" not in said
