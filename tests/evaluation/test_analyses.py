"""The analyses of networks whose numbers are known."""

import dataclasses

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import attacks, data, models, parallel
from jaxrobust.evaluation import evaluate, suite
from jaxrobust.evaluation.analyses import class_ranks, representations
from jaxrobust.evaluation.setting import Setting, picked
from jaxrobust.results import as_json
from jaxrobust.results.analysis_schema import Analyses

N, CLASSES = 11, 4
CENTERS = np.asarray([[0.2], [0.5], [0.6], [0.9]], np.float32)
FIELDS = {"enabled": True, "examples": 0, "eps": ["0.02", "0.1", "0.2"], "steps": 4}


class Bands(nn.Module):
    """Images of one grey level g; class k has logit -(g - c_k)^2."""

    @nn.compact
    def __call__(self, images, *, train=False):
        grey = images.mean((1, 2, 3))[:, None]
        logits = -50 * (grey - CENTERS.T) ** 2
        restored = jnp.broadcast_to(grey[:, :, None, None], images.shape)
        return models.Outputs(logits, {"penultimate": grey, "z": grey}, restored)


class Bare(nn.Module):
    """Logits alone."""

    @nn.compact
    def __call__(self, images, *, train=False):
        return Bands()(images, train=train).logits


GREY = np.linspace(0.15, 0.95, N)


def make_setting(model=None, variables=None, batch_size=4):
    levels = np.round(255 * GREY).astype(np.uint8)
    images = np.tile(levels[:, None, None, None], (1, 2, 2, 1))
    labels = np.abs(levels[:, None] / 255 - CENTERS.T).argmin(-1).astype(np.int32)
    labels[0] = 2  # one that is wrong before any attack
    return Setting(
        model=model or Bands(),
        variables=variables or {},
        dataset=data.Dataset(images, labels, ("a", "b", "c", "d")),
        indices=np.arange(N),
        key=jax.random.key(0),
        batch_size=batch_size,
        mesh=None,
        precision="highest",
        progress=None,
    )


def logits_of(setting, x):
    return np.asarray(Bands().apply({}, jnp.asarray(x, jnp.float32)).logits)


@pytest.mark.parametrize(("batch_size", "devices"), [(3, 1), (100, 8)])
def test_ranks_equal_single_attacks(batch_size, devices):
    mesh = parallel.make_mesh(devices)
    setting = dataclasses.replace(make_setting(batch_size=batch_size), mesh=mesh)
    x = jnp.asarray(setting.dataset.images / 255, jnp.float32)
    y = jnp.asarray(setting.labels)
    clean = logits_of(setting, x)
    found = as_json(class_ranks.ranks(setting, clean, FIELDS))
    assert [one["name"] for one in found["attacks"]] == ["fgsm", "mim"]
    assert found["ranks"] == [2, 3, 4]
    assert found["n_correct"] == N - 1
    fn = models.logits_fn(Bands(), {})
    order = np.argsort(-clean, -1)
    for one in found["attacks"]:
        before = clean.argmax(-1) == setting.labels
        first = before
        for i, eps in enumerate((0.02, 0.1, 0.2)):
            if one["name"] == "fgsm":
                x_adv = attacks.fgsm(fn, x, y, eps=eps)
            else:
                x_adv = attacks.mim(fn, x, y, eps=eps, step_size=eps / 4, steps=4)
            predicted = np.asarray(fn(x_adv)).argmax(-1)
            new = first & before & (predicted != setting.labels)
            assert one["newly_successful"][i] == new.sum()
            if new.any():
                second = (predicted == order[:, 1])[new].mean()
                assert one["share"][i][0] == pytest.approx(second)
            before = predicted == setting.labels
            assert one["robust_accuracy"][i] == pytest.approx(before.mean())
        assert sum(one["newly_successful"]) > 0


def entry(eps="0.1"):
    table = {"pgd4": {"name": "bim", "eps": eps, "step_size": "0.05", "steps": 4}}
    return suite.read(table)[0]


@pytest.mark.parametrize("devices", [1, 8])
def test_restored_images_features_and_their_errors(devices):
    setting = dataclasses.replace(make_setting(), mesh=parallel.make_mesh(devices))
    found, arrays = representations.under(setting, entry(), keep=6)
    numbers = as_json(found)
    assert numbers["features"] == {"attack": "pgd4", "n": N, "width": 1}
    chex.assert_trees_all_close(arrays["features"][:, 0, 0], GREY, rtol=0, atol=2e-3)
    moved = arrays["features"][:, 1, 0] - arrays["features"][:, 0, 0]
    assert np.abs(moved).max() == pytest.approx(0.1, rel=1e-3)
    # A constant image is its own mean: restored as it went in.
    error = numbers["restoration"]["mse"]
    assert error["restored_clean"] == pytest.approx(0, abs=1e-10)
    assert error["restored_attacked"] == pytest.approx(error["attacked"], rel=1e-4)
    assert error["attacked"] == pytest.approx((moved**2).mean(), rel=1e-4)
    chex.assert_shape(arrays["restored"], (6, 2, 2, 2, 1))
    chex.assert_trees_all_equal(arrays["restored_images"], setting.dataset.images[:6])
    chex.assert_trees_all_close(
        arrays["restored"][:, 1], arrays["restored_x_adv"], rtol=0, atol=1e-6
    )


def test_networks_without_an_inside_have_ranks_and_gaps_alone(tmp_path):
    setting = make_setting(Bare())
    assert representations.under(setting, entry(), keep=2) == (Analyses(), {})
    found = evaluate(
        Bare(), {}, make_config(), workdir=tmp_path, dataset=setting.dataset
    )
    assert set(found["analyses"]) == {"probability_gap", "class_ranks"}


def test_distances_to_prototypes():
    extra = {"proximity": {"z": CENTERS, "unknown": CENTERS}, "contrastive": {}}
    setting = make_setting(variables={"extra": extra})
    described, arrays = representations.under(setting, entry(), keep=0)
    numbers = as_json(described)
    found = arrays["distances/z"]
    chex.assert_shape(found, (N, 2, 2))
    h = arrays["features"][:, :, 0]
    apart = np.abs(h[:, :, None] - CENTERS[:, 0])
    own = np.take_along_axis(apart, setting.labels[:, None, None], -1)[..., 0]
    chex.assert_trees_all_close(found[..., 0], own, rtol=0, atol=1e-5)
    apart[np.arange(N), :, setting.labels] = np.inf
    chex.assert_trees_all_close(found[..., 1], apart.min(-1), rtol=0, atol=1e-5)
    described = numbers["prototypes"]["layers"]
    assert list(described) == ["z"]
    assert described["z"]["clean"]["own"] == pytest.approx(own[:, 0].mean(), abs=1e-5)
    assert described["z"]["clean"]["nearest_is_own"] == pytest.approx(1 - 1 / N)
    assert (
        described["z"]["attacked"]["nearest_is_own"]
        < described["z"]["clean"]["nearest_is_own"]
    )
    assert "restored" not in arrays


def make_config(**changes):
    return {
        "seed": 0,
        "data": {"name": "toy"},
        "eval": {
            "batch_size": 4,
            "examples": 0,
            "precision": "highest",
            "attacks": {
                "fgsm": {"name": "fgsm", "eps": "0.1"},
                "bim": {"name": "bim", "eps": "0.1", "step_size": "0.05", "steps": 3},
            },
            "curve": {"eps": (), "steps": 1, "examples": 0},
            "growth": {"enabled": False},
            "diagnostics": {"enabled": False},
            "analysis": FIELDS,
            "grid": 3,
            "save_adversarial": False,
            **changes,
        },
    }


def run(tmp_path, **changes):
    setting = make_setting()
    return evaluate(
        Bands(), {}, make_config(**changes), workdir=tmp_path, dataset=setting.dataset
    )


def test_evaluation_writes_numbers_and_arrays(tmp_path):
    found = run(tmp_path)["analyses"]
    assert set(found) == {
        "probability_gap",
        "class_ranks",
        "features",
        "restoration",
    }
    gap = found["probability_gap"]
    assert gap["n_correct"] == N - 1
    assert [one["label"] for one in gap["attacks"]] == ["fgsm", "bim"]
    for one in gap["attacks"]:
        assert one["all"] < gap["clean"]["all"] < gap["clean"]["correct"]
    logits = logits_of(None, make_setting().dataset.images / 255)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    labels = make_setting().labels
    own = p[np.arange(N), labels]
    p[np.arange(N), labels] = 0
    assert gap["clean"]["all"] == pytest.approx((own - p.max(-1)).mean(), abs=1e-5)
    with np.load(tmp_path / "evaluation.npz") as arrays:
        chex.assert_shape(arrays["features"], (N, 2, 1))
        chex.assert_shape(arrays["features_labels"], (N,))
        chex.assert_shape(arrays["restored"], (3, 2, 2, 2, 1))


def test_fewer_examples_are_the_same_ones(tmp_path):
    whole = run(tmp_path / "a")
    part = run(tmp_path / "b", analysis={**FIELDS, "examples": 5})
    assert part["analyses"]["features"]["n"] == 5
    assert part["analyses"]["probability_gap"]["n"] == N
    assert part["clean"]["n"] == whole["clean"]["n"]
    with (
        np.load(tmp_path / "a" / "evaluation.npz") as a,
        np.load(tmp_path / "b" / "evaluation.npz") as b,
    ):
        rows = picked(N, 5)
        chex.assert_trees_all_close(
            b["features"], a["features"][rows], rtol=0, atol=1e-6
        )


def test_analyses_can_be_off_or_without_attacks(tmp_path):
    assert "analyses" not in run(tmp_path / "a", analysis={**FIELDS, "enabled": False})
    found = run(tmp_path / "b", attacks={}, analysis={**FIELDS, "eps": []})
    assert list(found["analyses"]) == ["probability_gap"]


@pytest.mark.full
def test_protocols_run_and_list_what_is_pending(tmp_path):
    found = run(tmp_path, suite="pclc2021", analysis={**FIELDS, "enabled": False})
    assert found["suite"] == "pclc2021"
    ran = [one["label"] for one in found["attacks"]]
    assert set(ran) >= {f"mim10_{eps}" for eps in ("0.01", "0.02", "0.03")}
    pending = suite.chosen({"suite": "pclc2021"}, "toy")[1]
    assert found["pending"] == [as_json(one) for one in pending]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": ["0.1", "0.1"]}, r"`eval.analysis.eps` must grow"),
        ({"eps": ["x"]}, r"`eval.analysis.eps` must be a number"),
        ({"examples": -1}, r"`eval.analysis.examples` must be at least 0, got -1"),
        ({"steps": 0}, r"`eval.analysis.steps` must be at least 1, got 0"),
    ],
)
def test_mistakes_are_found_before_any_work(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, analysis={**FIELDS, **change})
    assert not any(tmp_path.iterdir())
