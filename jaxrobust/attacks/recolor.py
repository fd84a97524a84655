"""ReColorAdv: one function of colours for all pixels of an image."""

from typing import Annotated, Any, Unpack

from jaxrobust._checks import Range
from jaxrobust.array_types import Bounds, Images, Labels, LogitsFn
from jaxrobust.attacks._options import ChangeOptions, PositiveInt, shares
from jaxrobust.attacks._parameters import Parameters, changed
from jaxrobust.threat import colour

_MOST_CHANNELS = 3


@shares(ChangeOptions, loss="margin")
def recolor(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    change: Annotated[float, Range(0, 1e6)] = 0.06,
    colours: Annotated[int, Range(2, 64)] = 8,
    steps: int = 50,
    restarts: PositiveInt = 1,
    **options: Unpack[ChangeOptions],
) -> Images:
    """ReColorAdv (Laidlaw and Feizi 2019): changes colours alike, by gradients.

    Every colour becomes another at most `change` away in each channel, wherever it is
    in the image: a table of `colours` values per channel says which, linear between
    them. Ascends the loss by `apgd`. In the channels of the image and without the
    paper's smoothness term (its bound .06 is in CIELUV, on a grid of 16 x 32 x 32).

    >>> import jax, jax.numpy as jnp
    >>> from jaxrobust import attacks
    >>> logits_fn = lambda x: jnp.stack([x.mean((1, 2, 3)), jnp.full(len(x), .45)], 1)
    >>> x, y, key = jnp.full((1, 2, 2, 1), 0.5), jnp.array([0]), jax.random.key(0)
    >>> x_adv = attacks.recolor(logits_fn, x, y, key=key)
    >>> float(jnp.ptp(x_adv)), round(float(x_adv.mean()), 2)  # still of one colour
    (0.0, 0.44)

    Args:
      change: how far a colour may move in each channel, in units of the images.
      colours: of the table in each channel, at least 2; static.
      restarts: number of random starts; the first one that fools the model counts.

    Reference:
      Laidlaw and Feizi, Functional adversarial attacks, NeurIPS 2019, arXiv 1906.00001,
      sections 3 and 4.
    """
    given: dict[str, Any] = dict(options)

    def recoloured(x: Images, p: Parameters, bounds: Bounds) -> Images:
        return colour.recolor(x, change * p, bounds=bounds)

    problem = changed(logits_fn, x, y, recoloured, given)
    channels = problem.x.shape[3]
    if channels > _MOST_CHANNELS:
        raise ValueError(
            f"`x` must have at most {_MOST_CHANNELS} channels, of which a table of "
            f"colours has an axis each, got {channels}."
        )
    shape = (*(colours,) * channels, channels)
    return problem.found(problem.ascend(shape, steps=steps, restarts=restarts, **given))
