"""Restarts, random starts, averaged gradients, 8-bit levels, losses of images."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import attacks, losses, models, threat
from jaxrobust.attacks._ascent import Ascent, View
from jaxrobust.attacks._objective import Problem

X = jax.random.uniform(jax.random.key(1), (6, 4, 4, 2))
Y = jnp.array([0, 1, 2, 0, 1, 2])
W = jax.random.normal(jax.random.key(0), (32, 3))
KEY = jax.random.key(5)
STEPS = {"eps": 0.1, "step_size": 0.04, "steps": 3}


def net(x):
    """Wavy, so that starts matter."""
    return 3 * jnp.sin(6 * x.reshape(x.shape[0], -1)) @ W


def test_restarts_keep_the_per_example_worst():
    keys = threat.row_keys(KEY, 6)
    fold = jax.vmap(jax.random.fold_in, (0, None))
    folds = [keys, fold(keys, 1), fold(keys, 2)]
    alone = [attacks.pgd(net, X, Y, key=k, **STEPS) for k in folds]
    loss = jnp.stack([losses.cross_entropy(net(x), Y) for x in alone])
    fooled = jnp.stack([jnp.argmax(net(x), 1) != Y for x in alone])
    best = jnp.argmax(jnp.where(fooled, 1e3, 0.0) + loss, axis=0)
    assert len(set(np.asarray(best).tolist())) > 1
    together = attacks.pgd(net, X, Y, key=KEY, restarts=3, **STEPS)
    for i, r in enumerate(np.asarray(best)):
        chex.assert_trees_all_close(together[i], alone[r][i], rtol=0, atol=1e-6)


def test_a_fooled_point_beats_a_higher_loss():
    """Of two draws, the one with the lower loss is misclassified."""

    def loss(logits, y):
        return jnp.where(jnp.argmax(logits, 1) == y, 5.0, 1.0) + 0 * logits[:, 0]

    def half(x):
        side = x[:, 0, 0, 0] - 0.5
        return jnp.stack([side, -side], axis=1)

    x, y = jnp.full((40, 2, 2, 1), 0.5), jnp.zeros(40, jnp.int32)
    attack = attacks.get("uniform_noise", eps=0.3, draws=8, loss=loss)
    fooled = jnp.argmax(half(attack(half, x, y, KEY)), 1) != y
    assert int(fooled.sum()) >= 38


def test_the_first_start_is_a_sample_of_the_key():
    start = attacks.pgd(net, X, Y, key=KEY, eps=0.1, step_size=0.0, steps=0)
    chex.assert_trees_all_close(
        start, threat.sample(X, key=KEY, eps=0.1, norm="linf"), rtol=0, atol=1e-6
    )


def test_fgsm_takes_a_random_start_and_a_longer_step():
    x_adv = attacks.fgsm(
        net, X, Y, key=KEY, eps=0.1, step_size=0.125, random_start=True
    )
    start = threat.sample(X, key=KEY, eps=0.1, norm="linf")
    grad = jax.grad(lambda x: losses.cross_entropy(net(x), Y).sum())(start)
    expected = threat.project(start + 0.125 * jnp.sign(grad), X, eps=0.1, norm="linf")
    chex.assert_trees_all_close(x_adv, expected, rtol=0, atol=1e-6)


def test_a_stochastic_model_gets_fresh_keys_and_averages():
    """The gradient's sign is wrong in one draw of three: averaging mends it."""

    def noisy(x, key):
        sign = jnp.where(jax.random.uniform(key) < 1 / 3, -1.0, 1.0)
        score = sign * x.sum((1, 2, 3))
        return jnp.stack([score, -score], axis=1)

    logits_fn = models.per_example(noisy)
    x, y = jnp.full((64, 2, 2, 1), 0.5), jnp.zeros(64, jnp.int32)
    common = {"key": KEY, "eps": 0.2, "loss": "margin", "stochastic": True}
    # The margin falls with the score: right is down, so 0.3 where every draw agrees.
    one = attacks.fgsm(logits_fn, x, y, **common)
    many = attacks.fgsm(logits_fn, x, y, eot_samples=31, **common)
    wrong = [float(jnp.mean(a[:, 0, 0, 0] > 0.5)) for a in (one, many)]
    assert 0.15 < wrong[0] < 0.55
    assert wrong[1] < 0.1
    chex.assert_trees_all_equal(one, attacks.fgsm(logits_fn, x, y, **common))


def test_stochastic_rows_depend_on_their_key_alone():
    def noisy(x, keys):
        noise = jax.vmap(lambda k: jax.random.normal(k, (32,)))(keys)
        return (x.reshape(x.shape[0], -1) + 0.5 * noise) ** 2 @ W

    keys = threat.row_keys(KEY, 6)
    attack = attacks.get("pgd", stochastic=True, eot_samples=2, restarts=2, **STEPS)
    whole = attack(noisy, X, Y, keys)
    part = attack(noisy, X[2:4], Y[2:4], keys[2:4])
    chex.assert_trees_all_close(whole[2:4], part, rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", threat.NORMS)
@pytest.mark.parametrize("random_start", [True, False])
def test_quantize(norm, random_start):
    x = jnp.asarray(np.round(np.asarray(X) * 255).astype(np.float32) / 255)
    eps = {"linf": 9 / 255, "l2": 0.3, "l1": 1.5}[norm]
    steps = {"eps": eps, "step_size": eps / 2, "steps": 4}
    x_adv = attacks.pgd(
        net, x, Y, key=KEY, norm=norm, random_start=random_start, quantize=True, **steps
    )
    levels = np.asarray(x_adv, np.float64) * 255
    chex.assert_trees_all_close(levels, np.round(levels), rtol=0, atol=1e-4)
    delta = (np.asarray(x_adv, np.float64) - np.asarray(x, np.float64)).reshape(6, -1)
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    assert np.linalg.norm(delta, order, axis=1).max() <= eps + 1e-6
    gain = losses.cross_entropy(net(x_adv), Y) - losses.cross_entropy(net(x), Y)
    # A random start in L1 is all below one level, and rounds back to the image.
    assert float(gain.mean()) > 0 or (norm == "l1" and random_start)


def test_quantize_is_rounding_on_the_grid():
    """As the original: clip to the ball, then round, where k/255 makes both agree."""
    x = np.round(np.asarray(X) * 255).astype(np.float32) / 255
    eps, step = np.float32(8 / 255), np.float32(2.3 / 255)
    grad = jax.jit(jax.grad(lambda x: losses.cross_entropy(net(x), Y).sum()))
    expected = x
    for _ in range(5):
        moved = expected + step * np.sign(np.asarray(grad(expected)))
        moved = np.clip(np.clip(moved, x - eps, x + eps), 0, 1)
        expected = np.round(moved * 255).astype(np.float32) / 255
    x_adv = attacks.bim(
        net, jnp.asarray(x), Y, eps=8 / 255, step_size=2.3 / 255, steps=5, quantize=True
    )
    chex.assert_trees_all_equal(x_adv, expected)


def test_quantize_stays_inside_a_ball_between_levels():
    """MNIST's eps 0.3 is 76.5 levels: rounding up would leave the ball."""
    x = jnp.full((1, 2, 2, 1), 100 / 255)
    x_adv = attacks.fgsm(
        lambda x: jnp.stack([-x.sum((1, 2, 3)), x.sum((1, 2, 3))], 1),
        x, jnp.array([0]), eps=0.3, quantize=True,
    )  # fmt: skip
    chex.assert_trees_all_close(x_adv, 176 / 255, rtol=0, atol=1e-6)


def test_quantize_leaves_images_off_the_grid_in_the_ball():
    x = jnp.full((1, 2, 2, 1), 100.5 / 255)
    for norm in threat.NORMS:
        x_adv = attacks.pgd(
            net2, x, jnp.array([0]), key=KEY, eps=0.2 / 255, step_size=0.2 / 255,
            steps=2, norm=norm, quantize=True,
        )  # fmt: skip
        chex.assert_trees_all_equal(x_adv, x)


def net2(x):
    total = x.sum((1, 2, 3))
    return jnp.stack([total, -total], axis=1)


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_loss_of_logits_and_of_images(norm, compiled):
    """The same loss, written either way, gives the same attack."""
    common = STEPS | {"norm": norm}
    named = attacks.bim(net, X, Y, loss="margin", **common)
    by_function = compiled(
        lambda x: attacks.bim(
            net, x, Y, loss=lambda z, y: losses.margin(z, y), **common
        )
    )(X)
    by_image = compiled(
        lambda x: attacks.bim(
            net,
            x,
            Y,
            loss=attacks.on_input(lambda x, y: losses.margin(net(x), y)),
            **common,
        )
    )(X)
    chex.assert_trees_all_close(named, by_function, rtol=0, atol=1e-6)
    chex.assert_trees_all_close(named, by_image, rtol=0, atol=1e-6)


def test_l1_keeps_its_best_iterate():
    few, many = (
        attacks.bim(net, X, Y, eps=2.0, step_size=2.0, steps=s, norm="l1")
        for s in (2, 6)
    )
    gain = losses.cross_entropy(net(many), Y) - losses.cross_entropy(net(few), Y)
    assert float(gain.min()) >= -1e-5


def test_uniform_noise_repeats_in_order():
    keys = threat.row_keys(KEY, 6)
    noisy = attacks.uniform_noise(X, key=KEY, eps=0.2, draws=3)
    chex.assert_shape(noisy, (18, 4, 4, 2))
    for d in range(3):
        k = keys if d == 0 else jax.vmap(jax.random.fold_in, (0, None))(keys, d)
        alone = attacks.uniform_noise(X, key=k, eps=0.2)
        chex.assert_trees_all_close(noisy[d::3], alone, rtol=0, atol=1e-6)
    assert float(jnp.abs(noisy - jnp.repeat(X, 3, axis=0)).max()) <= 0.2 + 1e-6


@pytest.mark.parametrize("norm", threat.NORMS)
def test_uniform_noise_under_jit_and_vmap(norm):
    radii = jnp.array([0.0, 0.3])

    def noise(eps):
        return attacks.uniform_noise(X, key=KEY, eps=eps, norm=norm, draws=2)

    together = jax.jit(jax.vmap(noise))(radii)
    chex.assert_trees_all_equal(together[0], jnp.repeat(X, 2, axis=0))
    chex.assert_trees_all_close(together[1], noise(0.3), rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", threat.NORMS)
def test_pgd_with_adam_is_optax_and_projections(norm):
    eps = {"linf": 0.1, "l2": 0.5, "l1": 2.0}[norm]
    x_adv = attacks.pgd(net, X, Y, eps=eps, step_size=0.03, steps=5, norm=norm,
                        direction="adam", random_start=False)  # fmt: skip
    adam = optax.adam(0.03)
    x, state, seen = X, adam.init(X), [X]
    for _ in range(5):
        grad = jax.grad(lambda z: -losses.cross_entropy(net(z), Y).sum())(x)
        update, state = adam.update(grad, state)
        x = threat.project(x + update, X, eps=eps, norm=norm)
        seen.append(x)
    if norm == "l1":  # the best by loss, not the last
        loss = jnp.stack([losses.cross_entropy(net(z), Y) for z in seen])
        x = jnp.stack(seen)[jnp.argmax(loss, axis=0), jnp.arange(len(Y))]
    chex.assert_trees_all_close(x_adv, x, rtol=0, atol=1e-5)


def test_unknown_directions_are_told():
    with pytest.raises(ValueError, match=r"`direction` must be .*'adm'.* 'adam'"):
        attacks.get("pgd", direction="adm", **STEPS)(net, X, Y, KEY)


@dataclasses.dataclass(frozen=True)
class NoiseFactor(View):
    random = "a factor of the images"

    def __call__(self, problem, x, keys, copy):
        return x * jax.vmap(lambda k: jax.random.uniform(k, x.shape[1:]))(keys)


def test_a_view_is_drawn_anew_in_each_step_and_row():
    """Of a linear loss the gradient is w times the factors that were drawn."""
    ascent = Ascent(1, view=NoiseFactor())
    assert ascent.needs_key == "a factor of the images"
    problem = Problem(lambda x: x.reshape(len(x), -1) @ W, X, 0 * Y, 0.1, 0.1,
                      loss=lambda logits, y: logits[:, 1])  # fmt: skip
    keys = threat.row_keys(KEY, 6)
    first, again, other = (ascent.look(problem, keys, i, X)[0] for i in (0, 0, 1))
    factors = first / W[:, 1].reshape(1, *X.shape[1:])
    assert ((factors >= 0) & (factors <= 1)).all()
    chex.assert_trees_all_equal(first, again)
    assert (jnp.abs(first - other).max(axis=(1, 2, 3)) > 0).all()
    assert len(np.unique(np.asarray(factors)[:, 0, 0, 0])) == 6
