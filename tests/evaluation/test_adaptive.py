"""Attacks that know the defence: chosen by method, and made of its own parts."""

import types

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import evaluation, losses, models
from jaxrobust.evaluation import adaptive, step, suite
from tests.marks import full_but

B = 12


@pytest.mark.parametrize(
    ("model", "objective", "method"),
    [
        ("fpd_resnet", "fpd", "fpd"),
        ("fpd_resnext", "standard", "fpd"),  # a twin has the decoder too
        ("pcl_resnet", "pcl_adversarial", "pcl"),
        ("pcl_resnet", "", "pcl"),  # converted weights name no objective
        ("pcl_resnet", "standard", ""),
        ("vgg", "pc_lc", "pc_lc"),
        ("lenet_sigmoid", "ssc", "ssc"),
        ("ssp_mnist", "pgd", "ssp"),
        ("mine:build", "trades", ""),
    ],
)
def test_method_is_told_from_network_and_objective(model, objective, method):
    config = {"model": {"name": model}, "objective": {"name": objective}}
    assert adaptive.method_of(config) == method


def test_a_bare_config_has_no_method():
    assert adaptive.method_of({}) == ""


@pytest.mark.parametrize("method", ["", "fpd", "pcl", "pc_lc", "ssc", "ssp", "new"])
def test_every_table_is_readable_and_says_why(method):
    fields = {"suite": "adaptive", "attacks": {"a": {"name": "fgsm", "eps": "0.2"}}}
    entries, pending = suite.chosen(fields, "mnist", method)
    assert not pending
    *entries, ensemble = entries
    # Never weaker than AutoAttack, whose Square follows no gradient.
    assert (ensemble.name, ensemble.written) == ("autoattack", "0.2")
    for entry in entries:
        described = entry.describe()
        assert described["why"].endswith(".")
        assert described["eps_text"] == "0.2"  # the radius of the config's own table
        assert described["restarts"] > 1
        assert "loss" not in described  # in results.json that is the mean loss
    made = {entry.describe()["attack_loss"] for entry in entries}
    assert made & {"margin", "dlr", "prototypes"}
    assert made != {"ce"}


def test_the_usual_radius_without_a_table():
    entries, _ = suite.chosen({"suite": "adaptive"}, "mnist")
    assert {entry.eps for entry in entries} == {0.3}


def test_unknown_networks_are_named():
    entry = {"name": "pgd", "eps": "0.1", "step_size": "0.1", "steps": 1}
    with pytest.raises(ValueError, match="Did you mean 'without_tanh'"):
        suite.read({"a": {**entry, "network": "without_tan"}})


class Features(nn.Module):
    """Two classes by one weight per pixel; the pixels are the features."""

    @nn.compact
    def __call__(self, images, *, train=False):
        h = images.reshape(len(images), -1)
        w = self.param("w", nn.initializers.ones, (h.shape[1], 2))
        return models.Outputs(h @ w, {"pooled": h})


def test_the_loss_of_prototypes():
    rng = np.random.default_rng(0)
    x, y = rng.uniform(size=(B, 2, 2, 1)).astype(np.float32), np.arange(B) % 2
    w = rng.normal(size=(4, 2)).astype(np.float32)
    centers = rng.normal(size=(2, 4)).astype(np.float32)
    variables = {"params": {"w": w}}
    plain = adaptive.prototypes(Features(), variables).fn(x, y)
    want = losses.cross_entropy(jnp.asarray(x.reshape(B, 4) @ w), jnp.asarray(y))
    chex.assert_trees_all_close(plain, want, rtol=1e-5)
    variables["extra"] = {"proximity": {"pooled": centers}}
    found = adaptive.prototypes(Features(), variables).fn(x, y)
    distance = np.linalg.norm(x.reshape(B, 1, 4) - centers, axis=-1)
    ratio = np.log(distance[np.arange(B), y] / distance[np.arange(B), 1 - y])
    chex.assert_trees_all_close(found, want + ratio, rtol=1e-4, atol=1e-5)


class Pixels(nn.Module):
    """An encoder of one linear layer per level, for FPD on images of 4x4."""

    @nn.compact
    def __call__(self, x, *, train=False):
        levels = {}
        for level in ("c2", "c3", "c4", "c5"):
            x = levels[level] = nn.Dense(4, name=level)(x)
        return levels


@pytest.fixture(scope="module")
def saturated():
    """FPD whose tanh is flat in float32, and labels as it sees the images."""
    model = models.fpd(Pixels(), num_classes=3, pyramid=4, widths=(4, 4))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (B, 4, 4, 1), np.uint8)
    x = jnp.asarray(images, jnp.float32) / 255
    variables = jax.jit(lambda key: model.init(key, x, train=False))(jax.random.key(1))
    scale = np.array([1e3, -1e3, 1e-3], np.float32)
    fixed = {"kernel": np.tile(scale, (4, 1)), "bias": np.zeros(3, np.float32)}
    params = {**variables["params"], "classifier": fixed}
    variables = {**variables, "params": params}
    labels = jax.jit(models.logits_fn(model, variables))(x).argmax(-1)
    return types.SimpleNamespace(
        model=model, variables=variables, images=images, labels=np.asarray(labels)
    )


def attacked(problem, entry):
    """Logits under an entry of a suite, in the compiled step."""
    run = step.make_eval_step(problem.model, make_attack=entry.make)
    keys = jax.random.split(jax.random.key(0), B)
    return run, run(problem.variables, problem.images, problem.labels, keys)


@pytest.mark.full
@pytest.mark.parametrize(
    "network", full_but(["without_tanh", "without_decoder"], ["without_tanh"])
)
def test_a_network_of_the_defence_is_attacked_and_the_whole_one_judges(
    saturated, network
):
    common = {"name": "pgd", "eps": "0.2", "step_size": "0.1", "steps": 3}
    whole, bare = suite.read(
        {"whole": common, "bare": {**common, "network": network, "why": "."}}
    )
    run, found = attacked(saturated, bare)
    moved = np.abs(found["x_adv"] - saturated.images / 255).max((1, 2, 3))
    assert (moved <= 0.2 + 1e-6).all()
    whole_logits = jax.jit(models.logits_fn(saturated.model, saturated.variables))
    chex.assert_trees_all_close(
        found["logits"], whole_logits(found["x_adv"]), rtol=0, atol=1e-5
    )
    # What the parts see is not flat: the images move another way than through tanh.
    _, blind = attacked(saturated, whole)
    assert np.abs(found["x_adv"] - blind["x_adv"]).max() > 0.1
    # New weights do not go unnoticed.
    other = jax.tree.map(lambda leaf: leaf * 1.5, saturated.variables)
    keys = jax.random.split(jax.random.key(0), B)
    again = run(other, saturated.images, saturated.labels, keys)
    assert np.abs(again["logits"] - found["logits"]).max() > 0


def test_parts_have_the_same_weights_and_the_same_classes(saturated):
    x = jnp.asarray(saturated.images, jnp.float32) / 255
    bare = adaptive.without_tanh(saturated.model)
    raw = jax.jit(models.logits_fn(bare, saturated.variables))(x)
    squashed = jax.jit(models.logits_fn(saturated.model, saturated.variables))(x)
    chex.assert_trees_all_close(jnp.tanh(raw), squashed, rtol=1e-5)
    assert np.abs(raw).max() > 10
    encoder = adaptive.without_decoder(saturated.model)
    out = jax.eval_shape(lambda x: encoder.apply(saturated.variables, x), x)
    assert out.restored is None


def test_the_suite_runs_and_is_described(linear, tmp_path, monkeypatch):
    monkeypatch.setattr(adaptive, "STEPS", 4)
    monkeypatch.setattr(adaptive, "RESTARTS", 2)
    found = evaluation.evaluate(
        linear.model,
        linear.variables,
        linear.make_config(suite="adaptive"),
        tmp_path,
        dataset=linear.dataset,
    )
    slope = np.abs(linear.variables["params"]["w"]).sum()
    assert [one["label"] for one in found["attacks"]] == [
        "pgd_margin",
        "apgd_dlr",
        "autoattack",
    ]
    robust = (linear.margin > 0.1 * slope).mean()
    assert found["worst_case"]["robust_accuracy"] == pytest.approx(robust)
    assert found["attacks"][0]["attack_loss"] == "margin"
    assert found["attacks"][0]["loss"] > 0
