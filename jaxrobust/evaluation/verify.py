"""Independent float64 checks of adversarial images on the host."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, UInt8

from jaxrobust.array_types import Bounds, Norm


@dataclasses.dataclass(frozen=True)
class Ball:
    """The threat that images are checked against; of `eps` None the bounds alone."""

    eps: float | None
    norm: Norm
    bounds: Bounds = (0.0, 1.0)


def check_ball(
    x_adv: Float[np.ndarray, "B H W C"],
    images: UInt8[np.ndarray, "B H W C"] | Float[np.ndarray, "B H W C"],
    ball: Ball,
) -> dict[str, Float[np.ndarray, "B"]]:
    """Measures perturbations in float64 and refuses those outside the threat.

    Returns:
      The size of each perturbation [B] by norm.

    Raises:
      ValueError: if an image is not finite, leaves the bounds or the ball.
    """
    sizes, bad = measure(x_adv, images, ball)
    if bad.any():
        threat = f"`bounds` {ball.bounds}"
        if ball.eps is not None:
            threat += (
                f" or the {ball.norm} ball of `eps` {ball.eps:.6g} (largest "
                f"{sizes[ball.norm].max():.6g})"
            )
        raise ValueError(
            f"{int(bad.sum())} of {len(bad)} adversarial images are outside {threat} "
            "or not finite: the attack breaks its threat model."
        )
    return sizes


def measure(
    x_adv: Float[np.ndarray, "B H W C"],
    images: UInt8[np.ndarray, "B H W C"] | Float[np.ndarray, "B H W C"],
    ball: Ball,
) -> tuple[dict[str, Float[np.ndarray, "B"]], Bool[np.ndarray, "B"]]:
    """Returns the size of each perturbation by norm, and who is outside the threat."""
    x = np.asarray(images, np.float64)
    x = x / 255 if images.dtype == np.uint8 else x
    low, high = ball.bounds
    slack = tolerance(ball.eps, ball.bounds)
    moved = np.asarray(x_adv, np.float64) - x
    flat = np.abs(moved).reshape(len(moved), -1)
    sizes = {"linf": flat.max(-1), "l2": np.sqrt((flat**2).sum(-1)), "l1": flat.sum(-1)}
    # Images of 8 bits over 255 are rounded in float32: so little is no change.
    changed = np.abs(moved) > tolerance(None, ball.bounds)
    pixels = changed.any(-1) if changed.ndim > 2 else changed
    sizes["l0"] = changed.reshape(flat.shape).sum(-1).astype(float)
    sizes["l0_pixels"] = pixels.reshape(len(flat), -1).sum(-1).astype(float)
    outside = (x_adv < low - slack) | (x_adv > high + slack)
    bad = outside.reshape(len(flat), -1).any(-1) | ~np.isfinite(flat).all(-1)
    if ball.eps is not None:
        # Of each number that much is lost where 8 bits over 255 become float32.
        lost = 2.0**-24 if images.dtype == np.uint8 else 0.0
        numbers = {"l1": flat.shape[1], "l2": flat.shape[1] ** 0.5}.get(ball.norm, 1)
        bad |= sizes[ball.norm] > ball.eps + slack + lost * numbers
    return sizes, np.asarray(bad)


def tolerance(eps: float | None, bounds: Bounds) -> float:
    """Returns 1e-6 times the largest of 1, radius and width of the bounds."""
    return 1e-6 * max(1.0, eps or 0.0, bounds[1] - bounds[0])
