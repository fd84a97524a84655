"""How far the true class is ahead of the best wrong one, in probability."""

import jax

from jaxrobust import losses
from jaxrobust.array_types import Labels, Logits, PerExample


def probability_gap(logits: Logits, y: Labels) -> PerExample:
    """Returns p_y - max_{j != y} p_j, with p the softmax of the logits.

    In [-1, 1]; positive where the image is classified as labelled. Li et al., AAAI
    2021, arXiv 2012.07688, compare its mean over clean test images: .527 with
    cross-entropy and .558 with their loss for ResNet-56 on CIFAR-100.

    Args:
      logits: `[B, K]` of at least two classes; a ValueError says so for fewer.
      y: labels `[B]`.
    """
    return -losses.margin(jax.nn.softmax(logits), y)
