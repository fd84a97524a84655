# %% [markdown]
# # Defend against a new attack in 60 lines
#
# Somebody holds a lamp beside the camera: the image gets brighter on one side and darker on
# the other. No attack here does that. This page writes it, shows that a network falls to
# it, and trains one that does not, all from outside of the package.

# %%
import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from jaxrobust import attacks, data, losses, models, threat
from jaxrobust.defenses import base
from jaxrobust.training import state, step

# %% [markdown]
# ## The attack: 20 lines
#
# An attack is a function `(logits_fn, x, y, *, key, eps, ...) -> x_adv`. Light is a plane
# over the image with three numbers: brightness, slope down, slope across. Their sizes sum
# to at most `eps`, so no pixel changes by more. Gradient ascent on the margin finds them.


# %%
def lamp(logits_fn, x, y, *, key, eps, steps=8):
    """Returns the worst found light on images [B, H, W, C] in [0, 1]."""
    down, across = jnp.meshgrid(
        *(jnp.linspace(-1, 1, side) for side in x.shape[1:3]), indexing="ij"
    )
    planes = jnp.stack([jnp.ones_like(down), down, across])

    def lit(light):
        return jnp.clip(x + jnp.einsum("bk,khw->bhw", light, planes)[..., None], 0, 1)

    def inside(light):
        return light / jnp.maximum(1, jnp.abs(light).sum(-1, keepdims=True) / eps)

    def climb(_, light):
        slope = jax.grad(lambda at: losses.margin(logits_fn(lit(at)), y).sum())(light)
        return inside(light + eps / 4 * jnp.sign(slope))

    def draw(key):
        return jax.random.uniform(key, (3,), minval=-eps, maxval=eps)

    light = inside(jax.vmap(draw)(threat.row_keys(key, len(x))))
    return lit(jax.lax.fori_loop(0, steps, climb, light))


# %% [markdown]
# The keys are one per image, so that an image's result does not depend on its batch.
#
# ## The defence: 7 lines
#
# A defence says which images a batch gets and which loss they have. `base.attacker` makes
# the attacked images, with the network as it is at that step; an attack of yours is named
# `module:function`, here `__main__:lamp`.


# %%
def lamp_training(model, *, attack):
    """Cross-entropy on images under the worst light."""

    def loss(out, y, step):
        return losses.cross_entropy(out.logits, y).mean(), {}

    made = base.attacker(model, f"{__name__}:lamp", attack)
    return base.on_outputs(model, loss, ["attacked"], made)


def plain_training(model, *, attack):
    """Cross-entropy on images as they are."""

    def loss(out, y, step):
        return losses.cross_entropy(out.logits, y).mean(), {}

    return base.on_outputs(model, loss, ["image"])


# %% [markdown]
# ## Training: 25 lines


# %%
class Net(nn.Module):
    """Images [B, 8, 8, 1] to logits [B, 10]."""

    @nn.compact
    def __call__(self, x, train=False):
        """Train mode is the same as evaluation mode here."""
        x = nn.relu(nn.Dense(128)(x.reshape(len(x), -1)))
        return nn.Dense(10)(nn.relu(nn.Dense(64)(x)))


train, test = data.load("digits", "train"), data.load("digits", "test")
x, y = test.images.astype(np.float32) / 255, test.labels
model, key = Net(), jax.random.key(0)


def fit(method):
    """Trains for 200 batches of 128; returns images to logits."""
    defense, tx = method(model, attack={"eps": 0.5}), optax.adam(1.0)
    variables = state.init_variables(model, x[:1], key)
    now = state.create(variables, defense, tx, x[:1], key=key)
    update = step.make_train_step(defense, tx, lambda _: 3e-3, lambda x, keys: x)
    rng = np.random.default_rng(0)
    for _ in range(200):
        rows = rng.integers(0, len(train), 128)
        batch = {"image": train.images[rows], "label": train.labels[rows]}
        now, _ = update(now, batch | {"index": rows.astype(np.int32)}, key)
    return models.logits_fn(model, now.variables)


# %% [markdown]
# ## What it gains


# %%
def accuracy(net, x):
    """Share of images [B, H, W, C] that are classified as labelled."""
    return f"{float((net(x).argmax(-1) == y).mean()):.1%}"


attack = jax.jit(lambda net: lamp(net, x, y, key=key, eps=0.5, steps=30))
for method in (plain_training, lamp_training):
    net = fit(method)
    lit = attack(net)
    x_adv = attacks.pgd(net, x, y, key=key, eps=0.1, step_size=0.02, steps=20)
    print(
        f"{method.__name__}: clean {accuracy(net, x)}, lamp {accuracy(net, lit)}, "
        f"PGD at .1 {accuracy(net, x_adv)}"
    )

# %%
fig, axes = plt.subplots(1, 8, figsize=(8, 1.4))
for axis, image in zip(axes, lit, strict=False):
    axis.imshow(image[..., 0], cmap="gray", vmin=0, vmax=1)
    axis.axis("off")
fig.suptitle("the worst light found for the defended network")
plt.show()

# %% [markdown]
# Training against one attack helps against that attack: look at the last column before you
# call the network robust.
#
# ## In the programs
#
# Put both functions into a file `mine.py` and name them; no line of jaxrobust changes:
#
#     jaxrobust train quickstart --config.objective.name=mine:lamp_training \
#       --config.attack.eps=0.5 --attack mine:lamp:eps=0.5,steps=30
#
# An attack whose images leave every ball is measured in your own code only: the programs
# verify each adversarial image against its radius. What an attack can be composed of is in
# `jaxrobust.attacks.family`; what a defence may do besides (several updates a batch,
# trainables of its own, masks) is in the [reference](../reference/defenses.md) and in
# [How the parts work](../internals.md).
