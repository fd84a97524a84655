# %% [markdown]
# # Bring my data
#
# Images in folders, arrays in a file, or a function of yours: each has a name that
# `data.load` and every config understand. This page makes a small set of each kind.

# %%
import pathlib

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from jaxrobust import attacks, data

# %% [markdown]
# Something to bring: two kinds of picture, stripes across and stripes down, with noise.

# %%
rng = np.random.default_rng(0)
stripes = np.tile(np.array([70, 180])[:, None, None], (8, 16, 3))
across = np.stack([stripes + rng.integers(-60, 60, stripes.shape) for _ in range(60)])
down = across.swapaxes(1, 2)
images = np.concatenate([across, down]).astype(np.uint8)
labels = np.repeat([0, 1], 60)

# %% [markdown]
# ## A folder of pictures
#
# One folder for each class, in `train` and `test`, or without: then a fifth of each class,
# always the same, is the test split.

# %%
for number, (image, label) in enumerate(zip(images, labels, strict=True)):
    folder = pathlib.Path("pictures", ("across", "down")[label])
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(folder / f"{number}.png")

train = data.load("folder:pictures", "train")
test = data.load("folder:pictures", "test")
print(train.class_names, train.images.shape, test.images.shape, train.images.dtype)

# %% [markdown]
# Images of other sizes need `image_size=32`: the shorter side is resized to it and the
# centre cut out. What is left out or changed (hidden files, rotation by EXIF) is told.

# %%
fig, axes = plt.subplots(1, 6, figsize=(8, 1.6))
for axis, row in zip(axes, range(0, len(test), len(test) // 6), strict=False):
    axis.imshow(test.images[row])
    axis.set_title(test.class_names[test.labels[row]], fontsize=9)
    axis.axis("off")
plt.show()

# %% [markdown]
# ## Arrays in a file
#
# `images` uint8 `[N, H, W, C]` or `[N, H, W]`, or floats in [0, 1]; `labels` `[N]`; names
# of classes if you like. Or `x_train, y_train, x_test, y_test`.

# %%
np.savez("mine.npz", images=images, labels=labels, class_names=["across", "down"])
print(len(data.load("npz:mine.npz", "train")), len(data.load("npz:mine.npz", "test")))

# %% [markdown]
# A mistake is told before anything is computed, with what is wrong:

# %%
np.savez("wrong.npz", images=images.astype(np.float32), labels=labels)
try:
    data.load("npz:wrong.npz")
except ValueError as error:
    print(error)

# %% [markdown]
# ## A function
#
# Anything else: a function from a split to a `data.Dataset`, named `package.module:load`.


# %%
def load(split):
    """Returns the noise-free pictures, however they are stored."""
    shown = np.stack([stripes, stripes.swapaxes(0, 1)] * 10).astype(np.uint8)
    return data.Dataset(shown, np.tile([0, 1], 10).astype(np.int32), ("across", "down"))


print(len(load("test")))

# %% [markdown]
# ## Use it
#
# In your code a data set is arrays. A least-squares classifier, and one step of attack:

# %%
flat = train.images.reshape(len(train), -1) / 255 - 0.5
targets = np.eye(2)[train.labels]
weights = flat.T @ np.linalg.solve(flat @ flat.T + 10 * np.eye(len(flat)), targets)


def logits_fn(x):
    """Maps images [B, 16, 16, 3] in [0, 1] to logits [B, 2]."""
    return 10 * (x.reshape(len(x), -1) - 0.5) @ weights.astype(np.float32)


x, y = test.images.astype(np.float32) / 255, test.labels
x_adv = attacks.fgsm(logits_fn, x, y, eps=0.2)
for name, seen in (("clean", x), ("attacked", x_adv)):
    print(f"{name}: {(logits_fn(seen).argmax(-1) == y).mean():.1%}")

# %% [markdown]
# In the programs it is a name:
#
#     jaxrobust train pgd_cifar10 --config.data.name=folder:pictures \
#       --config.data.image_size=32 --config.model.num_classes=2 --workdir runs/mine
#     jaxrobust evaluate --model 'mine:logits' --data npz:mine.npz --eps 8/255
#
# Published sets (CIFAR, SVHN, MNIST, TinyImageNet, Caltech ...) are prepared once, without
# TensorFlow: `jaxrobust prepare cifar10`. Everything else that TFDS has prepared is
# `tfds:NAME`. All rules are in the [reference](../reference/data.md).
