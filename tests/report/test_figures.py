"""Each analysis has a figure of its name, and one from outside has its place."""

import json
import pathlib

import numpy as np
import pytest

import jaxrobust
from jaxrobust import report
from jaxrobust.report import html
from jaxrobust.results.schema import ANALYSES

ROOT = pathlib.Path(jaxrobust.__file__).parent


@pytest.mark.parametrize("folder", ["evaluation/analyses", "report/figures"])
def test_each_analysis_has_its_two_files_and_no_file_is_forgotten(folder):
    found = {path.stem for path in (ROOT / folder).glob("*.py")}
    assert found - {"__init__", "base", "places"} == set(ANALYSES)


def with_own(folder, make_results, write_run):
    own = {"bright_images": {"n": 3, "share": 0.25, "about": "<b>"}}
    write_run(folder, make_results(0.4) | {"own_analyses": own})
    with np.load(folder / "evaluation.npz") as arrays:
        held = dict(arrays)
    np.savez(
        folder / "evaluation.npz", **held, **{"bright_images/levels": np.arange(3)}
    )


def test_numbers_from_outside_are_a_table(tmp_path, make_results, write_run):
    with_own(tmp_path, make_results, write_run)
    text = report.write(tmp_path).read_text()
    assert "<h3>bright images</h3>" in text
    assert "0.25" in text
    assert "&lt;b&gt;" in text


def test_its_own_figure_gets_its_results_and_arrays(tmp_path, make_results, write_run):
    def figure(results, arrays):
        return html.tag("p", f"{results['n']} of {arrays['levels'].sum()}")

    with_own(tmp_path, make_results, write_run)
    text = report.write(tmp_path, {"bright_images": figure}).read_text()
    assert "<p>3 of 3</p>" in text


def test_results_of_a_later_version_say_so(tmp_path, make_results):
    (tmp_path / "results.json").write_text(
        json.dumps(make_results(0.4) | {"schema": 9})
    )
    with pytest.raises(ValueError, match=r"version 9, .* reads up to 1: upgrade it"):
        report.write(tmp_path)
