"""An analysis from outside the package: one file, named by the caller's config."""

import json
import textwrap

import chex
import numpy as np
import pytest

from jaxrobust import evaluation
from jaxrobust.evaluation import analyses
from jaxrobust.training import config as training_config
from jaxrobust.training import program

SOURCE = """
    from types import SimpleNamespace
    from jaxrobust.evaluation.analyses import Found

    def check(fields):
        if not 0 < fields["most"] < 1:
            raise ValueError(f"`most` must be above 0 and below 1, got {fields}.")

    def run(context, runs):
        bright = context.setting.dataset.images[context.setting.indices].mean((1, 2, 3))
        dark = bright < 255 * context.fields["most"]
        flag = {"name": "dark", "severe": False, "message": "Dark.", "values": {}}
        accuracy = runs["clean"].correct[dark].mean()
        return Found(
            {"n": int(dark.sum()), "accuracy": accuracy, **context.fields},
            {"brightness": bright},
            [flag],
            {entry.label: {"dark_n": int(dark.sum())} for entry in context.entries},
        )

    dark = SimpleNamespace(check=check, run=run)
    half = SimpleNamespace(check=check)
"""
FIELDS = {"name": "their_analysis:dark", "most": 0.5}


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    (tmp_path / "their_analysis.py").write_text(textwrap.dedent(SOURCE))
    monkeypatch.syspath_prepend(tmp_path)


def evaluate(linear, folder, fields):
    config = linear.make_config(own_analyses={"shade": fields})
    return evaluation.evaluate(
        linear.model,
        linear.variables,
        config,
        folder,
        dataset=linear.dataset,
        own_analyses=analyses.load(config["eval"]),
    )


def test_it_needs_no_line_in_the_package(theirs, linear, tmp_path):
    found = evaluate(linear, tmp_path / "run", FIELDS)
    bright = linear.dataset.images.mean((1, 2, 3))
    own = found["own_analyses"]["shade"]
    assert own["n"] == (bright < 127.5).sum()
    assert found["flags"][-1]["name"] == "dark"
    assert all(one["dark_n"] == own["n"] for one in found["attacks"])
    written = json.loads((tmp_path / "run/results.json").read_text())
    assert written["own_analyses"]["shade"]["most"] == 0.5
    with np.load(tmp_path / "run/evaluation.npz") as arrays:
        chex.assert_trees_all_close(arrays["shade/brightness"], bright, rtol=1e-7)


def test_its_mistakes_are_told_before_any_work(theirs, linear, tmp_path):
    with pytest.raises(ValueError, match=r"`most` must be above 0 .* got .*2"):
        evaluate(linear, tmp_path / "run", FIELDS | {"most": 2})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("their_analysis:drak", r"has no 'drak'. Did you mean 'dark'"),
        ("their_analysis:half", r"has no run: an analysis has check\(fields\) and run"),
        ("no_such_module:x", r"`eval.own_analyses.shade.name` .* cannot be imported"),
        ("dark", r"`eval.own_analyses.shade.name` must be package.module:name"),
    ],
)
def test_what_is_no_analysis_is_told(theirs, name, message):
    with pytest.raises(ValueError, match=message):
        analyses.load({"own_analyses": {"shade": {"name": name}}})


def test_what_the_config_of_a_checkpoint_names_does_not_count():
    saved = training_config.base().to_dict()
    saved["eval"]["own_analyses"] = {"shade": {"name": "no_such_module:x"}}
    found = program._stored(saved, "a checkpoint")
    assert found["eval"]["own_analyses"] == {}


def test_a_config_alone_imports_nothing(linear, tmp_path):
    config = linear.make_config(own_analyses={"shade": {"name": "no_such_module:x"}})
    found = evaluation.evaluate(
        linear.model, linear.variables, config, tmp_path, dataset=linear.dataset
    )
    assert "own_analyses" not in found
