# %% [markdown]
# # Attack my model
#
# You have a classifier. How many of its answers survive an adversary who may change every
# pixel a little? All that jaxrobust asks for is a function from images to logits.
#
# ## A model from anywhere
#
# Here it is scikit-learn's, trained on 1,437 scans of digits, 8 x 8 pixels each.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
from sklearn.neural_network import MLPClassifier

from jaxrobust import attacks, data

train, test = data.load("digits", "train"), data.load("digits", "test")
trained = MLPClassifier((64,), learning_rate_init=0.01, random_state=0)
trained.fit(train.images.reshape(len(train), -1) / 255, train.labels)


def logits_fn(x):
    """Maps images [B, 8, 8, 1] in [0, 1] to logits [B, 10]."""
    w, b = trained.coefs_, trained.intercepts_
    return jax.nn.relu(x.reshape(len(x), -1) @ w[0] + b[0]) @ w[1] + b[1]


# %% [markdown]
# Images are floats `[B, H, W, C]`, here in [0, 1]; labels are integers `[B]`. If your model
# wants another range or normalised images, do that inside the function, or say
# `bounds=(-1, 1)`.

# %%
x = jnp.asarray(test.images, jnp.float32) / 255
y = jnp.asarray(test.labels)


def accuracy(images):
    """Share of the images that are classified as labelled."""
    return float((logits_fn(images).argmax(-1) == y).mean())


print(f"clean: {accuracy(x):.1%}")

# %% [markdown]
# ## The attack
#
# Projected gradient descent, 20 steps. Each pixel may move by at most `eps`.

# %%
key = jax.random.key(0)
x_adv = attacks.pgd(logits_fn, x, y, key=key, eps=0.1, step_size=0.02, steps=20)
print(f"under attack: {accuracy(x_adv):.1%}")
print(f"largest change: {jnp.abs(x_adv - x).max():.3f}")

# %% [markdown]
# The digits still look like themselves to us.

# %%
fig, axes = plt.subplots(2, 8, figsize=(8, 2.4))
for column in range(8):
    for row, images in enumerate((x, x_adv)):
        said = logits_fn(images[column : column + 1]).argmax(-1)[0]
        axes[row, column].imshow(images[column, ..., 0], cmap="gray", vmin=0, vmax=1)
        axes[row, column].set_title(f"{said}", fontsize=9)
        axes[row, column].axis("off")
fig.suptitle("above: clean, below: attacked; what the model says")
plt.show()

# %% [markdown]
# ## Other radii and norms
#
# Under your own `jax.jit` an attack is a plain traced function, and the radius may be
# traced too: a curve over radii is one `vmap`.

# %%
radii = jnp.linspace(0, 0.3, 7)


@jax.jit
def curve(radii):
    """Robust accuracy at each radius [R]."""

    def at(eps):
        found = attacks.pgd(
            logits_fn, x, y, key=key, eps=eps, step_size=eps / 8, steps=20
        )
        return (logits_fn(found).argmax(-1) == y).mean()

    return jax.vmap(at)(radii)


plt.figure(figsize=(5, 3))
plt.plot(radii, curve(radii), marker="o")
plt.xlabel("eps (largest change of a pixel)")
plt.ylabel("accuracy")
plt.ylim(0, 1)
plt.show()

# %% [markdown]
# An adversary who cannot see gradients, only logits:

# %%
x_square = attacks.square(logits_fn, x, y, key=key, eps=0.1, queries=300)
print(f"Square, 300 queries: {accuracy(x_square):.1%}")

# %% [markdown]
# `norm="l2"` and `norm="l1"` measure the change otherwise; [Evaluation](../evaluation.md#attacks)
# lists every attack and what it needs.
#
# ## What the number is worth
#
# An attack that finds nothing has only failed to find something. The next questions are
# how to [train a network that stands this](train_a_robust_network.py), and
# [whether a number is true](is_this_number_true.py).
