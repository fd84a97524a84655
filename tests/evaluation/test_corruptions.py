"""Accuracy under corruptions, of a network that looks at the mean brightness."""

import json

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import corruptions, data, evaluation, parallel
from jaxrobust.evaluation.analyses import corruptions as corrupted
from jaxrobust.evaluation.setting import Setting
from jaxrobust.results import as_json

N = 13
FIELDS = {
    "enabled": True,
    "names": ["brightness", "gaussian_noise"],
    "severities": [5, 1],
    "examples": 9,
}


class Bright(nn.Module):
    """Class 1 where the mean is above a threshold."""

    @nn.compact
    def __call__(self, images, *, train=False):
        score = 100 * (images.mean((1, 2, 3)) - self.variable("c", "at", float).value)
        return jnp.stack([jnp.zeros_like(score), score], -1)


VARIABLES = {"c": {"at": jnp.float32(0.5)}}


def dataset():
    levels = np.linspace(60, 190, N).astype(np.uint8)
    wave = 20 * np.indices((8, 9)).sum(0) % 40 - 20
    images = (levels[:, None, None, None] + wave[None, :, :, None]).astype(np.uint8)
    labels = (images.mean((1, 2, 3)) > 127.5).astype(np.int32)
    return data.Dataset(images, labels, ("dark", "bright"))


def make_setting(batch_size=4, mesh=None):
    return Setting(
        model=Bright(),
        variables=VARIABLES,
        dataset=dataset(),
        indices=np.arange(N),
        key=jax.random.key(0),
        batch_size=batch_size,
        mesh=mesh,
        precision="highest",
        progress=None,
    )


def run(setting, **changes):
    clean = np.ones(N, bool)
    found, arrays = corrupted.classified(setting, FIELDS | changes, clean, clean)
    return as_json(found), arrays


def test_accuracy_is_that_of_the_corrupted_images():
    found, arrays = run(make_setting(), names=["brightness"], examples=0)
    held = dataset()
    x = held.images / np.float32(255)
    for row, correct in zip(
        found["rows"], arrays["corruption_correct"][0], strict=True
    ):
        y = corruptions.apply(
            "brightness", x, key=jax.random.key(0), severity=row["severity"]
        )
        want = (y.mean((1, 2, 3)) > 0.5) == held.labels
        chex.assert_trees_all_equal(correct, want)
        assert row["accuracy"] == pytest.approx(float(want.mean()))
        low, high = evaluation.wilson_interval(int(want.sum()), N)
        assert row["ci95"] == [low, high]
    assert [row["severity"] for row in found["rows"]] == [1, 5]
    assert found["rows"][0]["accuracy"] > found["rows"][1]["accuracy"]


def test_means_and_pictures():
    found, arrays = run(make_setting())
    correct = arrays["corruption_correct"]
    chex.assert_shape(correct, (2, 2, 9))
    assert found["n"] == 9
    assert found["mean_accuracy"] == pytest.approx(correct.mean())
    for j, one in enumerate(found["by_severity"]):
        assert one["severity"] == (1, 5)[j]
        assert one["accuracy"] == pytest.approx(correct[:, j].mean())
    for i, one in enumerate(found["by_name"]):
        assert one["accuracy"] == pytest.approx(correct[i].mean())
        low, high = one["ci95"]
        assert low <= one["accuracy"] <= high
    assert "not comparable with the published CIFAR-10-C" in found["note"]
    first = dataset().images[arrays["corruption_indices"][0]]
    chex.assert_trees_all_equal(arrays["corruption_clean"], first)
    # Of severities 1 and 5, both as far from 3, the mild one is shown.
    want = np.round(first + 0.05 * 255)
    assert np.abs(arrays["corruption_images"][0] - want).max() <= 1


def test_one_program_per_corruption(monkeypatch):
    traced = []
    apply = corruptions.apply

    def counted(name, *args, **kwargs):
        traced.append(name)
        return apply(name, *args, **kwargs)

    monkeypatch.setattr(corruptions, "apply", counted)
    run(make_setting(), severities=[1, 2, 3, 4, 5])
    assert traced == ["brightness", "gaussian_noise"]


def test_batches_and_devices_change_nothing():
    _, want = run(make_setting())
    _, found = run(make_setting(batch_size=16, mesh=parallel.make_mesh(2)))
    for name in ("corruption_correct", "corruption_images"):
        chex.assert_trees_all_equal(found[name], want[name])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"names": ["gausian_noise"]},
            "'gausian_noise'. Did you mean 'gaussian_noise'",
        ),
        ({"severities": [0]}, "`severity` must be a whole number from 1 to 5, got 0"),
        ({"severities": []}, r"`eval\.corruptions\.severities` is empty"),
        ({"examples": -1}, r"`eval\.corruptions\.examples` must be at least 0"),
    ],
)
def test_mistakes_are_found_before_any_work(changes, message):
    with pytest.raises(ValueError, match=message):
        corrupted.read(FIELDS | changes)


def test_images_that_cannot_be_corrupted():
    with pytest.raises(ValueError, match="at least 8x8 pixels, got 4x4"):
        corrupted.check_images(FIELDS, (4, 4, 3))


def test_all_are_the_default():
    assert corrupted.read(FIELDS | {"names": ()}).names == corruptions.names()


def test_evaluate_puts_them_beside_the_attacks(tmp_path):
    fields = {
        "batch_size": 16,
        "examples": 0,
        "precision": "highest",
        "attacks": {"fgsm": {"name": "fgsm", "norm": "linf", "eps": "1/10"}},
        "curve": {"eps": (), "steps": 1, "examples": 0},
        "growth": {"enabled": False},
        "diagnostics": {"enabled": False},
        "grid": 0,
        "save_adversarial": False,
        "corruptions": FIELDS | {"names": ["contrast"]},
    }
    config = {"seed": 0, "data": {"name": "toy"}, "eval": fields}
    evaluation.evaluate(Bright(), VARIABLES, config, tmp_path, dataset=dataset())
    found = json.loads((tmp_path / "results.json").read_text())
    beside = found["corruptions"]
    assert beside["clean"]["n"] == beside["worst_case"]["n"] == 9
    with np.load(tmp_path / "evaluation.npz") as arrays:
        rows = arrays["corruption_indices"]
        want = arrays["robust"][rows].mean()
        chex.assert_shape(arrays["corruption_images"], (1, 8, 9, 1))
    assert beside["worst_case"]["robust_accuracy"] == pytest.approx(want)
    fields["corruptions"]["enabled"] = False
    found = evaluation.evaluate(
        Bright(), VARIABLES, config, tmp_path, dataset=dataset()
    )
    assert "corruptions" not in found
