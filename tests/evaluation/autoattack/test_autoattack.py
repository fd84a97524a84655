"""AutoAttack: verdicts, independence of slots and devices, traps."""

import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import evaluation, parallel
from jaxrobust.attacks import autoattack_versions as versions
from tests.marks import full_but

KEY = jax.random.key(0)
EPS = 0.008


ORDERS = """
import importlib, sys
for first in ("", ".autoattack", ".autoattack.setup", ".suite"):
    for name in [n for n in sys.modules if n.partition(".")[0] == "jaxrobust"]:
        del sys.modules[name]
    importlib.import_module("jaxrobust.evaluation" + first)
    from jaxrobust import evaluation
    from jaxrobust.evaluation import autoattack
    assert callable(autoattack) and evaluation.autoattack is autoattack, first
"""


def test_the_function_is_found_under_its_name_whatever_is_imported_first():
    """`jaxrobust.evaluation.autoattack` is a package too, which would hide it."""
    subprocess.run([sys.executable, "-c", ORDERS], check=True)


def one_device():
    return parallel.make_mesh(1)


def attack(model, eps, norm="linf", **options):
    options = {
        "key": KEY, "progress": False, "mesh": one_device(), "slots": 8, **options
    }  # fmt: skip
    x, y = options.pop("x", model.x), options.pop("y", model.y)
    fn = options.pop("fn", model)
    return evaluation.autoattack(fn, x, y, eps=eps, norm=norm, **options)


@pytest.mark.parametrize(
    ("classes", "norm"),
    full_but([(2, "linf"), (3, "l1"), (5, "l2")], [(2, "linf")]),
)
def test_verdicts_on_a_linear_model_are_exact(linear, classes, norm):
    model = linear(classes)
    distance = model.smallest_ratio(norm)
    eps = float(np.median(distance))
    result = attack(model, eps, norm, bounds=(-9.0, 9.0))
    sure = np.abs(distance - eps) > 1e-3 * eps
    assert sure.sum() >= 22
    chex.assert_trees_all_equal(result.robust[sure], (distance > eps)[sure])
    assert not result.clean[0]
    assert 0.3 < result.robust.mean() < 0.6
    fooled = result.clean & ~result.robust
    predicted = np.asarray(model(jnp.asarray(result.x_adv))).argmax(1)
    assert (predicted[fooled] != model.y[fooled]).all()
    same = (result.x_adv == model.x).all((1, 2, 3))
    chex.assert_trees_all_equal(same, ~fooled)
    moved = (result.x_adv.astype(np.float64) - model.x).reshape(len(model.x), -1)
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    assert (np.linalg.norm(moved, order, axis=1) <= eps + 1e-6).all()
    assert [stage.name for stage in result.stages] == [
        "apgd-ce", "apgd-t", "fab-t", "square"
    ]  # fmt: skip
    chex.assert_trees_all_equal(result.stages[-1].robust, result.robust)
    targets = min(classes - 1, 5 if norm == "l1" else 9)
    said = " ".join(result.replaced)
    assert f"apgd-t has {targets} target" in said or targets == 5
    assert ("needs 4 classes" in said) == (classes < 4)


@pytest.mark.parametrize("kind", full_but(["vector", "sequence", "volume"], ["vector"]))
def test_rows_that_are_no_images(linear, kind):
    """They are attacked as images are, and come back as they were."""
    model = linear(2)
    rows = model.x.shape[1:]
    shape = {"vector": (-1,), "sequence": (-1, 2), "volume": (1, *rows)}[kind]
    x = model.x.reshape(len(model.x), *shape)
    distance = model.smallest_ratio("linf")
    eps = float(np.median(distance))
    result = evaluation.autoattack(
        lambda z: model(z.reshape(-1, *rows)),
        x,
        model.y,
        key=KEY,
        eps=eps,
        bounds=(-9.0, 9.0),
        progress=False,
        slots=8,
        mesh=one_device(),
    )
    chex.assert_equal_shape([result.x_adv, x])
    sure = np.abs(distance - eps) > 1e-3 * eps
    chex.assert_trees_all_equal(result.robust[sure], (distance > eps)[sure])


@pytest.fixture(scope="module")
def small_net():
    """A tanh network on 6 x 6 images whose robust accuracy is about a half."""
    rng = np.random.default_rng(1)
    w = rng.normal(size=(108, 12)).astype(np.float32) / 4
    v = rng.normal(size=(12, 10)).astype(np.float32)
    x = rng.uniform(size=(30, 6, 6, 3)).astype(np.float32)

    def net(x):
        return jnp.tanh((x.reshape(x.shape[0], -1) - 0.5) @ w) @ v

    net.x, net.y = x, np.asarray(net(x)).argmax(1).astype(np.int32)
    return net


@pytest.fixture(scope="module")
def usual(small_net):
    return attack(small_net, EPS)


@pytest.mark.parametrize(
    ("devices", "slots"), full_but([(1, 30), (2, 4), (2, 16), (8, 16)], [(2, 4)])
)
def test_flags_depend_on_neither_slots_nor_devices(small_net, usual, devices, slots):
    first = slice(None, 2 * slots)
    x, y = small_net.x[first], small_net.y[first]
    mesh = parallel.make_mesh(devices)
    other = attack(small_net, EPS, x=x, y=y, slots=slots, mesh=mesh)
    assert 0.2 < usual.robust.mean() < 0.8
    chex.assert_trees_all_equal(other.robust, usual.robust[first])
    for one, two in zip(other.stages, usual.stages, strict=True):
        chex.assert_trees_all_equal(one.robust, two.robust[first])


def test_an_images_result_is_its_own(small_net, usual):
    keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(30))
    rows = np.array([20, 3, 11, 7])
    some = attack(
        small_net, EPS, x=small_net.x[rows], y=small_net.y[rows], key=keys[rows]
    )
    chex.assert_trees_all_equal(some.robust, usual.robust[rows])


class Stop(Exception):
    """Ends an evaluation, as a kill would, right after its state is written."""


class StopAt:
    """A progress display that ends the process at its n-th report."""

    def __init__(self, reports):
        self.left = reports

    def update(self, done, total, label, values):
        self.left -= 1
        if not self.left:
            raise Stop

    def close(self):
        pass


@pytest.mark.parametrize("reports", full_but([2, 60, 200], [60]))
def test_interrupted_and_continued_is_the_same_to_the_bit(
    small_net, usual, tmp_path, reports
):
    options = {"state_dir": tmp_path, "save_every": 0.0}
    with pytest.raises(Stop):
        attack(small_net, EPS, progress=StopAt(reports), **options)
    again = attack(small_net, EPS, **options)
    chex.assert_trees_all_equal(again.robust, usual.robust)
    chex.assert_trees_all_equal(again.x_adv, usual.x_adv)
    assert [s.calls for s in again.stages] == [s.calls for s in usual.stages]


@pytest.mark.full
def test_continued_with_other_slots(small_net, usual, tmp_path):
    with pytest.raises(Stop):
        attack(small_net, EPS, state_dir=tmp_path, save_every=0.0, progress=StopAt(300))
    again = attack(small_net, EPS, state_dir=tmp_path, slots=14)
    chex.assert_trees_all_equal(again.robust, usual.robust)


@pytest.mark.full
def test_a_finished_evaluation_is_not_run_again(linear, tmp_path):
    model = linear(2)
    first = attack(model, 0.1, state_dir=tmp_path)
    again = attack(model, 0.1, state_dir=tmp_path)
    assert [s.seconds for s in again.stages] == [s.seconds for s in first.stages]
    chex.assert_trees_all_equal(again.x_adv, first.x_adv)
    # Another key, and the same logits with another gradient, are other evaluations.
    attack(model, 0.1, state_dir=tmp_path, key=jax.random.key(1))
    attack(model, 0.1, fn=straight_through(model), state_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    attack(model, 0.1, state_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="cannot be read"):
        attack(model, 0.1, state_dir=tmp_path)


def straight_through(model):
    """The same logits, with a gradient twice as large."""
    return lambda x: 2 * model(x) - jax.lax.stop_gradient(model(x))


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"x": lambda m: 2 * m.x - 1}, ValueError, "bounds"),
        ({"x": lambda m: (255 * m.x).astype(np.uint8)}, TypeError, "uint8"),
        ({"x": lambda m: m.x.astype(np.float16)}, TypeError, "float32 or float64"),
        ({"x": lambda m: m.x.reshape(-1)}, ValueError, r"\[B, H, W, C\]"),
        ({"y": lambda m: m.y + 7}, ValueError, "labels from"),
        ({"y": lambda m: m.y[:3]}, ValueError, "one label per image"),
        ({"eps": 0.0}, ValueError, "eps"),
        ({"eps": float("nan")}, ValueError, "eps"),
        ({"norm": "l3"}, ValueError, "Did you mean"),
        ({"version": "standart"}, ValueError, "Did you mean 'standard'"),
        ({"slots": 1}, ValueError, "slots"),
        ({"draws": 0}, ValueError, "draws"),
        ({"fn": lambda m: lambda x: m(x) * jnp.nan}, ValueError, "not finite"),
        ({"fn": lambda m: lambda x: m(x)[:, :1]}, ValueError, "two classes"),
        ({"fn": lambda m: lambda x: m(x)[:, 0]}, ValueError, r"\[B, K\]"),
        ({"fn": lambda m: "resnet"}, TypeError, "logits_fn"),
    ],
)
def test_mistakes_are_told(linear, change, error, said):
    model = linear(3)
    change = {k: v(model) if k in ("x", "y", "fn") else v for k, v in change.items()}
    with pytest.raises(error, match=said):
        attack(model, change.pop("eps", 0.1), **change)


def names_of(result):
    return {flag["name"] for flag in result.flags}


def test_sound_models_raise_no_flag(usual):
    assert usual.flags == []


def test_probabilities_are_flagged(linear):
    model = linear(3)
    result = attack(model, 0.5, fn=lambda x: jax.nn.softmax(model(x)))
    assert "probabilities_as_logits" in names_of(result)


def test_batch_statistics_are_flagged(linear):
    model = linear(3)
    result = attack(model, 0.5, fn=lambda x: model(x) - model(x).mean(0, keepdims=True))
    assert "outputs_change" in names_of(result)


def test_quantised_inputs_are_flagged(linear):
    model = linear(3)
    result = attack(model, 0.1, fn=lambda x: model(jnp.round(x * 20) / 20))
    assert {"zero_gradients", "black_box_beats_white_box"} <= names_of(result)


@pytest.mark.full
def test_randomised_models_are_judged_by_fresh_draws(linear):
    """One class's logit is +1 or -1 by a coin: half of all draws are wrong."""
    model = linear(3)

    def coin(x, keys):
        flip = jax.vmap(lambda k: jax.random.rademacher(k, ()))(keys)
        return jnp.stack([flip, 0 * flip], 1) * 1.0 + 0 * model(x)[:, :2]

    y = np.zeros(len(model.x), np.int32)
    result = attack(model, 0.1, fn=coin, y=y, version="rand", stochastic=True, draws=40)
    assert abs(result.robust_accuracy - 0.5) < 0.15
    assert result.ci95[0] < result.robust_accuracy < result.ci95[1]
    assert result.draws == 40
    assert [s.name for s in result.stages] == ["apgd-ce", "apgd-dlr"]

    def noisy(x, keys):
        noise = jax.vmap(lambda k: jax.random.normal(k, (3,)))(keys)
        return model(x) + 0.01 * noise

    distance = model.smallest_ratio("linf")
    eps = float(np.median(distance))
    result = attack(model, eps, fn=noisy, version="rand", stochastic=True)
    sure = np.abs(distance - eps) > 0.2 * eps
    chex.assert_trees_all_equal(result.robust[sure], (distance > eps)[sure])
    assert result.flags == []


@pytest.mark.full
def test_a_randomised_model_goes_through_every_attack(linear):
    """Points outside the ball, as FAB finds them, are no results."""
    model = linear(2)

    def noisy(x, keys):
        return model(x) + 0.01 * jax.vmap(lambda k: jax.random.normal(k, (2,)))(keys)

    distance = model.smallest_ratio("linf")
    eps = float(np.median(distance))
    result = attack(model, eps, fn=noisy, stochastic=True, draws=5)
    sure = np.abs(distance - eps) > 0.2 * eps
    chex.assert_trees_all_equal(result.robust[sure], (distance > eps)[sure])
    assert names_of(result) == {"randomised_model"}


def test_rand_on_a_deterministic_model_is_flagged(linear):
    assert "deterministic_model" in names_of(attack(linear(2), 0.05, version="rand"))


def test_published_settings():
    def of(version, norm, classes=10):
        found = versions.plan(version, norm, classes)
        return {
            s.name: (s.method.runs(), s.method.steps, s.method.restarts)
            for s in found.stages
        }

    assert of("standard", "linf") == {
        "apgd-ce": (1, 100, 1),
        "apgd-t": (9, 100, 1),
        "fab-t": (9, 100, 1),
        "square": (1, 5000, 1),
    }
    assert of("standard", "l1") == {
        "apgd-ce": (5, 102, 5),
        "apgd-t": (5, 102, 1),
        "fab-t": (9, 100, 1),
        "square": (1, 5000, 1),
    }
    assert list(of("plus", "l2").items()) == [
        ("apgd-ce", (5, 100, 5)),
        ("apgd-dlr", (5, 100, 5)),
        ("fab", (5, 100, 5)),
        ("square", (1, 5000, 1)),
        ("apgd-t", (9, 100, 1)),
        ("fab-t", (9, 100, 1)),
    ]
    assert list(of("rand", "linf")) == ["apgd-ce", "apgd-dlr"]
    for norm in ("linf", "l1"):
        strong = of("strong", norm)
        assert of("standard", norm).items() <= strong.items()
        assert [*strong][4:] == ["apgd-malt", "apgd-margin", "apgd-dlr"]
    assert of("standard", "linf", 4)["apgd-t"][0] == 3
    with pytest.raises(ValueError, match="at least 2"):
        versions.plan("standard", "linf", 1)
