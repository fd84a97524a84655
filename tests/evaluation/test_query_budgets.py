"""Robust accuracy over the queries of black-box attacks."""

import json

import numpy as np

from jaxrobust import evaluation, report

SQUARE = {"name": "square", "eps": "0.1", "queries": 40}
FGSM = {"name": "fgsm", "eps": "0.1"}


def run(linear, folder, **changes):
    asked = {"enabled": True, "examples": 40, "least": 5, "factor": 2}
    config = linear.make_config(queries=asked, **changes)
    return evaluation.evaluate(
        linear.model, linear.variables, config, folder, dataset=linear.dataset
    )


def test_more_queries_leave_less_and_the_last_is_the_suites(linear, tmp_path):
    found = run(linear, tmp_path, attacks={"square": SQUARE, "fgsm": FGSM})
    (curve,) = found["queries"]
    assert (curve["label"], curve["queries"]) == ("square", [5, 10, 20, 40])
    shares = curve["robust_accuracy"]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[-1]
    with np.load(tmp_path / "evaluation.npz") as arrays:
        rows = np.isin(arrays["indices"], arrays["query_indices"])
        clean = arrays["predicted_clean"] == arrays["labels"]
        asked = arrays["queries_square"]
        stands = arrays["robust_square"][rows]
    assert curve["n"] == len(asked) == 40
    assert set(asked.tolist()) <= {-1, 0, 5, 10, 20, 40}
    # What falls with all queries has a number; what is wrong as it is asks for none.
    np.testing.assert_array_equal(asked == 0, ~clean[rows])
    assert not stands[asked == 40].any()
    for queries, share in zip(curve["queries"], shares, strict=True):
        assert share == ((asked == -1) | (asked > queries)).mean()
    fell = np.sort(asked[asked > 0])
    assert curve["median"] == fell[(len(fell) - 1) // 2]
    report.write(tmp_path)
    assert "Robust accuracy over queries" in (tmp_path / "report.html").read_text()


def test_decisions_count_queries_too_and_others_none(linear, tmp_path):
    boundary = {"name": "rays", "eps": "0.1", "queries": 60}
    found = run(linear, tmp_path, attacks={"rays": boundary})
    (curve,) = found["queries"]
    assert curve["queries"] == [5, 10, 20, 40, 60]
    json.dumps(found)
    alone = run(linear, tmp_path / "fgsm", attacks={"fgsm": FGSM})
    assert alone.get("queries") is None
