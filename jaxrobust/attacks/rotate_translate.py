"""Rotations and translations: all of a grid, the worst of some, or by gradients."""

from typing import Annotated, Any, Literal, Unpack

import jax.numpy as jnp

from jaxrobust._checks import Range
from jaxrobust.array_types import Bounds, Images, Labels, LogitsFn
from jaxrobust.attacks._options import ChangeOptions, PositiveInt, shares
from jaxrobust.attacks._parameters import Change, Parameters, changed
from jaxrobust.threat import spatial

Degrees = Annotated[float, Range(0, 180)]
Pixels = Annotated[float, Range(0, 1e4)]


def _moved(rotation: Any, translation: Any) -> Change:
    """Images by poses in the box [-1, 1]."""

    def change(x: Images, p: Parameters, bounds: Bounds) -> Images:
        most = [jnp.asarray(v, x.dtype) for v in (rotation, translation, translation)]
        return spatial.rotate_translate(x, p * jnp.stack(most)[None], fill=bounds[0])

    return change


@shares(ChangeOptions)
def rotate_translate(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    rotation: Degrees = 30.0,
    translation: Pixels = 3.0,
    search: Literal["grid", "random"] = "grid",
    angles: PositiveInt = 31,
    shifts: PositiveInt = 5,
    draws: PositiveInt = 10,
    **options: Unpack[ChangeOptions],
) -> Images:
    """Rotates and shifts images (Engstrom et al. 2019), by a search from logits.

    Of all poses of a grid, or of some drawn at random, it keeps the first that is
    misclassified, else that of the highest loss, the image itself among them. Pixels
    are looked up between four others; what was outside of the image is at its lower
    bound.

    >>> import jax.numpy as jnp
    >>> from jaxrobust import attacks
    >>> logits_fn = lambda x: jnp.stack([x[:, 1, 1, 0], x[:, 1, 3, 0] - 0.5], axis=1)
    >>> x, y = jnp.zeros((1, 4, 4, 1)).at[0, 1, 1, 0].set(1), jnp.array([0])
    >>> x_adv = attacks.rotate_translate(logits_fn, x, y, rotation=0, translation=2,
    ...     angles=1)
    >>> jnp.argwhere(x_adv).tolist()  # two pixels to the right
    [[0, 1, 3, 0]]

    Args:
      rotation: degrees to both sides, in [0, 180].
      translation: pixels in each direction.
      search: 'grid' of `angles` * `shifts` * `shifts` poses, or 'random'.
      angles: of the grid; static.
      shifts: of the grid, in rows and in columns each; static.
      draws: of the random search, poses per image; static.

    Reference:
      Engstrom, Tran, Tsipras, Schmidt, Madry: Exploring the landscape of spatial
      robustness, ICML 2019, arXiv 1712.02779, section 3.
    """
    given: dict[str, Any] = dict(options)
    problem = changed(logits_fn, x, y, _moved(rotation, translation), given)
    counts = (angles, shifts, shifts) if search == "grid" else ()
    steps = angles * shifts * shifts if counts else draws
    return problem.found(problem.try_all((3,), steps=steps, counts=counts, **given))


@shares(ChangeOptions, loss="margin")
def rotate_translate_gradient(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    rotation: Degrees = 30.0,
    translation: Pixels = 3.0,
    steps: int = 20,
    restarts: PositiveInt = 5,
    **options: Unpack[ChangeOptions],
) -> Images:
    """Rotates and shifts images (Engstrom et al. 2019) by ascent on the pose.

    The ascent is `apgd` in the box of poses, from random ones. The loss has many
    maxima in them, so `rotate_translate` usually finds more, as in the paper.

    Args:
      rotation: degrees to both sides, in [0, 180].
      translation: pixels in each direction.

    Reference:
      Engstrom et al., ICML 2019, arXiv 1712.02779, section 3 ("first-order").
    """
    given: dict[str, Any] = dict(options)
    problem = changed(logits_fn, x, y, _moved(rotation, translation), given)
    return problem.found(problem.ascend((3,), steps=steps, restarts=restarts, **given))
