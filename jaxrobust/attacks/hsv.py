"""Hue, saturation and value of whole images, turned at random."""

from typing import Annotated, Any, Unpack

import jax.numpy as jnp

from jaxrobust._checks import Range
from jaxrobust.array_types import Bounds, Images, Labels, LogitsFn
from jaxrobust.attacks._options import ChangeOptions, PositiveInt, shares
from jaxrobust.attacks._parameters import Parameters, changed
from jaxrobust.threat import colour


@shares(ChangeOptions)
def hsv(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    hue: Annotated[float, Range(0, 0.5)] = 0.5,
    saturation: Annotated[float, Range(0, 1)] = 1.0,
    value: Annotated[float, Range(0, 1)] = 0.0,
    draws: PositiveInt = 1000,
    **options: Unpack[ChangeOptions],
) -> Images:
    """Shifts hue and saturation (Hosseini and Poovendran 2018), at random.

    All pixels of an image are shifted alike. It keeps the first shift that
    is misclassified, else that of the highest loss, the image itself among them. Shapes
    stay. The paper widens the range of saturations draw by draw; here it is as wide
    from the first.

    >>> import jax, jax.numpy as jnp
    >>> from jaxrobust import attacks
    >>> x = jnp.zeros((1, 2, 2, 3)).at[..., 0].set(1)  # red
    >>> logits_fn = lambda x: 5 * x.mean((1, 2))
    >>> y, key = jnp.array([0]), jax.random.key(0)
    >>> x_adv = attacks.hsv(logits_fn, x, y, draws=20, key=key)
    >>> int(logits_fn(x_adv).argmax()) > 0, float(x_adv.max())
    (True, 1.0)

    Args:
      hue: largest turn either way, as a share of the circle.
      saturation: largest shift.
      value: largest shift.
      draws: shifts tried per image; static.

    Reference:
      Hosseini and Poovendran: Semantic adversarial examples, CVPR Workshops 2018, arXiv
      1804.00499.
    """
    given: dict[str, Any] = dict(options)

    def change(x: Images, p: Parameters, bounds: Bounds) -> Images:
        most = [jnp.asarray(v, x.dtype) for v in (hue, saturation, value)]
        shift = p * jnp.stack(most)[None]
        shifted = colour.shift_hsv(x, shift, bounds=bounds)
        # The way to hue and back rounds; the image itself is not to be changed by it.
        same = jnp.all(shift == 0, axis=1)[:, None, None, None]
        return jnp.where(same, x, shifted)

    problem = changed(logits_fn, x, y, change, given)
    if problem.x.shape[3] != 3:
        raise ValueError(
            f"`x` must have 3 channels, red, green and blue, got {problem.x.shape[3]}."
        )
    return problem.found(problem.try_all((3,), steps=draws, **given))
