"""Training for randomised smoothing: on a linear network, where all is known."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from jaxrobust import defenses, losses

ATTACK = {"eps": 0.5, "norm": "l2", "steps": 40, "step_size": 0.2}


class Linear(nn.Module):
    @nn.compact
    def __call__(self, images, *, train=False):
        return nn.Dense(2)(images.reshape(len(images), -1))


def setting(name, count=3, **options):
    model = Linear()
    x = jax.random.uniform(jax.random.key(1), (count, 2, 2, 1), minval=0.4, maxval=0.6)
    params = {"model": model.init(jax.random.key(0), x)["params"], "extra": {}}
    keys = jax.random.split(jax.random.key(2), count)
    batch = {"image": x, "label": jnp.arange(count) % 2, "key": keys}
    made = defenses.create(name, model, {"attack": ATTACK, **options})
    return model, params, batch, made.phases[0]


def call(phase, params, batch):
    given = {}, batch, jax.random.key(0), jnp.int32(0)
    if phase.prepare is not None:
        batch = batch | phase.prepare(params, *given)
    return batch, phase.loss(params, {}, batch, *given[2:])


def test_the_loss_is_that_of_noisy_copies():
    """Of many draws: the mean over the Gaussian that the logits' difference has."""
    model, params, batch, phase = setting("gaussian", sigma=0.3, noise_draws=4000)
    _, (value, (_, metrics)) = call(phase, params, batch)
    weights = params["model"]["Dense_0"]["kernel"]
    spread = 0.3 * jnp.linalg.norm(weights[:, 0] - weights[:, 1])
    logits = model.apply({"params": params["model"]}, batch["image"])
    gap = logits[:, 0] - logits[:, 1]
    own = jnp.where(batch["label"] == 0, gap, -gap)
    grid = jax.random.normal(jax.random.key(5), (20000,))
    want = jnp.mean(jax.nn.softplus(-(own[:, None] + spread * grid[None])))
    chex.assert_trees_all_close(value, want, rtol=0.03)
    assert 0 <= metrics["accuracy"] <= 1


def test_no_noise_is_none():
    model, params, batch, phase = setting("gaussian", sigma=1e-6, noise_draws=2)
    _, (value, _) = call(phase, params, batch)
    logits = model.apply({"params": params["model"]}, batch["image"])
    want = losses.cross_entropy(logits, batch["label"]).mean()
    chex.assert_trees_all_close(value, want, rtol=1e-4)


def test_the_attack_is_on_the_smoothed_network():
    """Of a linear network the smoothed one falls the same way: along the weights."""
    _, params, batch, phase = setting("smooth_adv", sigma=0.1, noise_draws=3)
    attacked, (value, (_, metrics)) = call(phase, params, batch)
    weights = params["model"]["Dense_0"]["kernel"]
    way = weights[:, 1] - weights[:, 0]
    signs = jnp.where(batch["label"] == 0, 1.0, -1.0)
    want = 0.5 * signs[:, None] * way[None] / jnp.linalg.norm(way)
    found = (attacked["attacked"] - batch["image"]).reshape(3, -1)
    chex.assert_trees_all_close(found, want, atol=2e-2)
    _, _, _, plain = setting("gaussian", sigma=0.1, noise_draws=3)
    assert value > call(plain, params, batch)[1][0]
    assert "robust_accuracy" in metrics


def test_an_images_noise_is_its_own():
    """Another image beside it changes nothing."""
    _, params, batch, phase = setting("smooth_adv", sigma=0.1)
    alone = {name: value[1:2] for name, value in batch.items()}
    both, one = (call(phase, params, b)[0]["attacked"] for b in (batch, alone))
    chex.assert_trees_all_close(both[1:2], one, atol=1e-6)


@pytest.mark.parametrize("wrong", [{"sigma": 0.0}, {"sigma": -1}, {"noise_draws": 0}])
@pytest.mark.parametrize("name", ["gaussian", "smooth_adv", "macer"])
def test_mistakes_are_told(name, wrong):
    (field,) = wrong
    with pytest.raises((ValueError, TypeError), match=field):
        setting(name, **wrong)


def test_macer_is_its_loss_of_the_same_copies():
    options = {"sigma": 0.1, "noise_draws": 4}
    model, params, batch, phase = setting("macer", hinge=3.0, **options)
    _, (value, (_, metrics)) = call(phase, params, batch)
    noise = jax.vmap(
        lambda key: jax.random.normal(jax.random.fold_in(key, 3), (4, 2, 2, 1)),
        out_axes=1,
    )(batch["key"])
    copies = batch["image"][None] + 0.1 * noise
    logits = jax.vmap(lambda x: model.apply({"params": params["model"]}, x))(copies)
    want = losses.macer(logits, batch["label"], 0.1, hinge=3.0).mean()
    chex.assert_trees_all_close(value, want, rtol=1e-5)
    assert 0 <= metrics["accuracy"] <= 1
    _, _, _, plain = setting("gaussian", **options)
    none = setting("macer", radius_weight=0.0, **options)[3]
    # The mean of probabilities, where cross-entropy is the mean of their logarithms.
    assert call(none, params, batch)[1][0] <= call(plain, params, batch)[1][0] + 1e-6
