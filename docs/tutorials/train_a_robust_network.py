# %% [markdown]
# # Train a robust network
#
# The defence that has stood best so far is to train on attacked images. You can do it in
# your own loop, or from one config. This page does the first by hand and ends with the
# second.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from jaxrobust import attacks, data, losses

train, test = data.load("digits", "train"), data.load("digits", "test")
x, y = train.images.astype(np.float32) / 255, train.labels
x_test, y_test = test.images.astype(np.float32) / 255, test.labels
EPS = 0.1

# %% [markdown]
# ## A network
#
# Any will do; this one is a dict of weights and a function. `jax.tree_util.Partial` binds
# the weights, so that attacks see them as arguments: new weights compile nothing anew.

# %%
draw = np.random.default_rng(0).normal
sizes = ((64, 128), (128, 128), (128, 10))
start = [(draw(0, a**-0.5, (a, b)).astype(np.float32), np.zeros(b)) for a, b in sizes]


def apply(weights, x):
    """Maps images [B, 8, 8, 1] to logits [B, 10]."""
    x = x.reshape(len(x), -1)
    for w, b in weights[:-1]:
        x = jax.nn.relu(x @ w + b)
    return x @ weights[-1][0] + weights[-1][1]


# %% [markdown]
# ## The loop
#
# One line makes the difference: the batch is attacked before the gradient is taken. No
# gradient flows through an attack.

# %%
tx = optax.adam(optax.cosine_decay_schedule(3e-3, 300))


def fit(weights, adversarial):
    """Trains for 300 batches of 128, as one compiled program."""

    def step(carry, key):
        weights, state = carry
        rows = jax.random.randint(key, (128,), 0, len(x))
        images, labels = jnp.asarray(x)[rows], jnp.asarray(y)[rows]
        if adversarial:
            images = attacks.pgd(
                jax.tree_util.Partial(apply, weights),
                images,
                labels,
                key=key,
                eps=EPS,
                step_size=EPS / 3,
                steps=5,
            )
        grads = jax.grad(
            lambda w: losses.cross_entropy(apply(w, images), labels).mean()
        )(weights)
        updates, state = tx.update(grads, state)
        return (optax.apply_updates(weights, updates), state), None

    keys = jax.random.split(jax.random.key(1), 300)
    return jax.lax.scan(step, (weights, tx.init(weights)), keys)[0][0]


fit = jax.jit(fit, static_argnums=1)
nets = {"plain": fit(start, False), "robust": fit(start, True)}

# %% [markdown]
# ## Did it help?
#
# On test images, with a stronger attack than that of the training: 20 steps, and the
# worst of the radii is what counts.

# %%
radii = jnp.linspace(0, 0.2, 5)


@jax.jit
def curve(weights):
    """Accuracy under PGD-20 at each radius."""
    net = jax.tree_util.Partial(apply, weights)

    def at(eps):
        found = attacks.pgd(
            net,
            jnp.asarray(x_test),
            jnp.asarray(y_test),
            key=jax.random.key(2),
            eps=eps,
            step_size=eps / 8,
            steps=20,
        )
        return (net(found).argmax(-1) == y_test).mean()

    return jax.vmap(at)(radii)


plt.figure(figsize=(5, 3))
for name, weights in nets.items():
    found = curve(weights)
    print(f"{name}: clean {found[0]:.1%}, eps {EPS} {found[2]:.1%}")
    plt.plot(radii, found, marker="o", label=name)
plt.axvline(EPS, color="gray", lw=0.8, ls=":")
plt.xticks(radii)
plt.xlabel("eps")
plt.ylabel("accuracy under PGD-20")
plt.ylim(0, 1)
plt.legend()
plt.show()

# %% [markdown]
# ## The same from one config
#
# The program adds what a loop like this lacks: held-out data to choose the checkpoint by,
# exact resume, several devices, AutoAttack, a report.
#
#     jaxrobust train quickstart                        # digits, a minute
#     jaxrobust train pgd_cifar10 --workdir runs/mine   # after: jaxrobust prepare cifar10
#     jaxrobust train trades_cifar10:budget=cpu
#
# The objectives are `standard`, `ball`, `fgsm`, `bim`, `mim`, `pgd`, `trades`, `mart`,
# `pcl`, `pc_lc`, `ssc` and `fpd`; [Train](../how_to/train.md) says how to set their
# fields, and the pages of the [methods](../methods/baselines.md) what to believe of them.
#
# Next: [is this number true?](is_this_number_true.py)
