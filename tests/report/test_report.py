"""The report from files alone; no network, no model, no scripts."""

import json
import re

import numpy as np
import pytest

from jaxrobust import report
from jaxrobust.report import figures, html, verdict

CLASSES = 10
EPS = ("0", "2/255", "8/255", "1")


def attack(label, name, share, **more):
    return {
        "label": label,
        "name": name,
        "norm": "linf",
        "eps": 8 / 255,
        "eps_text": "8/255",
        "robust_accuracy": share,
        "ci95": [share - 0.02, share + 0.02],
        "n": 2000,
        "seconds": 12.5,
        "mean_perturbation": {"linf": 0.031, "l2": 1.2, "l1": 70.0},
        **more,
    }


def make_results(robust, classes=CLASSES):
    return {
        "clean": {"accuracy": 0.95, "ci95": [0.94, 0.96], "n": 2000, "seconds": 1.0},
        "attacks": [
            attack("fgsm", "fgsm", robust + 0.05),
            attack("pgd20", "pgd", robust, steps=20),
        ],
        "worst_case": {
            "robust_accuracy": robust,
            "ci95": [robust - 0.02, robust + 0.02],
            "n": 2000,
            "attacks": ["fgsm", "pgd20"],
        },
        "per_class": [
            {"class": f"c{k}", "n": 200, "accuracy": 0.9, "robust_accuracy": 0.5}
            for k in range(classes)
        ],
        "curve": {
            "norm": "linf",
            "eps": [0, 2 / 255, 8 / 255, 1],
            "eps_text": list(EPS),
            "robust_accuracy": [0.95, 0.8, robust, 0.0],
            "ci95": [
                [0.9, 0.97],
                [0.78, 0.82],
                [robust - 0.1, robust + 0.1],
                [0, 0.01],
            ],
            "n": 500,
            "steps": 20,
        },
        "growth": {
            "stages": ["stage1", "stage2", "stage3"],
            "l1": [1.2, 1.4, 0.9],
            "l2": [1.1, 1.3, 0.8],
            "n": 500,
        },
        "flags": [],
        "environment": {"jax": "0.10.2", "device": "cpu", "commit": None},
    }


def write_run(folder, results, *, name="run", metrics=True, images=True):
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "name": name,
        "model": {"name": "ssp_cifar"},
        "data": {"name": "cifar10"},
        "objective": {"name": "pgd"},
    }
    text = json.dumps({"config": config, "command": "python -m jaxrobust.main --x=<y>"})
    (folder / "config.json").write_text(text)
    if metrics:
        rows = [
            {"step": s, "epoch": s / 50, "loss": 2 / (1 + s), "learning_rate": 0.1}
            for s in range(0, 500, 10)
        ]
        rows += [
            {
                "step": s,
                "epoch": s / 50,
                "validation/accuracy": s / 1000,
                "validation/robust_accuracy": s / 2000,
            }
            for s in range(0, 500, 50)
        ]
        lines = [json.dumps(row) for row in rows]
        (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 51']))
    if results is not None:
        (folder / "results.json").write_text(json.dumps(results))
    if images and results is not None:
        rng = np.random.default_rng(0)
        clean = rng.integers(0, 256, (8, 16, 16, 3), np.uint8)
        noise = rng.uniform(-8 / 255, 8 / 255, clean.shape)
        np.savez(
            folder / "evaluation.npz",
            class_names=np.asarray([f"c{k}" for k in range(CLASSES)]),
            grid_attack=np.asarray("pgd20"),
            grid_images=clean,
            grid_x_adv=np.clip(clean / 255 + noise, 0, 1).astype(np.float32),
            grid_labels=np.arange(8),
            grid_predicted=np.arange(8),
            grid_predicted_adv=np.arange(8)[::-1],
        )


@pytest.fixture
def full_run(tmp_path):
    write_run(tmp_path, make_results(0.45), name="<script>alert(1)</script> & more")
    write_run(tmp_path / "twin", make_results(0.05), name="twin", images=False)
    return tmp_path


def test_says_what_was_found_in_order(full_run):
    text = report.write(full_run).read_text()
    heads = re.findall(r"<h2>(.*?)</h2>", text)
    assert heads == [
        "Warning signs",
        "Attacks",
        "Training",
        "Curves",
        "Images",
        "Reproduce",
    ]
    assert "95.0 % of 2,000 test images are classified correctly" in text
    assert "45.0 % [43.0, 47.0] stay so whatever fgsm and pgd20 do to them" in text
    assert "not AutoAttack" in text
    assert "40 points less" in text
    assert text.count("<img ") == 24
    assert text.count("<svg") == 6


def test_escapes_and_loads_nothing(full_run):
    text = report.write(full_run).read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "--x=&lt;y&gt;" in text
    for url in re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?([^"\'\s>)]+)', text):
        assert url.startswith(("data:", "#")), url
    assert "http://" not in text
    assert "https://" not in text


def test_training_only(tmp_path):
    write_run(tmp_path, None)
    text = report.write(tmp_path).read_text()
    assert "Not evaluated yet" in text
    assert "<h2>Training</h2>" in text
    assert "<h2>Attacks</h2>" not in text


def test_results_only(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(make_results(0.4)))
    text = report.write(tmp_path).read_text()
    assert "<h2>Attacks</h2>" in text
    assert "<h2>Training</h2>" not in text


def test_no_attack(tmp_path):
    results = make_results(0.4) | {"attacks": []}
    write_run(tmp_path, results)
    assert "nothing is known about robustness" in report.write(tmp_path).read_text()


def test_many_classes_name_the_extremes(tmp_path):
    results = make_results(0.4, classes=100)
    results["per_class"][17]["robust_accuracy"] = 0.01
    write_run(tmp_path, results)
    assert "Least robust: c17, " in report.write(tmp_path).read_text()


def test_flags_come_with_their_message(tmp_path):
    flag = {"name": "zero_gradients", "message": "zero for 40 %", "values": {}}
    write_run(tmp_path, make_results(0.4) | {"flags": [flag]})
    text = report.write(tmp_path).read_text()
    assert "zero gradients" in text
    assert "zero for 40 %" in text
    assert "1 warning sign below" in text


def test_empty_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        report.write(tmp_path)


def test_figures_take_the_colours_of_the_page():
    svg = figures.lines(
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


def test_verdict_compares_equal_threats_only():
    ours, other = make_results(0.4), make_results(0.1)
    assert "30 points less" in verdict.comparison(ours, other)
    for found in other["attacks"]:
        found["eps_text"] = "4/255"
    assert verdict.comparison(ours, other) is None
