"""The table and the pictures of corruptions on the page."""

import json
import re

import numpy as np
import pytest

from jaxrobust import report


def share(value, name="accuracy"):
    return {name: value, "ci95": [value - 0.01, value + 0.01], "n": 500}


@pytest.fixture
def corrupted_run(full_run):
    """Two corruptions at severities 1 and 4, of a run and its twin."""
    rows = [
        {"name": name, "severity": severity, **share(value)}
        for name, values in (("fog", (0.91, 0.72)), ("jpeg_compression", (0.84, 0.66)))
        for severity, value in zip((1, 4), values, strict=True)
    ]
    found = {
        "rows": rows,
        "by_name": [
            {"name": "fog", **share(0.815)},
            {"name": "jpeg_compression", **share(0.75)},
        ],
        "by_severity": [
            {"severity": 1, **share(0.875)},
            {"severity": 4, **share(0.69)},
        ],
        "mean_accuracy": 0.7825,
        "ci95": [0.75, 0.81],
        "clean": share(0.95),
        "worst_case": share(0.45, "robust_accuracy"),
        "n": 500,
        "note": "procedural textures; not comparable with the published CIFAR-10-C",
    }
    twin = found | {"by_name": [{"name": "fog", **share(0.333)}]}
    for folder, results in ((full_run, found), (full_run / "twin", twin)):
        file = folder / "results.json"
        old = json.loads(file.read_text())
        file.write_text(json.dumps(old | {"corruptions": results}))
    path = full_run / "evaluation.npz"
    with np.load(path) as arrays:
        held = dict(arrays)
    np.savez(
        path,
        **held,
        corruption_names=np.asarray(["fog", "jpeg_compression"]),
        corruption_clean=np.zeros((8, 8, 3), np.uint8),
        corruption_images=np.full((2, 8, 8, 3), 255, np.uint8),
        corruption_shown=np.asarray(4),
    )
    return full_run


def cells(text, label):
    """Returns the cells of the row that starts with a label."""
    (row,) = re.findall(rf"<tr[^>]*><td>{label}</td>(.*?)</tr>", text)
    return re.findall(r"<td[^>]*>(.*?)</td>", row)


def test_one_table_for_clean_corrupted_and_attacked(corrupted_run):
    text = report.write(corrupted_run).read_text()
    section = text.partition("<h2>Corruptions</h2>")[2].partition("<h2>")[0]
    assert cells(section, "clean")[:3] == ["95.0 %", "[94.0, 96.0]", "95.0 %"]
    fog = ["81.5 %", "[80.5, 82.5]", "33.3 %", "91.0 %", "72.0 %"]
    assert cells(section, "fog") == fog
    assert cells(section, "JPEG compression")[2:] == ["", "84.0 %", "66.0 %"]
    both = ["78.2 %", "[75.0, 81.0]", "78.2 %", "87.5 %", "69.0 %"]
    assert cells(section, "all corruptions") == both
    worst = ["45.0 %", "[44.0, 46.0]", "45.0 %", "", ""]
    assert cells(section, "worst case of attacks") == worst
    assert "same 500 images" in section
    assert "not comparable with the published CIFAR-10-C" in section
    assert section.count("<img ") == 3
    assert "severity 4" in section


def test_without_them_there_is_no_section(full_run):
    assert "<h2>Corruptions</h2>" not in report.write(full_run).read_text()
