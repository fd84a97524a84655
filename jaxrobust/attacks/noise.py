"""Uniform noise in the ball: the weakest attack, and the `ball` augmentation."""

from jaxrobust.array_types import (
    Bounds,
    Images,
    Key,
    Labels,
    LogitsFn,
    Norm,
    Scalar,
)
from jaxrobust.attacks._eager import iterate, noise
from jaxrobust.attacks._loop import Ascent
from jaxrobust.attacks._objective import Loss, Problem


def uniform_noise(
    x: Images,
    *,
    key: Key,
    eps: Scalar,
    norm: Norm = "linf",
    bounds: Bounds = (0.0, 1.0),
    draws: int = 1,
) -> Images:
    """Draws points uniformly from the eps-ball around each image, into the box.

    Args:
      x: images `[B, H, W, C]`, floating, inside `bounds`.
      key: one key or one per example; draw d > 0 uses fold_in(key, d).
      eps: radius of the ball; may be traced.
      norm: 'linf', 'l2' or 'l1'.
      bounds: lowest and highest value of an image.
      draws: points per image.

    Returns:
      `[B * draws, H, W, C]` in the order of `jnp.repeat(x, draws, axis=0)`, so labels
      repeat the same way.

    Raises:
      ValueError: for a value out of range, named in the message.
      TypeError: for arrays or keys of the wrong type.
    """
    return noise(x, key, eps=eps, norm=norm, bounds=bounds, draws=draws)


def worst_of_noise(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    key: Key | None = None,
    eps: Scalar,
    norm: Norm = "linf",
    draws: int = 1,
    loss: Loss = "ce",
    targeted: bool = False,
    bounds: Bounds = (0.0, 1.0),
    stochastic: bool = False,
    eot_samples: int = 1,
    quantize: bool = False,
) -> Images:
    """Keeps, per example, the worst of `draws` points of `uniform_noise`.

    What `attacks.get('uniform_noise')` and `attacks.get('ball')` run: a misclassified
    point beats one that is not, then the higher loss. Arguments as in `pgd`.

    Returns:
      Attacked images `[B, H, W, C]`, in ball and box; no gradient flows.
    """
    problem = Problem(
        logits_fn,
        x,
        y,
        eps,
        0.0,
        norm=norm,
        loss=loss,
        targeted=targeted,
        bounds=bounds,
        stochastic=stochastic,
        eot_samples=eot_samples,
        quantize=quantize,
    )
    return iterate(problem, Ascent(0, draws, random_start=True), key, 1)
