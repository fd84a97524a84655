"""Objectives with a second network: HAT's helper and LBGAT's guide."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import defenses, losses, models
from jaxrobust.data import augment
from jaxrobust.training import check, optimizer, state, step
from jaxrobust.training import config as common

ATTACK = {"eps": 0.1, "step_size": 0.05, "steps": 3}
SGD = {**common.base().optimizer.to_dict(), "weight_decay": 0.1}
KEY = jax.random.key(3)


class Net(nn.Module):
    """One with running statistics."""

    classes: int = 3

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Dense(8)(x.reshape(len(x), -1))
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(self.classes)(nn.relu(x))


def images(count=6):
    x = jax.random.uniform(jax.random.key(1), (count, 4, 4, 1))
    keys = jax.random.split(jax.random.key(2), count)
    return {"image": x, "label": jnp.arange(count) % 3, "key": keys}


def a_step(defense, model):
    """Makes one update of a fresh network; returns the states and the metrics."""
    batch = images()
    example = batch["image"][:1]
    tx = optimizer.make_optimizer(SGD, defense.labels)
    variables = state.init_variables(model, example, KEY)
    first = state.create(variables, defense, tx, example, key=KEY)
    update = step.make_train_step(
        defense, tx, optax.constant_schedule(0.1), augment.make({"probability": 1.0})
    )
    given = {
        "image": (255 * batch["image"]).astype(jnp.uint8),
        "label": batch["label"],
        "index": jnp.arange(6),
    }
    before = jax.device_get(first)
    after, metrics = update(first, given, KEY)
    return before, jax.device_get(after), metrics


def helper():
    network = Net()
    return network, network.init(jax.random.key(9), images()["image"])


def test_a_helper_that_is_given_stays():
    """Neither the gradient, momentum nor weight decay moves it."""
    defense = defenses.hat(Net(), attack=ATTACK, helper=helper())
    before, after, metrics = a_step(defense, Net())
    chex.assert_trees_all_equal(before.params["extra"], after.params["extra"])
    assert set(metrics) >= {"accuracy", "robust_accuracy", "helper_accuracy"}
    moved = jax.tree.map(np.array_equal, before.params["model"], after.params["model"])
    assert not all(jax.tree.leaves(moved))


@pytest.mark.parametrize("name", ["hat", "lbgat"])
def test_one_trained_beside_learns_and_keeps_no_statistics(name):
    defense = defenses.create(name, Net(), {"attack": ATTACK})
    before, after, _ = a_step(defense, Net())
    [(_, was)] = before.params["extra"].items()
    [(_, now)] = after.params["extra"].items()
    chex.assert_trees_all_equal(was["batch_stats"], now["batch_stats"])
    same = jax.tree.map(np.array_equal, was["params"], now["params"])
    assert not any(jax.tree.leaves(same["Dense_1"]))


def test_hat_is_the_loss_of_its_three_images():
    network, variables = helper()
    model = Net()
    made = defenses.hat(
        model, attack=ATTACK, helper=(network, variables), helper_scale=3.0
    )
    batch, [phase] = images(), made.phases
    assert phase.prepare is not None
    own = model.init(KEY, batch["image"])
    params = {"model": own["params"], "extra": made.init(KEY, own, batch["image"][:1])}
    stats = {"batch_stats": own["batch_stats"]}
    batch |= phase.prepare(params, stats, batch, KEY, jnp.int32(0))
    x, x_adv = batch["image"], batch["attacked"]
    assert float(jnp.abs(x_adv - x).max()) <= 0.1 + 1e-6
    far = x + 3 * (x_adv - x)
    said = jnp.argmax(models.logits_fn(network, variables)(x_adv), -1)
    z, adv, out = (models.logits_fn(model, own, True)(seen) for seen in (x, x_adv, far))
    value, (_, metrics) = phase.loss(params, stats, batch, KEY, jnp.int32(0))
    want = losses.hat(z, adv, out, batch["label"], said).mean()
    chex.assert_trees_all_close(value, want, rtol=1e-5)
    right = jnp.mean(jnp.argmax(out, -1) == said)
    chex.assert_trees_all_close(metrics["helper_accuracy"], right)


@pytest.mark.parametrize("classes", [4, 0])
def test_a_helper_of_other_classes_or_images_is_refused(classes):
    network = Net(classes=classes) if classes else Net()
    seen = images()["image"] if classes else jnp.zeros((1, 9, 9, 1))
    given = network, network.init(KEY, seen)
    defense = defenses.hat(Net(), attack=ATTACK, helper=given)
    told = "4 classes" if classes else "does not take images"
    with pytest.raises(ValueError, match=rf"`helper`.*{told}"):
        a_step(defense, Net())


def test_a_guide_of_other_classes_is_refused():
    defense = defenses.lbgat(Net(), attack=ATTACK, guide=Net(classes=4))
    with pytest.raises(ValueError, match=r"`guide` has 4 classes"):
        a_step(defense, Net())


def fields(**objective):
    config = common.base()
    config.data.name = "digits"
    config.model = {"name": "lenet5", "num_classes": 10}
    config.objective.update(objective)
    return config.to_dict()


def test_a_config_names_helper_and_guide(tmp_path):
    net = models.create("lenet5")
    gone = fields(name="hat", helper=str(tmp_path))
    check.check(gone)  # an evaluation needs none
    with pytest.raises(ValueError, match=r"`helper`.*no checkpoint"):
        check.make_defense(gone, net)
    check.make_defense(gone, net, "trades")  # nor does an objective without one
    for guide in ("lenet5", {"width": 8}):
        with pytest.raises(ValueError, match="`guide` is a table"):
            check.check(fields(name="lbgat", guide=guide))
    check.check(fields(name="hat", helper="zoo:digits_lenet5_standard"))
    guide = {"name": "lenet_sigmoid"}
    check.check(fields(name="lbgat", guide=guide))
    with pytest.raises(ValueError, match="lenet_sigmod"):
        check.check(fields(name="lbgat", guide={"name": "lenet_sigmod"}))
    named = fields(name="lbgat", guide=guide)
    made = check.make_defense(named, models.create("lenet5"))
    example = jnp.zeros((1, 12, 12, 1))
    own = models.create("lenet5").init(KEY, example, train=False)
    found = made.init(KEY, own, example)["guide"]
    sigmoid = models.create("lenet_sigmoid").init(KEY, example, train=False)
    chex.assert_trees_all_equal_shapes(dict(sigmoid), found)
