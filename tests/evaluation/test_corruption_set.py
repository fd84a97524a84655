"""Accuracy on published sets, of a network that looks at the mean brightness."""

import json

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import evaluation, report
from jaxrobust.evaluation import robustbench
from jaxrobust.evaluation.analyses import corruption_set
from jaxrobust.results import Results, read
from tests.data.small_corruption_sets import LIKE, N, write_arrays, write_folders


class Bright(nn.Module):
    """Class 1 where the mean is above a half."""

    @nn.compact
    def __call__(self, images, *, train=False):
        score = 100 * (images.mean((1, 2, 3)) - 0.5)
        return jnp.stack([jnp.zeros_like(score), score], -1)


def evaluate(workdir, path, **changes):
    config = {
        "seed": 0,
        "data": {"name": "toy"},
        "eval": {
            "batch_size": 4,
            "examples": 0,
            "precision": "highest",
            "attacks": {},
            "curve": {"eps": (), "steps": 1, "examples": 0},
            "growth": {"enabled": False},
            "diagnostics": {"enabled": False},
            "grid": 0,
            "save_adversarial": False,
            "corruption_set": corruption_set.DEFAULTS | {"path": str(path)} | changes,
        },
    }
    evaluation.evaluate(Bright(), {}, config, workdir, dataset=LIKE)
    return json.loads((workdir / "results.json").read_text())


def right(images):
    return (images.mean((1, 2, 3)) > 127.5) == LIKE.labels


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    return tmp_path / "run", folder


def test_arrays_with_a_reference_of_their_own(run):
    workdir, folder = run
    arrays = write_arrays(folder, ["fog", "snow", "saturate"])
    reference = folder.parent / "errors.json"
    reference.write_text(json.dumps({"fog": 0.5, "snow": [0.1, 0.2, 0.3, 0.4, 0.5]}))
    found = evaluate(workdir, folder, reference=str(reference))["corruption_set"]
    want = {
        name: np.stack([right(arrays[name][s * N : s * N + N]) for s in range(5)])
        for name in ("snow", "fog")
    }
    # In the order of the benchmark's table.
    assert [one["name"] for one in found["by_name"]] == ["snow", "fog"]
    for one in found["by_name"]:
        error = 1 - want[one["name"]].mean()
        assert one["accuracy"] == pytest.approx(1 - error)
        of = {"fog": 0.5, "snow": 0.3}[one["name"]]
        assert one["ce"] == pytest.approx(error / of)
    assert 0 < found["mean_accuracy"] < 1
    assert len(found["rows"]) == 10
    assert found["of"] == found["n"] == N
    assert found["left_out"] == ["saturate"]
    assert len(found["missing"]) == 13
    assert "mce" not in found
    assert "means are of 2 of the 15 common corruptions, without" in found["note"]
    assert "corruptions_acc" not in json.loads(
        (workdir / "robustbench.json").read_text()
    )
    with np.load(workdir / "evaluation.npz") as held:
        np.testing.assert_array_equal(held["corruption_set_correct"][1], want["fog"])
    page = report.write(workdir).read_text()
    assert "Published set: " in page
    assert "not counted: saturate" in page


def test_all_of_a_benchmark_give_an_mce(run):
    workdir, folder = run
    write_folders(folder, corruption_set.BENCHMARKS["3DCC"])
    reference = folder.parent / "errors.npz"
    names = corruption_set.BENCHMARKS["3DCC"]
    np.savez(reference, **{name: np.float32(0.5) for name in names})
    found = evaluate(workdir, folder, reference=str(reference), examples=4)
    found = found["corruption_set"]
    assert (found["missing"], found["left_out"]) == ([], [])
    assert (found["n"], found["of"]) == (4, N)
    ces = [2 * (1 - one["accuracy"]) for one in found["by_name"]]
    assert found["mce"] == pytest.approx(np.mean(ces))
    entry = json.loads((workdir / "robustbench.json").read_text())
    assert entry["corruptions_acc_3d"] == f"{100 * found['mean_accuracy']:.2f}"
    assert entry["corruptions_mce_3d"] == f"{100 * found['mce']:.2f}"
    assert "On 4 of 6 images under each corruption." in entry["footnote"]
    assert f"{100 * found['mce']:.1f} %" in report.write(workdir).read_text()


def test_alexnet_is_divided_by_where_the_set_is_imagenets():
    names = corruption_set.BENCHMARKS[corruption_set.COMMON]
    found = corruption_set.read_reference("", names, 1000)
    # The table of the paper, in percent.
    paper = [89, 89, 92, 82, 83, 79, 80, 87, 83, 82, 56, 85, 65, 72, 61]
    assert [round(100 * found[name]) for name in names] == paper
    assert corruption_set.read_reference("", names, 10) == {}
    assert corruption_set.read_reference("none", names, 1000) == {}
    with pytest.raises(ValueError, match="alexnet is of ImageNet-C, got 10 classes"):
        corruption_set.read_reference("alexnet", names, 10)


def test_mistakes_are_found_before_any_work(run):
    workdir, folder = run
    with pytest.raises(ValueError, match="has no corruptions"):
        evaluate(workdir, folder)
    write_arrays(folder, ["fog"])
    with pytest.raises(ValueError, match="has no 'frost'; it has fog"):
        evaluate(workdir, folder, names=["frost"])
    reference = folder.parent / "errors.json"
    for errors, match in (
        ({"snow": 0.5}, r"errors\.json has no error of fog"),
        ({"fog": 88.6}, r"fog must be an error in \(0, 1\].* got 88\.6"),
        ({"fog": [0.5, 0.5]}, "or one for each of 5 severities"),
        ({"fog": None}, "fog must be an error"),
        ({"fog": "high"}, "fog must be an error"),
        ({"fog": True}, "fog must be an error in .* got True"),
        ({"fog": [0.1, 0.2, 0.3, 0.4, True]}, "fog must be an error"),
    ):
        reference.write_text(json.dumps(errors))
        with pytest.raises(ValueError, match=match):
            evaluate(workdir, folder, reference=str(reference))
    with pytest.raises(ValueError, match=r"reference` .* Did you mean 'alexnet'"):
        evaluate(workdir, folder, reference="alex")
    missing = str(folder.parent / "nowhere.json")
    with pytest.raises(FileNotFoundError, match=r"`eval\.corruption_set\.reference`"):
        evaluate(workdir, folder, reference=missing)
    assert not (workdir / "results.json").exists()


def test_an_entry_of_a_leaderboard_has_the_names_of_robustbench():
    share = {"accuracy": 0.5, "ci95": [0.4, 0.6]}
    found = {
        "clean": share,
        "attacks": [],
        "worst_case": {"robust_accuracy": 0.5, "ci95": [0.4, 0.6], "n": 5},
        "flags": [],
        "data": {"name": "imagenet", "of": 5},
        "corruption_set": {
            "clean": share,
            "n": 5,
            "of": 5,
            "note": "",
            "rows": [],
            "by_name": [],
            "by_severity": [],
            "mean_accuracy": 0.25,
            "ci95": [0.2, 0.3],
            "folder": "ImageNet-C",
            "benchmark": "common corruptions",
            "missing": [],
            "left_out": [],
            "mce": 0.75,
        },
    }
    found["clean"] = share | {"n": 5}
    entry = robustbench.entry(read(Results, found), {"eval": {}})
    assert entry["corruptions_acc"] == "25.00"
    assert entry["corruptions_mce"] == "75.00"


def test_what_is_asked_for_beyond_a_benchmark_is_none_of_it(run):
    workdir, folder = run
    write_arrays(folder, ["fog", "saturate"])
    found = evaluate(workdir, folder, names=["saturate", "fog"])["corruption_set"]
    assert [one["name"] for one in found["by_name"]] == ["saturate", "fog"]
    assert "benchmark" not in found
    assert "means are of those in the table" in found["note"]
