"""Class names of any kind neither end the page nor change what it says."""

import html as standard

import numpy as np
import pytest

from jaxrobust import report
from jaxrobust.report import classes, html
from jaxrobust.report.figures import representations
from jaxrobust.results.schema import OfClass

# As it is named -> as it is shown.
NAMES = {
    "$\\frac$": "$\\frac$",
    "$x$": "$x$",
    "_private": "_private",
    "a\nb\tc": r"a\nb\tc",
    "<b>&'\"": "<b>&'\"",
    "日本": "日本",
    "\udcff": r"\udcff",
    "\x01": r"\x01",
    "\u202eabc": r"\u202eabc",
    "w" * 400: "w" * 23 + "…",
}


@pytest.mark.parametrize("name", NAMES)
def test_drawings_show_any_class_name(name):
    shares = {"accuracy": 0.5, "robust_accuracy": 0.25, "n": 4}
    bars = classes.draw([OfClass(name=one, **shares) for one in (name, "b")])
    shown = NAMES[name]
    assert _escaped(shown) in bars
    places = np.random.default_rng(0).normal(size=(4, 2, 2))
    found = representations.scatter(places, np.array([0, 0, 1, 1]), [name, "b"])
    assert _escaped(shown[:11]) in found
    (bars + found).encode()


def _escaped(text):
    return standard.escape(text, quote=False)


def test_a_page_with_such_names(tmp_path, make_results, write_run, add_analyses):
    names = list(NAMES)
    results = make_results(0.4, classes=len(names))
    for row, name in zip(results["per_class"], names, strict=True):
        row["class"] = name
    write_run(tmp_path, results)
    with np.load(tmp_path / "evaluation.npz") as arrays:
        held = dict(arrays)
    held["class_names"] = np.asarray(names)
    np.savez(tmp_path / "evaluation.npz", **held)
    add_analyses(tmp_path)
    report.write(tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert "<b>&" not in text
    for name in names[:8]:
        assert standard.escape(NAMES[name]) in text, name


def test_text_of_several_lines_keeps_them():
    assert html.tag("pre", "a\n\tb\r\x00") == "<pre>a\n\tb\\r\\x00</pre>"
    assert html.tag("i", title="a\nb") == '<i title="a\\nb"></i>'
    assert html.render("10\u202f% \N{NO-BREAK SPACE}") == "10\u202f% \N{NO-BREAK SPACE}"
