"""The analyses of PCL's and FPD's own networks, tiny and untrained, on digits."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import data, defenses, models, report
from jaxrobust.evaluation import evaluate

EXAMPLES = 32


def digits(size, channels=0):
    return data.load("digits", "test", image_size=size, channels=channels, limit=40)


def init(model, example):
    return jax.jit(lambda key: model.init(key, example, train=False))(jax.random.key(0))


def make_config(model, objective):
    return {
        "name": "tiny",
        "seed": 0,
        "data": {"name": "digits"},
        "model": {"name": model},
        "objective": {"name": objective},
        "eval": {
            "batch_size": 20,
            "examples": 40,
            "precision": "highest",
            "attacks": {"fgsm": {"name": "fgsm", "eps": "0.1"}},
            "curve": {"eps": (), "steps": 1, "examples": 0},
            "growth": {"enabled": False},
            "diagnostics": {"enabled": False},
            "analysis": {
                "enabled": True,
                "examples": EXAMPLES,
                "eps": [],
                "steps": 2,
            },
            "grid": 4,
            "save_adversarial": False,
        },
    }


def test_pcl(tmp_path):
    dataset = digits(32)
    model = models.create("pcl_resnet", depth=8, width=4, num_classes=10)
    example = jnp.zeros((1, *dataset.shape))
    variables = init(model, example)
    defense = defenses.create("pcl", model, {"attack": {}})
    extra = defense.init(jax.random.key(1), variables, example)
    config = make_config("pcl_resnet", "pcl")
    found = evaluate(
        model, {**variables, "extra": extra}, config, tmp_path, dataset=dataset
    )["analyses"]
    layers = found["prototypes"]["layers"]
    assert set(layers) == {"pooled", "embedding"}
    with np.load(tmp_path / "evaluation.npz") as arrays:
        for layer, numbers in layers.items():
            distances = arrays[f"distances/{layer}"]
            chex.assert_shape(distances, (EXAMPLES, 2, 2))
            assert (distances > 0).all()
            assert np.isclose(distances[:, 1, 0].mean(), numbers["attacked"]["own"])
    text = report.write(tmp_path).read_text()
    assert "Distances to prototypes, embedding" in text
    assert "Penultimate features" in text


@pytest.mark.full
def test_fpd(tmp_path):
    dataset = digits(32, channels=3)
    model = models.create("fpd_resnet", layers=(1, 1, 1, 1), width=8)
    example = jnp.zeros((1, *dataset.shape))
    variables = init(model, example)
    config = make_config("fpd_resnet", "fpd")
    # Untrained, the tanh of its logits is flat: no gradient to follow.
    noise = {"name": "uniform_noise", "eps": "0.1", "draws": 1}
    config["eval"]["attacks"] = {"noise": noise}
    found = evaluate(model, variables, config, tmp_path, dataset=dataset)["analyses"]
    assert set(found) == {"probability_gap", "features", "restoration"}
    mse = found["restoration"]["mse"]
    assert 0 < mse["attacked"] <= 0.1**2
    with np.load(tmp_path / "evaluation.npz") as arrays:
        chex.assert_shape(arrays["restored"], (4, 2, 32, 32, 3))
    assert (
        report.write(tmp_path).read_text().count("restored from attacked</span>") == 4
    )
