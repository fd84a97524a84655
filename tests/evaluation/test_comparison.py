"""Two evaluations compared image by image."""

import json

import chex
import numpy as np
import pytest

from jaxrobust import evaluation
from jaxrobust.evaluation import comparison
from jaxrobust.results import as_json, read
from jaxrobust.results.schema import Compared

PGD = {"name": "pgd", "norm": "linf", "eps": 0.1, "eps_text": "0.1"}


def make(indices, clean, robust, *, attacks=(PGD,), name="toy", of=100, shift=0):
    """What an evaluation leaves; label i is i % 7, wrong is 9."""
    indices = np.asarray(indices)
    labels = (indices + shift) % 7
    told = {"data": {"name": name, "of": of}, "attacks": list(attacks)}
    arrays = {
        "indices": indices,
        "labels": labels,
        "predicted_clean": np.where(clean, labels, 9),
        "robust": np.asarray(robust, bool),
    }
    return comparison.Evaluation(read(Compared, told), arrays)


def test_pairs_examples_by_index_whatever_their_order():
    rng = np.random.default_rng(0)
    clean_a, clean_b = rng.uniform(size=(2, 100)) < 0.8
    robust_a, robust_b = clean_a & (rng.uniform(size=100) < 0.6), np.zeros(100, bool)
    order = rng.permutation(100)[:70]
    a = make(np.arange(100), clean_a, robust_a)
    b = make(order, clean_b[order], robust_b[order])
    found = comparison.compare(a, b)
    assert (found.n, found.same_attacks) == (70, True)
    clean, worst = found.clean, found.worst_case
    assert clean.only_a == (clean_a & ~clean_b)[order].sum()
    assert clean.only_b == (clean_b & ~clean_a)[order].sum()
    assert clean.difference == pytest.approx(clean.a - clean.b)
    assert clean.ci95[0] < clean.difference < clean.ci95[1]
    assert worst.only_a == robust_a[order].sum()
    assert worst.p_value == pytest.approx(2 * 0.5**worst.only_a)
    back = comparison.compare(b, a).worst_case
    chex.assert_trees_all_close(
        np.asarray(back.ci95), np.asarray([-e for e in worst.ci95[::-1]]), rtol=1e-7
    )


def ones(count):
    return np.ones(count, bool)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (make(range(5), ones(5), ones(5), name="mnist"), r"`data\.name` is 'toy' .*'m"),
        (make(range(5), ones(5), ones(5), of=99), r"`data\.of` is 100 .*99"),
        (make(range(50, 55), ones(5), ones(5)), "different images; none is in both"),
        (make(range(5), ones(5), ones(5), shift=1), "5 of 5 images of toy have other"),
    ],
)
def test_other_data_are_refused(other, message):
    with pytest.raises(ValueError, match=message):
        comparison.compare(make(range(5), ones(5), ones(5)), other)


def test_other_attacks_are_said_and_none_leave_the_worst_case_out():
    a = make(range(5), ones(5), ones(5))
    b = make(range(5), ones(5), ones(5), attacks=[{**PGD, "eps_text": "0.2"}])
    found = comparison.compare(a, b)
    assert not found.same_attacks
    assert "not comparable: pgd (linf, eps 0.1) against pgd (linf, eps 0.2)" in (
        comparison.tell(found, "a", "b")
    )
    none = make(range(5), ones(5), ones(5), attacks=[{**PGD, "eps": None}])
    found = comparison.compare(a, none)
    assert found.worst_case is None
    assert "no attack with a radius" in comparison.tell(found, "a", "b")


def save(folder, one):
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(as_json(one.results)))
    np.savez(folder / "evaluation.npz", **one.arrays)


def test_the_program_prints_and_writes(tmp_path, capsys):
    robust = np.arange(40) < 30
    save(tmp_path / "a", make(range(40), ones(40), robust))
    save(tmp_path / "b", make(range(40), ones(40), ~robust))
    runs = [str(tmp_path / "a"), str(tmp_path / "b")]
    out = tmp_path / "comparison.json"
    assert comparison.main([*runs, "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "Worst case: A gets more right." in text
    assert "Clean: these images do not tell which is more." in text
    assert "+50.0" in text
    assert "30 / 10" in text
    found = json.loads(out.read_text())
    assert (found["a"], found["worst_case"]["only_b"]) == (runs[0], 10)
    assert comparison.main([runs[0], str(tmp_path / "c")]) == 1
    assert "c holds no results.json: evaluate" in capsys.readouterr().err


def test_an_evaluation_is_compared_with_its_twin(linear, tmp_path):
    def run(folder, variables, **changes):
        config = linear.make_config(grid=0, **changes)
        return evaluation.evaluate(
            linear.model, variables, config, folder, dataset=linear.dataset
        )

    twin = run(tmp_path / "twin", linear.variables_of(3))
    found = run(tmp_path, linear.variables)
    assert "comparison" not in twin
    worst = found["comparison"]["worst_case"]
    assert worst["a"] == pytest.approx(found["worst_case"]["robust_accuracy"])
    assert worst["b"] == pytest.approx(twin["worst_case"]["robust_accuracy"])
    (tmp_path / "twin" / "evaluation.npz").unlink()
    assert "comparison" not in run(tmp_path, linear.variables)
