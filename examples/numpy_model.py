"""A network in NumPy, as a black box: attacks see its logits and no gradient.

Evaluate it, from the folder above:

    python -m jaxrobust.evaluation --model 'examples.numpy_model:build()'
      --data digits --eps 0.1 --workdir runs/numpy --black_box

or with attacks of your choice: `--attack square:queries=1000 --attack spsa:steps=20`.
A `torch.nn.Module` is evaluated the same way, its images as NCHW.
"""

import numpy as np

from jaxrobust import data


def build():
    """Fits ridge regression to one-hot labels and returns `logits(x)`."""
    train = data.load("digits", "train")
    x = train.images.reshape(len(train.images), -1).astype(np.float32) / 255
    targets = np.eye(10, dtype=np.float32)[train.labels]
    weights = np.linalg.solve(
        x.T @ x + 10 * np.eye(64, dtype=np.float32), x.T @ targets
    )

    def logits(images):
        """Maps images [B, 8, 8, 1], float32 in [0, 1], to logits [B, 10]."""
        return 10 * np.asarray(images).reshape(len(images), 64) @ weights

    return logits
