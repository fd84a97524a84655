"""A network behind `config.eval.preprocessing`, attacked as a whole."""

import json

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import data, evaluation, models, preprocessing, report
from jaxrobust.evaluation import analyses, preprocessed

N = 24
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (N, 8, 8, 1), np.uint8)
W = RNG.normal(size=(64, 2)).astype(np.float32)
VARIABLES = {"params": {"w": W}}


class Linear(nn.Module):
    """One matrix."""

    @nn.compact
    def __call__(self, images, *, train=False):
        w = self.param("w", nn.initializers.zeros, (64, 2))
        return images.reshape(len(images), -1) @ w


LABELS = np.asarray(IMAGES.reshape(N, -1) / 255 @ W).argmax(1).astype(np.int32)


def evaluate(workdir, text, **changes):
    fields = {
        "batch_size": N,
        "examples": 0,
        "precision": "highest",
        "attacks": {"fgsm": {"name": "fgsm", "norm": "linf", "eps": 0.1}},
        "grid": 0,
        "save_adversarial": False,
        "preprocessing": text,
    }
    config = {"seed": 0, "data": {"name": "toy"}}
    config["eval"] = analyses.defaults() | fields | changes
    for name in ("growth", "diagnostics", "analysis"):
        config["eval"][name]["enabled"] = False
    config["eval"]["curve"] |= {"eps": ()}
    dataset = data.Dataset(IMAGES, LABELS, ("a", "b"))
    evaluation.evaluate(Linear(), VARIABLES, config, workdir, dataset=dataset)
    return json.loads((workdir / "results.json").read_text())


def test_the_attack_is_on_the_defended_network(tmp_path):
    found = evaluate(tmp_path, "bit_depth:2", save_adversarial=True)
    inner = models.logits_fn(Linear(), VARIABLES)
    defended = preprocessing.bit_depth(inner, bits=2)
    right = np.asarray(defended(IMAGES / np.float32(255)).argmax(1) == LABELS)
    assert found["clean"]["accuracy"] == pytest.approx(right.mean())
    with np.load(tmp_path / "adversarial.npz") as arrays:
        x_adv = jnp.asarray(arrays["x_adv_fgsm"], jnp.float32)
    robust = np.asarray(defended(x_adv).argmax(1) == LABELS)
    [fgsm] = found["attacks"]
    assert fgsm["robust_accuracy"] == pytest.approx(robust.mean())
    assert fgsm["mean_perturbation"]["linf"] == pytest.approx(0.1, rel=1e-3)
    assert robust.mean() < right.mean()  # the gradient goes past the rounding


def test_a_random_defence_is_judged_by_fresh_draws(tmp_path):
    found = evaluate(tmp_path, "resize_and_pad:smallest=0.7+bit_depth:bits=3")
    assert found["preprocessing"] == "resize_and_pad:smallest=0.7+bit_depth:bits=3"
    assert found["randomised"]["draws"] == preprocessed.DRAWS
    [fgsm] = found["attacks"]
    assert (fgsm["stochastic"], fgsm["eot_samples"]) == (True, preprocessed.DRAWS)
    assert 0 <= fgsm["expected_accuracy"] < 1
    told = " ".join(report.summary(found).split())
    assert "the network behind its defence, resize_and_pad" in told


def test_the_first_step_sees_the_image_first():
    steps = preprocessed.read("bit_depth:1+jpeg:quality=10,gradient=through")
    assert [step.options for step in steps] == [
        {"bits": 1},
        {"quality": 10, "gradient": "through"},
    ]
    seen = preprocessed.around(steps, lambda x: x)
    x = jnp.asarray(IMAGES / np.float32(255))
    want = preprocessing.bit_depth(preprocessing.jpeg(lambda x: x, 10), 1)(x)
    np.testing.assert_array_equal(seen(x), want)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("jpg:75", "unknown preprocessing 'jpg:75'. Did you mean 'jpeg'"),
        ("jpeg:qualty=75", "jpeg has no option 'qualty'. Did you mean 'quality'"),
        ("jpeg:", "must be NAME:option=value"),
        ("jpeg:75,quality=50", "must be NAME:option=value"),
        ("jpeg:0", "`quality` must be a whole number from 1 to 100, got 0"),
        ("median:three", "`window` must be a whole number .* got 'three'"),
        ("resize_and_pad:small", "resize_and_pad"),
        ("jpeg+", "unknown preprocessing ''"),
        ("denoise", "unknown preprocessing 'denoise'"),
    ],
)
def test_mistakes_are_told_in_a_line(text, match):
    with pytest.raises(ValueError, match=match) as told:
        preprocessed.read(text)
    assert "\n" not in str(told.value)


def test_attacks_on_parts_of_a_network_are_refused(tmp_path):
    own = {"name": "pgd", "eps": 0.1, "step_size": 0.1, "steps": 1, "why": "it fits"}
    own |= {"norm": "linf", "network": "without_tanh"}
    with pytest.raises(ValueError, match="attack 'own' is on parts of the network"):
        evaluate(tmp_path, "jpeg:75", attacks={"own": own})


def test_what_one_draw_would_answer_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`eval\.corruptions\.enabled` is for"):
        evaluate(tmp_path, "resize_and_pad", corruptions={"enabled": True})
