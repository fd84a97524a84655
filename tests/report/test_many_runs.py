"""Many runs on one page, from files made up from the dataclasses."""

import dataclasses
import json
import re

import numpy as np
import pytest

from jaxrobust import compare
from jaxrobust.report.many import groups
from jaxrobust.results import as_json, schema
from jaxrobust.results.analysis_schema import Curve, GrowthSummary

IMAGES = 50
THREAT = {"norm": "linf", "eps": 8 / 255, "eps_text": "8/255"}


def attack(label, name, share, **more):
    fields = {**THREAT, "ci95": [0, 1], "n": IMAGES, "seconds": 30.0, **more}
    return schema.AttackSummary(label=label, name=name, robust_accuracy=share, **fields)


def evaluated(robust, flags=(), attacks=(), data="cifar10", growth=1.5):
    share = float(np.mean(robust))
    return schema.Results(
        clean=schema.Clean(accuracy=0.9, ci95=[0, 1], n=IMAGES, seconds=30.0),
        attacks=[
            attack("pgd20", "pgd", share + 0.02, steps=20),
            attack("autoattack", "autoattack", share, version="standard"),
            *attacks,
        ],
        worst_case=schema.WorstCase(robust_accuracy=share, ci95=[0, 1], n=IMAGES),
        flags=[schema.Flag(name=name, message="m", severe=True) for name in flags],
        curve=Curve(
            **{"norm": "linf", "n": 50, "steps": 20, "eps": [0, 8 / 255]},
            **{"eps_text": ["0", "8/255"], "ci95": [[0, 1], [0, 1]]},
            robust_accuracy=[0.9, share],
        ),
        growth=GrowthSummary(
            stages=["stage1", "stage2"], l1=[1, 2], l2=[growth, 2], n=50
        ),
        data=schema.Data(name=data, of=1000),
    )


@pytest.fixture
def write(tmp_path):
    def call(name, results, *, seed=0, robust=(), **changes):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        config = {
            "name": name,
            "seed": seed,
            "model": {"name": "ssp_cifar", "integrator": "ssp2", "blocks": 2},
            "objective": {"name": "pgd"},
            "attack": {"steps": 7},
            "train": {"batch_size": 60},
        }
        for field, value in changes.items():
            table, _, key = field.partition("__")
            config[table] = {**config.get(table, {}), key: value}
        (folder / "config.json").write_text(json.dumps({"config": config}))
        rows = [
            {"step": s, "epoch": s / 10, "loss": 1 / s, "images_per_second": 10.0}
            for s in (5, 10)
        ]
        rows.append({"step": 10, "epoch": 1.0, "validation/robust_accuracy": 0.4})
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "metrics.jsonl").write_text(lines)
        if results is not None:
            (folder / "results.json").write_text(json.dumps(as_json(results)))
            labels = np.arange(IMAGES) % 10
            robust = np.asarray(robust, bool)
            wrong = np.flatnonzero(~robust)[: IMAGES - round(0.9 * IMAGES)]
            np.savez(
                folder / "evaluation.npz",
                indices=np.arange(IMAGES),
                labels=labels,
                predicted_clean=np.where(np.isin(np.arange(IMAGES), wrong), -1, labels),
                robust=robust,
            )
        return str(folder)

    return call


def robust(count):
    return np.arange(IMAGES) < count


def page_of(tmp_path, *runs):
    page, out = tmp_path / "page.html", tmp_path / "numbers.json"
    assert compare.main([*runs, f"--page={page}", f"--out={out}"]) == 0
    return page.read_text(), json.loads(out.read_text())


def test_seeds_are_one_row_and_every_two_are_tested(write, tmp_path):
    runs = [
        write(f"ssp2-seed{i}", evaluated(robust(n)), seed=i, robust=robust(n))
        for i, n in enumerate((20, 24))
    ]
    less = evaluated(robust(5), flags=["zero_gradients"], growth=1.1)
    runs.append(write("res", less, robust=robust(5), model__integrator="res"))
    text, numbers = page_of(tmp_path, *runs)
    assert [g["name"] for g in numbers["groups"]] == ["ssp2", "res"]
    worst = numbers["groups"][0]["accuracy"]["worst case"]
    deviation = (0.48 - 0.4) / 2**0.5
    ends = worst.pop("ci95")
    assert worst == pytest.approx({"mean": 0.44, "deviation": deviation, "n": 2})
    # Of two values Student's interval reaches 12.7062 / 2 of their distance.
    assert ends == pytest.approx([0.0, 0.44 + 12.7062 * 0.04])
    row = re.search(r"<tr><td>ssp2</td>.*?</tr>", text)[0]
    cells = re.findall(r"<td[^>]*>(.*?)</td>", row)
    told = ["ssp2", "2", "90.0 ± 0.0 %", "44.0 ± 5.7 %", "[0.0, 94.8]"]
    told += ["44.0 ± 5.7 %", "46.0 ± 5.7 %"]
    # Ten steps of 60 images at 10 in a second are a minute; so are 3 parts of 30 s.
    assert cells == [*told, "none", "1.0", "1.5"]
    assert "<b>zero gradients</b>" in text
    assert "<td>model.integrator</td><td>ssp2</td><td>res</td>" in text
    first, second, third = numbers["pairs"]
    assert (first["a"], first["b"]) == ("ssp2-seed0", "ssp2-seed1")
    assert second["worst_case"]["p_value"] == pytest.approx(2 * 0.5**15)
    assert third["adjusted_p"] == pytest.approx(3 * 2 * 0.5**19)
    assert second["adjusted_p"] == pytest.approx(2 * 2 * 0.5**15)
    assert first["adjusted_p"] == pytest.approx(2 * 0.5**4)
    heads = re.findall(r"<h2>(.*?)</h2>", text)
    drawn = ["Curves", "Training", "Growth of perturbations"]
    assert heads == ["Results", *drawn, "Who fools whom", "Paired tests", "Terms"]
    assert "--attack transfer:attack=pgd,source=OTHER" in text
    assert not re.search(r"<script|https?://", text)


def test_one_seed_again_is_no_repetition(write, tmp_path):
    """A copy, and another checkpoint of a run, are rows of their own."""

    def of(checkpoint):
        told = schema.EvaluatedNetwork(checkpoint=checkpoint, trained_steps=10)
        return dataclasses.replace(evaluated(robust(9)), evaluated=told)

    runs = [
        write(name, of(checkpoint), seed=seed, robust=robust(9))
        for name, seed, checkpoint in (
            ("s-seed1", 1, "best_robust"),
            ("s-seed2", 2, "best_robust"),
            ("copy", 2, "best_robust"),
            ("s-last", 1, "last"),
        )
    ]
    text, numbers = page_of(tmp_path, *runs)
    rows = [[run.rpartition("/")[2] for run in g["runs"]] for g in numbers["groups"]]
    assert rows == [["s-seed1", "s-seed2"], ["copy"], ["s-last"]]
    assert "<td>checkpoint</td>" in text


def test_what_was_trained_further_is_left_out(write, tmp_path, capsys):
    told = schema.EvaluatedNetwork(command="c", trained_steps=5)
    old = dataclasses.replace(evaluated(robust(9)), evaluated=told)
    runs = [write(name, old, robust=robust(9)) for name in ("a", "b")]
    fresh = write("c", evaluated(robust(9)), robust=robust(9))
    _, numbers = page_of(tmp_path, *runs, fresh)
    assert [g["name"] for g in numbers["groups"]] == ["c"]
    said = capsys.readouterr().err
    assert (
        "of the network as it was at step 5. It was trained further since, to" in said
    )
    assert compare.main([*runs]) == 1
    assert "evaluate it again" in capsys.readouterr().err


def test_files_of_two_evaluations_are_not_compared(write, capsys):
    runs = [
        write(n, evaluated(robust(9)), robust=robust(k))
        for n, k in (("a", 9), ("b", 8))
    ]
    assert compare.main([*runs]) == 1
    assert "0.18 of 50 images in one, 0.16 of 50 in" in capsys.readouterr().err


def test_growth_over_blocks_and_steps(write, tmp_path):
    runs = [
        write(f"n{n}-k{k}", evaluated(robust(9)), model__blocks=n, attack__steps=k)
        for n, k in ((6, 7), (10, 7), (6, 12))
    ]
    text, _ = page_of(tmp_path, *runs)
    assert "Growth over depth and attack, L2" in text
    places = re.findall(r">(N=\d+|K=\d+)</text>", text)
    assert places[:6] == ["N=6", "K=7", "N=6", "K=12", "N=10", "K=7"]


def test_who_fools_whom(write, tmp_path):
    def shown(source):
        handed = {"attack": "pgd", "source": str(tmp_path / source)}
        return evaluated(robust(9), attacks=[attack("t", "transfer", 0.3, **handed)])

    a = write("a", shown("b/checkpoints/5"), robust=robust(9))
    b = write("b", shown("elsewhere"), robust=robust(9), attack__steps=3)
    text, _ = page_of(tmp_path, a, b)
    heads = ["accuracy of", "on images of b", "on images of elsewhere"]
    assert all(head in text for head in heads)
    assert re.search(r"<td>a</td><td[^>]*>30.0 %</td><td[^>]*></td>", text)


def test_what_cannot_be_compared_is_said(write, tmp_path, capsys):
    a = write("a", evaluated(robust(9)), robust=robust(9))
    b = write("b", evaluated(robust(9), data="mnist"), robust=robust(9), data__name="m")
    c = write("c", None, attack__steps=1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    more = [str(tmp_path / name) for name in ("empty", "notes.txt", "a")]
    text, numbers = page_of(tmp_path, a, b, c, *more)
    assert len(numbers["groups"]) == 3
    assert "Not compared: a and b. the two were evaluated on different data" in text
    assert "not evaluated" in text
    assert re.search(
        r"Not compared: a and c; b and c. \S*c holds no results.json", text
    )
    said = capsys.readouterr().err
    assert "notes.txt is no folder" in said
    assert "empty has no config.json" in said
    assert compare.main([a, b, str(tmp_path / "typo")]) == 1
    assert "there is no" in capsys.readouterr().err


def test_two_runs_are_a_table_of_text(write, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [
        write(name, evaluated(robust(n)), robust=robust(n))
        for name, n in (("a", 9), ("b", 30))
    ]
    assert compare.main(runs) == 0
    assert "Worst case: B gets more right." in capsys.readouterr().out
    assert not (tmp_path / compare.PAGE).exists()
    assert compare.main([*runs, runs[0]]) == 0
    assert (tmp_path / compare.PAGE).exists()


def test_names_tell_apart():
    assert groups.names(["/x/a/run", "/x/b/run", "/x/c"]) == ["a/run", "b/run", "c"]
    assert groups.names(["/x/run", "/x/run/twin"]) == ["run", "twin"]
