"""Patches: part of an image may be anything, for one image or for all of them."""

import dataclasses
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrobust._checks import (
    Range,
    check_bounds,
    check_count,
    check_images,
    check_number,
    check_values,
    concrete,
    row_keys,
)
from jaxrobust.array_types import Bounds, Images, Key, Labels, LogitsFn
from jaxrobust.attacks._objective import Loss, fold
from jaxrobust.attacks._options import ChangeOptions, PositiveInt, shares
from jaxrobust.attacks._parameters import Parameters, changed
from jaxrobust.attacks._universal import AddedBall, MeanAscent, check_added, many
from jaxrobust.threat import patches

Patch = Float[Array, "h w C"]

_PLACE_STREAM = 0x706C63
_SHARE = Range(0, 1, above=True)
_DEGREES = Range(0, 180)
_SCALE = Range(0, 100, above=True)


@dataclasses.dataclass(frozen=True)
class _Pasted(MeanAscent):
    """MeanAscent on a patch that is pasted on images."""

    scale: tuple[float, float]
    rotation: float

    def apply(self, x: Images, value: jax.Array, keys: Key) -> Images:
        """Pastes it at random."""
        draws: dict[str, Any] = {"scale": self.scale, "rotation": self.rotation}
        at = patches.places(keys, x.shape[1:3], value.shape[1:3], **draws)
        return patches.paste(x, value[0], at)


@shares(ChangeOptions, loss="margin")
def patch(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    side: PositiveInt = 5,
    places: PositiveInt = 20,
    steps: int = 50,
    restarts: PositiveInt = 1,
    **options: Unpack[ChangeOptions],
) -> Images:
    """A patch of its own for each image, where it harms most, by gradients.

    Of `places` drawn at random it takes the one at which a patch of mid-grey raises the
    loss most, then ascends the loss by `apgd` over what is in the patch, which may be
    any value of the box. No pixel beside it changes.

    >>> import jax, jax.numpy as jnp
    >>> from jaxrobust import attacks
    >>> upper = lambda x: x[:, :3].mean((1, 2, 3))
    >>> logits_fn = lambda x: jnp.stack([upper(x), jnp.full(len(x), 0.7)], axis=1)
    >>> x, y, key = jnp.ones((1, 6, 6, 1)), jnp.array([0]), jax.random.key(0)
    >>> x_adv = attacks.patch(logits_fn, x, y, key=key, side=3)
    >>> int((x_adv != x).sum()), int((x_adv != x)[:, :3].sum())  # in the upper half
    (9, 9)

    Args:
      side: of the patch in pixels; static.
      places: that are looked at; static.
      restarts: random starts at the place; the first one that fools the model counts.

    Reference:
      Brown, Mané, Roy, Abadi, Gilmer: Adversarial patch, arXiv 1712.09665, for one
      image; choosing a place first is ours.
    """
    given: dict[str, Any] = dict(options)
    at = jnp.zeros((1, 2))  # until it is chosen

    def pasted(x: Images, colours: Any, at: Any, bounds: Bounds) -> Images:
        room = jnp.array([x.shape[1:3]], x.dtype) - side
        corner = jnp.round((at + 1) / 2 * room) + (side - 1) / 2
        corner = jnp.broadcast_to(corner, (len(x), 2))
        place = jnp.concatenate([corner, jnp.ones_like(corner)], axis=1)
        place = place.at[:, 3].set(0.0)
        low, high = bounds
        return patches.paste(x, low + (colours + 1) / 2 * (high - low), place)

    def grey(x: Images, p: Parameters, bounds: Bounds) -> Images:
        return pasted(x, jnp.zeros((side, side, x.shape[3])), p, bounds)

    def filled(x: Images, p: Parameters, bounds: Bounds) -> Images:
        return pasted(x, p, at, bounds)

    problem = changed(logits_fn, x, y, grey, given)
    _check_side(side, problem.x)
    key = given.pop("key", None)
    keys = None if key is None else row_keys(key, len(problem.x))
    at = problem.try_all((2,), steps=places, key=fold(keys, _PLACE_STREAM), **given)
    problem = problem._replace(change=filled)
    more = {"key": keys, "steps": steps, "restarts": restarts, **given}
    return problem.found(problem.ascend((side, side, problem.x.shape[3]), **more))


def universal_patch(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    key: Key,
    side: int,
    scale: tuple[float, float] = (1.0, 1.0),
    rotation: float = 0.0,
    steps: int = 500,
    step_size: float = 0.02,
    batch: int = 32,
    loss: Loss = "margin",
    limit: float | None = None,
    targeted: bool = False,
    bounds: Bounds = (0.0, 1.0),
) -> Patch:
    """One patch that fools a model on most images, wherever it is (Brown et al. 2017).

    Each step pastes the patch on a draw of images, at places, scales and rotations
    drawn anew for each (expectation over transformations), and goes along the sign of
    the gradient of their mean loss. Made on some images, it is judged on others by
    `patched`.

    >>> import jax, jax.numpy as jnp
    >>> from jaxrobust import attacks
    >>> logits_fn = lambda x: jnp.stack([x.mean((1, 2, 3)), jnp.full(len(x), .8)], 1)
    >>> x, y, key = jnp.ones((4, 6, 6, 1)), jnp.zeros(4, jnp.int32), jax.random.key(0)
    >>> dark = attacks.universal_patch(logits_fn, x, y, key=key, side=3, batch=2,
    ...     steps=60)
    >>> x_adv = attacks.patched(x, dark, key=key)
    >>> ((x_adv < 0.2).sum((1, 2, 3))).tolist(), logits_fn(x_adv).argmax(1).tolist()
    ([9, 9, 9, 9], [1, 1, 1, 1])

    Args:
      logits_fn: `x -> logits [B, K]`, pure, without randomness.
      x: images `[N, H, W, C]`, floating, inside `bounds`.
      y: labels `[N]`; where `targeted` the classes to make (all alike in the paper).
      key: one key, of all draws.
      side: of the patch in pixels; static.
      scale: between which the patch is scaled.
      rotation: up to how many degrees it is rotated, to both sides.
      steps: at least 0; static.
      step_size: of each value, in widths of the box.
      batch: images per step; all where there are fewer; static.
      loss: 'ce', 'margin', 'dlr' or a function (logits, y) -> `[B]`. The paper's is
        'ce', which vanishes where logits are large.
      limit: see `universal`; the paper has none, `math.inf`.
      targeted: descend the loss towards `y`.
      bounds: lowest and highest value of an image, finite.

    Returns:
      The patch `[side, side, C]`, in `bounds`; no gradient flows.

    Raises:
      ValueError, TypeError: as the attacks, naming the argument.

    Reference:
      Brown, Mané, Roy, Abadi, Gilmer: Adversarial patch, arXiv 1712.09665, section 2.
    """
    check_count("batch", batch, 1)
    check_count("steps", steps, 0)
    check_count("side", side, 1)
    draws = _check_draws(scale, rotation)
    check_number("step_size", step_size, _SHARE)
    posed = many(logits_fn, x, y, key, bounds, batch)
    batch = min(batch, len(posed.problem.x))
    x = posed.problem.x
    _check_side(side, x)
    low, high = bounds
    grey = jnp.full((1, side, side, x.shape[3]), (low + high) / 2, x.dtype)
    width = high - low
    ball = AddedBall(grey, width, (low, high), step_size * width)
    rule = _Pasted(
        "linf", (float(low), float(high)), loss, batch, limit, targeted, *draws
    )
    return posed.run(rule, ball, steps)[0]


def patched(
    x: Images,
    patch: Patch,
    *,
    key: Key,
    scale: tuple[float, float] = (1.0, 1.0),
    rotation: float = 0.0,
    bounds: Bounds = (0.0, 1.0),
) -> Images:
    """Pastes a patch `[h, w, C]` on images `[B, H, W, C]` at random, inside of them.

    Args:
      x: images.
      patch: that all of them get.
      key: one key or one per image, of its place, scale and rotation.
      scale: between which the patch is scaled; at (1, 1) it is copied to whole pixels.
      rotation: up to how many degrees it is rotated, to both sides.
      bounds: lowest and highest value of an image, and of the patch.

    Raises:
      ValueError, TypeError: for images that are none, a patch of another rank or other
        channels, larger than the images, or outside of `bounds`.
    """
    check_images(x)
    check_bounds(bounds)
    draws = _check_draws(scale, rotation)
    sides = np.shape(patch)[:2]
    check_added("patch", patch, (*sides, x.shape[3]))
    if any(a > b for a, b in zip(sides, x.shape[1:3], strict=True)):
        raise ValueError(
            f"`patch` must fit into the images, {x.shape[1:3]} pixels, got {sides}."
        )
    if (known := concrete(patch)) is not None:
        check_values(known[None], bounds, "patch")
    keys = row_keys(key, len(x))
    shape = x.shape[1:3], patch.shape[:2]
    at = patches.places(keys, *shape, scale=draws[0], rotation=draws[1])
    return patches.paste(x, jnp.asarray(patch), at)


def _check_side(side: int, x: Images) -> None:
    if side > min(x.shape[1:3]):
        raise ValueError(
            f"`side` must be at most the images' shorter side, {x.shape[1:3]}, got "
            f"{side}."
        )


def _check_draws(scale: Any, rotation: Any) -> tuple[tuple[float, float], float]:
    """Checks what is drawn, and returns it as plain numbers."""
    check_number("rotation", rotation, _DEGREES)
    if np.shape(scale) != (2,) or scale[0] > scale[1]:
        raise ValueError(f"`scale` must be (least, most), got {scale!r}.")
    for one in scale:
        check_number("scale", one, _SCALE)
    return (float(scale[0]), float(scale[1])), float(rotation)
