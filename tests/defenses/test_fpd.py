"""The two-phase rule of FPD, one step at a time, against updates written out."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import attacks, defenses, losses, models
from jaxrobust.models import _residual
from jaxrobust.models.fpd import spectral_norm
from jaxrobust.training import state, step
from tests.marks import full_but

RATE = 0.05
SHAPE = (4, 8, 8, 3)
ATTACK = {"norm": "linf", "eps": 0.1, "step_size": 0.05, "steps": 2}


class Tiny(nn.Module):
    """Four convolutions; one that compiles fast."""

    @nn.compact
    def __call__(self, x, *, train, denoise=lambda x: x):
        levels = {}
        for level, strides in (("c2", 2), ("c3", 2), ("c4", 1), ("c5", 2)):
            x = _residual.ConvNorm(4, 3, strides, name=level)(x, train=train)
            x = levels[level] = nn.elu(x)
            x = denoise(x) if level == "c2" else x
        return levels


MODEL = models.fpd(Tiny(), num_classes=3, pyramid=4, widths=(4, 4), dropout=0.0)
# Parity needs no fast code, only code that is compiled fast.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(scope="module")
def variables():
    made = state.init_variables(MODEL, jnp.zeros((1, *SHAPE[1:])), jax.random.key(0))
    return jax.device_get(made)


def batch(number=0):
    rng = np.random.default_rng(number)
    return {
        "image": rng.integers(0, 256, SHAPE, dtype=np.uint8),
        "label": rng.integers(0, 3, SHAPE[0], dtype=np.int32),
        "index": np.arange(SHAPE[0], dtype=np.int32),
    }


def start(variables, tx, **options):
    defense = defenses.create("fpd", MODEL, {"attack": ATTACK, "noise": 0.0, **options})
    example = jnp.zeros((1, *SHAPE[1:]))
    fresh = jax.tree.map(jnp.array, variables)
    first = state.create(fresh, defense, tx, example, key=jax.random.key(1))
    run = step.make_train_step(
        defense, tx, optax.constant_schedule(RATE), lambda x, keys: x,
        precision="highest",
    )  # fmt: skip
    return run, first


def one_step(variables, tx=None, **options):
    run, first = start(variables, tx or optax.sgd(1.0, momentum=0.9), **options)
    return jit(run.__wrapped__)(first, batch(), jax.random.key(2))


def loss_of(params, stats, x, target, y, weights):
    """Returns the weighted sum of L2 and CE, the statistics after, and x'."""
    out, moved = MODEL.apply(
        {"params": params, **stats}, x, train=True, mutable=["batch_stats"]
    )
    l2 = jnp.mean((out.restored - target) ** 2)
    loss = weights[0] * l2 + weights[1] * losses.cross_entropy(out.logits, y).mean()
    return loss, (moved, out.restored, l2)


def descend(params, stats, x, target, y, weights):
    with jax.default_matmul_precision("highest"):
        grads, aux = jit(jax.grad(loss_of, has_aux=True))(
            params, stats, x, target, y, weights
        )
    return jax.tree.map(lambda p, g: p - RATE * g, params, grads), *aux


def split(variables):
    params = dict(variables["params"])
    return params, {"batch_stats": variables["batch_stats"]}


def data():
    given = batch()
    return jnp.asarray(given["image"], jnp.float32) / 255, jnp.asarray(given["label"])


def assert_near(got, want, atol=1e-5):
    chex.assert_trees_all_close(got, want, rtol=0, atol=atol)


@pytest.mark.full
@pytest.mark.parametrize(
    "phase1", full_but(["restoration", "all_but_classifier"], ["restoration"])
)
def test_above_the_threshold_only_phase_one_is_trained(variables, phase1):
    after, metrics = one_step(variables, threshold=0.0, phase1=phase1)
    params, stats = split(variables)
    x, y = data()
    wanted, moved, _, l2 = descend(params, stats, x, x, y, (1.0, 0.0))
    assert metrics["restoring"] == 1
    chex.assert_trees_all_close(metrics["l2"], l2, rtol=1e-5)
    kept = {"classifier"} | ({"encoder"} if phase1 == "restoration" else set())
    got = after.params["model"]
    for name, part in params.items():
        chex.assert_trees_all_equal(got[name], part) if name in kept else assert_near(
            got[name], wanted[name]
        )
    assert_near(after.model_state, moved)
    # Momentum of what is not trained stays as it was.
    trace = after.opt_state[0].trace["model"]
    still = jax.tree.map(jnp.zeros_like, trace["classifier"])
    chex.assert_trees_all_equal(trace["classifier"], still)
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(trace["decoder"]))


@pytest.mark.full
def test_below_the_threshold_there_are_two_updates(variables):
    after, metrics = one_step(
        variables, optax.sgd(1.0), threshold=1e4, second_weight=0.1
    )
    params, stats = split(variables)
    x, y = data()
    params, stats, restored, l2 = descend(params, stats, x, x, y, (1.0, 1.0))
    params, stats, _, l2_again = descend(params, stats, restored, x, y, (0.1, 1.0))
    assert metrics["restoring"] == 0
    chex.assert_trees_all_close(metrics["l2"], l2, rtol=1e-4)
    chex.assert_trees_all_close(metrics["second_l2"], l2_again, rtol=1e-4)
    assert_near(after.params["model"], params)
    assert_near(after.model_state, stats, atol=1e-4)


def test_threshold_equal_to_l2_trains_all_but_makes_no_second_update(variables):
    first, second = defenses.create("fpd", MODEL, {"threshold": 0.5}).phases
    params = {"model": variables["params"], "extra": {}}
    for l2, trained, again in (
        (0.51, False, False),
        (0.5, True, False),
        (0.4, True, True),
    ):
        metrics = {"l2": jnp.float32(l2)}
        mask = first.mask(params, 0, metrics)
        assert bool(mask["model"]["classifier"]["kernel"]) == trained
        assert bool(mask["model"]["decoder"]["up3"]["bias"])
        assert bool(second.when(0, metrics)) == again


@pytest.mark.full
def test_noise_goes_in_and_the_clean_image_is_the_target(variables):
    x, y = data()
    keys = jax.random.split(jax.random.key(0), len(x))
    params, stats = split(variables)

    def l2(noise):
        loss = defenses.create("fpd", MODEL, {"noise": noise}).phases[0].loss
        given = {"image": x, "label": y, "key": keys}
        _, (_, metrics, _) = jit(loss)({"model": params}, stats, given, keys[0], 0)
        return float(metrics["l2"])

    _, (_, restored, _) = jit(loss_of)(params, stats, x, x, y, (1.0, 0.0))
    chex.assert_trees_all_close(l2(0.0), np.mean((restored - x) ** 2), rtol=1e-5)
    assert abs(l2(0.5) - l2(0.0)) > 1e-4


@pytest.mark.full
def test_attacked_half_after_the_delay(variables):
    options = {"attack_name": "pgd", "threshold": 1e4}
    tx = optax.sgd(1.0)
    attack = {**ATTACK, "random_start": False}
    waiting, before = one_step(variables, tx, delay_steps=1, attack=attack, **options)
    x, y = data()
    params, stats, restored, _ = descend(*split(variables), x, x, y, (1.0, 1.0))
    params, stats, *_ = descend(params, stats, restored, x, y, (1.0, 1.0))
    assert_near(waiting.params["model"], params)
    assert_near(waiting.model_state, stats, atol=1e-4)
    assert before["robust_accuracy"] == before["accuracy"]

    after, _ = one_step(variables, tx, attack=attack, **options)
    params, stats = split(variables)
    x, y = data()
    logits_fn = models.logits_fn(MODEL, {"params": params, **stats})
    predicted = jnp.argmax(logits_fn(x), -1)
    with jax.default_matmul_precision("highest"):
        x_adv = attacks.pgd(logits_fn, x, predicted, **attack)

    def both(params):
        clean, (moved, _, _) = loss_of(params, stats, x, x, y, (1.0, 1.0))
        adv, (moved, restored, _) = loss_of(params, moved, x_adv, x, y, (1.0, 1.0))
        return (clean + adv) / 2, (moved, restored)

    with jax.default_matmul_precision("highest"):
        grads, (stats, restored) = jit(jax.grad(both, has_aux=True))(params)
    params = jax.tree.map(lambda p, g: p - RATE * g, params, grads)
    params, stats, *_ = descend(params, stats, restored, x, y, (1.0, 1.0))
    assert_near(after.params["model"], params, atol=1e-4)
    assert_near(after.model_state, stats, atol=1e-3)


@pytest.mark.full
def test_spectral_penalty_shrinks_the_classifier(variables):
    def norm(weight):
        after, _ = one_step(
            variables, optax.sgd(1.0), threshold=1e4, spectral_penalty=weight
        )
        return spectral_norm(after.params["model"]["classifier"]["kernel"])

    # The gradient of the norm is u v^T: each of two updates takes RATE * weight off it.
    chex.assert_trees_all_close(norm(0.0) - norm(0.5), 2 * RATE * 0.5, rtol=0.2)


def test_one_program_without_host_control_flow(variables):
    run, current = start(
        variables, optax.adamax(1.0), attack_name="fgsm", delay_steps=2, threshold=0.2
    )
    once = jax.jit(chex.assert_max_traces(run.__wrapped__, n=1))
    given = jax.tree.map(jnp.asarray, batch())
    text = once.lower(current, given, jax.random.key(0)).as_text()
    assert "callback" not in text
    assert "infeed" not in text
    key, seen = jax.random.key(0), []
    for number in range(4):
        given = jax.tree.map(jnp.asarray, batch(number))
        with jax.transfer_guard("disallow"):
            current, metrics = once(current, given, key)
        seen.append(float(metrics["restoring"]))
    assert current.step == 4


@pytest.mark.parametrize(
    ("fields", "options", "message"),
    [
        ({}, {"phase1": "decoder"}, "`phase1`.*restoration.*'decoder'"),
        ({}, {"threshold": -1.0}, "`threshold`.*at least 0.*-1"),
        ({}, {"noise": float("nan")}, "`noise`.*finite.*nan"),
        ({}, {"second_weight": -0.1}, "`second_weight`"),
        ({}, {"spectral_penalty": float("inf")}, "`spectral_penalty`"),
        ({}, {"attack_name": "pdg"}, "pdg.*'pgd'"),
        ({}, {"attack_name": "pgd", "attack_bn": "both"}, "`attack_bn`"),
        ({"restoration": False}, {}, "needs a network that returns restored"),
    ],
)
def test_refusals(fields, options, message):
    model = models.create("fpd_resnet", layers=(1, 1, 1, 1), width=4, **fields)
    with pytest.raises(ValueError, match=message):
        defenses.create("fpd", model, {"attack": ATTACK, **options})


def test_other_networks_are_refused():
    model = models.create("preact_resnet", width=4)
    with pytest.raises(ValueError, match=r"`spectral_penalty` needs.*PreActResNet"):
        defenses.create("fpd", model, {"attack": ATTACK, "spectral_penalty": 0.1})
    defense = defenses.create("fpd", model, {"attack": ATTACK})
    x = jnp.zeros((2, 8, 8, 3))
    made = jax.eval_shape(model.init, jax.random.key(0), x)
    given = {
        "image": x,
        "label": jnp.zeros(2, int),
        "key": jax.random.split(jax.random.key(0), 2),
    }
    with pytest.raises(ValueError, match="returns restored images"):
        jax.eval_shape(
            defense.phases[0].loss, {"model": made["params"]},
            {"batch_stats": made["batch_stats"]}, given, jax.random.key(0), 0,
        )  # fmt: skip
