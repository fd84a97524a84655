"""The whole evaluation of a linear network, whose robustness is a closed form."""

import json

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import data, evaluation, parallel
from jaxrobust.evaluation import setting
from jaxrobust.evaluation.analyses import curve

EPS = 0.1
N = 60


class Linear(nn.Module):
    """Two logits (0, w.x - b)."""

    @nn.compact
    def __call__(self, images, *, train=False):
        w = self.param("w", nn.initializers.zeros, images.shape[1:], images.dtype)
        b = self.param("b", nn.initializers.zeros, (), images.dtype)
        score = jnp.einsum("bhwc,hwc->b", images, w) - b
        return jnp.stack([jnp.zeros_like(score), score], -1)


def linear_problem():
    """Images away from the bounds, labelled mostly as the network sees them."""
    rng = np.random.default_rng(0)
    images = rng.integers(60, 196, (N, 3, 3, 1), np.uint8)
    w = rng.normal(size=(3, 3, 1)).astype(np.float32)
    b = np.float32(w.sum() / 2)
    score = np.einsum("nhwc,hwc->n", images / 255, w) - b
    labels = ((score > 0) ^ (rng.uniform(size=N) < 0.1)).astype(np.int32)
    margin = np.where(labels == 1, score, -score)
    dataset = data.Dataset(images, labels, ("no", "yes"))
    return dataset, {"params": {"w": w, "b": b}}, margin


def make_config(**changes):
    config = {
        "seed": 0,
        "data": {"name": "toy", "image_size": 0, "test_examples": 0},
        "eval": {
            "batch_size": 16,
            "examples": 0,
            "precision": "highest",
            "attacks": {
                "fgsm": {"name": "fgsm", "norm": "linf", "eps": "1/10"},
                "pgd5": {
                    "name": "pgd",
                    "norm": "linf",
                    "eps": "0.1",
                    "step_size": "1/20",
                    "steps": 5,
                    "random_start": True,
                },
                "noise": {"name": "uniform_noise", "eps": EPS, "draws": 2},
            },
            "curve": {"eps": ("0", "1/20", "0.1", "0.2"), "steps": 5, "examples": 0},
            "growth": {
                "enabled": True,
                "eps": "0.1",
                "step_size": "0.05",
                "steps": 2,
                "examples": 8,
            },
            "diagnostics": {
                "enabled": True,
                "examples": 40,
                "steps": 4,
                "restarts": 1,
                "queries": 5,
            },
            "grid": 4,
            "save_adversarial": False,
        },
    }
    config["eval"].update(changes)
    return config


def run(tmp_path, **changes):
    dataset, variables, margin = linear_problem()
    found = evaluation.evaluate(
        Linear(), variables, make_config(**changes), tmp_path, dataset=dataset
    )
    return found, margin, np.abs(variables["params"]["w"]).sum()


def test_results_match_the_closed_form_and_the_schema(tmp_path):
    found, margin, slope = run(tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(
        json.dumps(found)
    )
    robust = margin > EPS * slope
    assert found["clean"]["accuracy"] == pytest.approx((margin > 0).mean())
    assert found["clean"]["n"] == N
    fgsm, pgd, noise = found["attacks"]
    want = {"name": "fgsm", "label": "fgsm", "norm": "linf", "eps_text": "1/10", "n": N}
    assert want.items() <= fgsm.items()
    assert fgsm["eps"] == pytest.approx(0.1)
    assert pgd["step_size"] == 0.05
    assert pgd["steps"] == 5
    for one in (fgsm, pgd):
        assert one["robust_accuracy"] == pytest.approx(robust.mean())
        low, high = one["ci95"]
        assert low < one["robust_accuracy"] < high
        assert one["seconds"] > 0
        assert one["mean_perturbation"]["linf"] == pytest.approx(0.1, rel=1e-3)
        assert one["mean_perturbation"]["l1"] == pytest.approx(0.9, rel=1e-2)
    assert noise["robust_accuracy"] >= pgd["robust_accuracy"]
    worst = found["worst_case"]
    assert worst["robust_accuracy"] == pytest.approx(robust.mean())
    assert worst["attacks"] == ["fgsm", "pgd5", "noise"]
    assert found["data"] == {"name": "toy", "examples": N, "of": N}
    assert found["environment"]["jax"] == jax.__version__
    assert found["environment"]["precision"] == "highest"
    assert found["environment"]["device_count"] == len(jax.devices())
    assert found["flags"] == []
    assert found["diagnostics"]["n"] == 40
    assert found["diagnostics"]["eps"] == pytest.approx(EPS)
    chosen = setting.picked(N, 40)
    left = found["diagnostics"]["accuracy"]
    assert left["clean"] == pytest.approx((margin > 0)[chosen].mean())
    for name in ("single_step", "iterative", "more_steps", "more_restarts"):
        assert left[name] == pytest.approx(robust[chosen].mean())
    assert left["covering"] == 0
    assert "growth" not in found


class Masked(nn.Module):
    """The same on rounded images: its gradient is zero."""

    @nn.compact
    def __call__(self, images, *, train=False):
        levels = jnp.round(images * 255) / 255
        return Linear(name="linear")(levels, train=train)


def test_masked_gradients_are_flagged(tmp_path):
    dataset, variables, _ = linear_problem()
    variables = {"params": {"linear": variables["params"]}}
    config = make_config(curve={"eps": ()})
    config["data"]["validation_examples"] = 1000
    validated = [(10, 0.4), (20, 0.0)]  # of its training
    metrics = [
        {"step": n, "validation/accuracy": 0.8, "validation/robust_accuracy": share}
        for n, share in validated
    ]
    given: dict = {"dataset": dataset, "metrics": metrics}
    found = evaluation.evaluate(Masked(), variables, config, tmp_path, **given)
    raised = {flag["name"]: flag for flag in found["flags"]}
    assert raised["zero_gradients"]["values"] == {"share": 1.0}
    assert raised["zero_gradients"]["severe"]
    assert "above_chance_at_largest_eps" in raised
    assert raised["catastrophic_overfitting"]["values"]["step"] == 20


def test_worst_case_is_an_and_over_attacks(tmp_path):
    found, margin, _ = run(tmp_path)
    with np.load(tmp_path / "evaluation.npz") as arrays:
        parts = [
            arrays[f"predicted_{name}"] == arrays["labels"]
            for name in ("clean", "fgsm", "pgd5", "noise")
        ]
        chex.assert_trees_all_equal(arrays["robust"], np.all(parts, axis=0))
        for name, part in zip(("fgsm", "pgd5", "noise"), parts[1:], strict=True):
            chex.assert_trees_all_equal(arrays[f"robust_{name}"], part)
        assert "robust_clean" not in arrays
        assert found["worst_case"]["robust_accuracy"] == arrays["robust"].mean()
        chex.assert_trees_all_equal(parts[0], margin > 0)
        chex.assert_shape(arrays["grid_images"], (4, 3, 3, 1))
        chex.assert_shape(arrays["grid_x_adv"], (4, 3, 3, 1))
        moved = np.abs(arrays["grid_x_adv"] - arrays["grid_images"] / 255)
        assert moved.max() <= EPS + 1e-6
        assert moved.max() > EPS / 2
        assert list(arrays["class_names"]) == ["no", "yes"]
    for row, number in zip(found["per_class"], (0, 1), strict=True):
        own = linear_problem()[0].labels == number
        assert row["n"] == own.sum()
        assert row["accuracy"] == pytest.approx((margin > 0)[own].mean())


def test_curve_falls_and_equals_single_radii(tmp_path):
    found, margin, slope = run(tmp_path, attacks={}, grid=0)
    got = found["curve"]
    assert got["eps_text"] == ["0", "1/20", "0.1", "0.2"]
    want = [(margin > eps * slope).mean() for eps in got["eps"]]
    assert got["robust_accuracy"] == pytest.approx(want)
    assert np.all(np.diff(got["robust_accuracy"]) <= 0)
    dataset, variables, _ = linear_problem()
    for eps, accuracy in zip(got["eps"], got["robust_accuracy"], strict=True):
        step = evaluation.make_eval_step(Linear(), curve.pgd_at("linf", 5)(eps))
        single = evaluation.run_eval_step(
            step, variables, dataset, key=jax.random.key(1), batch_size=16
        )
        assert single.accuracy == pytest.approx(accuracy)
    assert found["attacks"] == []
    assert found["worst_case"]["robust_accuracy"] == found["clean"]["accuracy"]


@pytest.mark.full
def test_batch_size_changes_nothing(tmp_path):
    one, _, _ = run(tmp_path / "a")
    two, _, _ = run(tmp_path / "b", batch_size=60)
    drop = {"seconds", "date"}

    def plain(value):
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items() if k not in drop}
        if isinstance(value, list):
            return [plain(v) for v in value]
        return round(value, 4) if isinstance(value, float) else value

    assert plain(one) == plain(two)


def test_adversarial_images_on_request_and_fewer_examples(tmp_path):
    found, _, _ = run(tmp_path, save_adversarial=True, examples=21)
    assert found["clean"]["n"] == 21
    dataset, _, _ = linear_problem()
    with np.load(tmp_path / "adversarial.npz") as arrays:
        assert set(arrays) == {
            "indices",
            "labels",
            *(f"x_adv_{name}" for name in ("fgsm", "pgd5", "noise")),
        }
        x = dataset.images[arrays["indices"]] / 255
        assert len(x) == 21
        for name in ("fgsm", "pgd5", "noise"):
            assert np.abs(arrays[f"x_adv_{name}"] - x).max() <= EPS + 1e-6


def test_choice_of_examples_is_fixed_nested_and_spread():
    few, many = setting.picked(1000, 20), setting.picked(1000, 200)
    assert set(few) < set(many)
    assert few.min() < 200
    assert few.max() > 800
    chex.assert_trees_all_equal(setting.picked(7, 0), np.arange(7))
    chex.assert_trees_all_equal(setting.picked(7, 70), np.arange(7))
    with pytest.raises(ValueError, match=r"`examples` .* -1"):
        setting.picked(7, -1)


def test_results_are_replaced_whole(tmp_path):
    (tmp_path / "results.json").write_text("old")
    found, _, _ = run(tmp_path, attacks={}, growth={"enabled": False})
    assert (
        json.loads((tmp_path / "results.json").read_text())["clean"] == found["clean"]
    )
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["evaluation.npz", "results.json", "robustbench.json"]


def test_non_finite_networks_have_no_accuracy(tmp_path):
    dataset, variables, _ = linear_problem()
    variables["params"]["b"] = np.float32(np.nan)
    with pytest.raises(ValueError, match="logits of 60 of 60 examples are not finite"):
        evaluation.evaluate(
            Linear(), variables, make_config(), tmp_path, dataset=dataset
        )
    assert not (tmp_path / "results.json").exists()


@pytest.mark.full
def test_devices_change_nothing(tmp_path):
    dataset, variables, _ = linear_problem()
    found = [
        evaluation.evaluate(
            Linear(),
            variables,
            make_config(),
            tmp_path / str(count),
            dataset=dataset,
            mesh=parallel.make_mesh(count),
        )
        for count in (1, 8)
    ]
    for key in ("clean", "worst_case", "curve"):
        one, eight = ({**r[key], "seconds": 0, "loss": 0} for r in found)
        assert one == eight
