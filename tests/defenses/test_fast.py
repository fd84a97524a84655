"""Fast and free adversarial training against their algorithms, written out."""

import chex
import jax
import jax.numpy as jnp
import pytest

from jaxrobust import attacks, defenses, losses, models
from jaxrobust.defenses import base

EPS, STEP = 0.1, 0.125
ATTACK = {"norm": "linf", "eps": EPS, "step_size": STEP, "steps": 7, "quantize": False}


def loss_of(model, params, state):
    """Cross-entropy of the network in train mode, per image."""
    variables = {"params": params["model"], **state}

    def fn(x, y):
        out, _ = model.apply(variables, x, train=True, mutable=["batch_stats"])
        return losses.cross_entropy(out.logits, y)

    return fn


def test_a_random_start_then_one_step_back_into_the_ball(problem, evaluate):
    model, params, state, batch = problem
    _, _, _, full = evaluate(defenses.create("fast", model, {"attack": ATTACK}))
    x, y = batch["image"], batch["label"]
    start = attacks.uniform_noise(x, key=batch["key"], eps=EPS)
    grad = jax.grad(lambda z: loss_of(model, params, state)(z, y).sum())(start)
    expected = jnp.clip(start + STEP * jnp.sign(grad), x - EPS, x + EPS).clip(0, 1)
    chex.assert_trees_all_close(full["attacked"], expected, atol=1e-6)


def test_noise_is_a_start_outside_of_the_ball_where_the_step_stays(problem, evaluate):
    model, params, state, batch = problem
    options = {"attack": {**ATTACK, "step_size": EPS}, "start": "noise", "noise": 3.0}
    _, _, _, full = evaluate(defenses.create("fast", model, options))
    x, y = batch["image"], batch["label"]
    noisy = attacks.uniform_noise(x, key=batch["key"], eps=3 * EPS)
    grad = jax.grad(lambda z: loss_of(model, params, state)(z, y).sum())(noisy)
    expected = jnp.clip(noisy + EPS * jnp.sign(grad), 0, 1)
    chex.assert_trees_all_close(full["attacked"], expected, atol=1e-6)
    assert jnp.abs(full["attacked"] - x).max() > 2 * EPS
    chex.assert_trees_all_equal(full["image"], x)


def test_from_the_image_it_is_fgsm(problem, evaluate):
    model = problem[0]
    options = {"attack": {**ATTACK, "step_size": EPS}, "start": "image"}
    _, _, _, one = evaluate(defenses.create("fast", model, options))
    _, _, _, other = evaluate(defenses.create("fgsm", model, options))
    chex.assert_trees_all_close(one["attacked"], other["attacked"], atol=1e-6)


def test_alignment_is_added_and_its_gradient_reaches_the_weights(problem, evaluate):
    model = problem[0]
    found = [
        evaluate(defenses.create("fast", model, {"attack": ATTACK, "grad_align": w}))
        for w in (0.0, 2.0)
    ]
    (plain, _, grads, _), (value, metrics, regularised, _) = found
    assert 0 < metrics["misalignment"] < 2
    expected = plain + 2 * metrics["misalignment"]
    chex.assert_trees_all_close(value, expected, rtol=1e-5)
    moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), grads, regularised)
    assert moved["model"]["hidden"]["kernel"] > 1e-4
    chex.assert_tree_all_finite(regularised)


def test_replays_share_one_gradient(problem):
    """Weights descend by the gradient at the images before they move."""
    model, params, state, batch = problem
    defense = defenses.create("free", model, {"attack": ATTACK, "replays": 3})
    assert len(defense.phases) == 3
    first, second, _ = defense.phases
    key, step, x, y = jax.random.key(4), jnp.int32(0), batch["image"], batch["label"]
    assert first.prepare is not None
    assert second.prepare is None
    full = {**batch, **first.prepare(params, state, batch, key, step)}
    start = full["attacked"]
    run = jax.jit(jax.value_and_grad(first.loss, has_aux=True))
    (value, (_, _, carry)), grads = run(params, state, full, key, step)

    def mean(params, z):
        return loss_of(model, params, state)(z, y).mean()

    expected, of_images = jax.value_and_grad(mean, argnums=1)(params, start)
    chex.assert_trees_all_close(value, expected, rtol=1e-5)
    chex.assert_trees_all_close(grads, jax.grad(mean)(params, start), atol=1e-6)
    stepped = jnp.clip(start + EPS * jnp.sign(of_images), x - EPS, x + EPS)
    chex.assert_trees_all_close(carry["attacked"], stepped.clip(0, 1), atol=1e-6)


def test_replays_cost_a_forward_and_a_backward_pass_each():
    """What makes it free: no pass is made for the attack alone."""
    model = models.create("ssp_mnist", integrator="res", blocks=1, width=4, norm="b")
    x = jnp.zeros((2, 12, 12, 1))
    variables = model.init(jax.random.key(0), x)
    params = {"model": variables["params"], "extra": {}}
    state = {"batch_stats": variables["batch_stats"]}
    batch = {"image": x, "attacked": x, "label": jnp.zeros(2, int)}

    def convolutions(name, **options):
        phase = defenses.create(name, model, {"attack": ATTACK, **options}).phases[0]
        loss = jax.grad(phase.loss, has_aux=True)
        text = jax.jit(loss).lower(params, state, batch, jax.random.key(0), 0)
        return text.as_text("hlo").count(" convolution(")

    plain = convolutions("pgd")
    assert plain <= convolutions("free", replays=1) <= plain + 2  # to the images


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fast", {"start": "noisy"}, "start.*noise.*'noisy'"),
        ("fast", {"noise": -1.0}, "noise.*-1"),
        ("fast", {"grad_align": float("nan")}, "grad_align.*nan"),
        ("fast", {"attack_bn": "test"}, "attack_bn"),
        ("fast", {"attack": {**ATTACK, "eps": -1.0}}, "eps.*-1"),
        ("free", {"attack": {**ATTACK, "eps": -1.0}}, "eps.*-1"),
        ("free", {"replays": 0}, "replays.*at least 1, got 0"),
    ],
)
def test_mistakes_are_found_when_it_is_built(problem, name, options, message):
    with pytest.raises(ValueError, match=message):
        defenses.create(name, problem[0], {"attack": ATTACK, **options})


def test_what_takes_labels_alone_does_not_mix():
    model = models.create("lenet5")
    takes = {"attack": ATTACK, "layers": ("penultimate",)}
    mixes = {
        name
        for name in defenses.FACTORIES
        if name not in ("fpd", "pcl_adversarial")
        and defenses.create(name, model, takes).mixes
    }
    assert {"standard", "ball", "pgd", "fast", "free", "trades"} <= mixes
    assert not mixes & {"mart", "pcl", "pc_lc"}


def test_the_attack_sees_mixed_labels(problem):
    model, params, state, batch = problem
    prepare = base.attacker(model, "fgsm", ATTACK, "eval")
    key, step = jax.random.key(0), jnp.int32(0)
    hard = prepare(params, state, batch, key, step)
    other = (batch["label"] + 1) % 5
    shares = jax.nn.one_hot(jnp.stack([batch["label"], other]), 5)
    same = prepare(params, state, {**batch, "target": shares[0]}, key, step)
    mixed = prepare(params, state, {**batch, "target": shares[1]}, key, step)
    chex.assert_trees_all_close(hard, same, atol=1e-7)
    right = prepare(params, state, {**batch, "label": other}, key, step)
    chex.assert_trees_all_close(mixed, right, atol=1e-7)
