"""Elastic deformations: pixels that move along a flow smoothed by a Gaussian."""

from typing import Annotated, Any, Unpack

from jaxrobust._checks import Range
from jaxrobust.array_types import Bounds, Images, Labels, LogitsFn
from jaxrobust.attacks._options import ChangeOptions, PositiveInt, shares
from jaxrobust.attacks._parameters import Parameters, changed
from jaxrobust.threat import spatial


@shares(ChangeOptions, loss="margin")
def elastic(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    flow: Annotated[float, Range(0, 1e4)] = 2.0,
    smoothing: Annotated[float, Range(0, 1e3)] = 3.0,
    steps: int = 50,
    restarts: PositiveInt = 1,
    **options: Unpack[ChangeOptions],
) -> Images:
    """Deforms images as rubber (Kang et al. 2019), by gradients.

    A flow in [-1, 1] is smoothed by a Gaussian and moves pixels at most `flow` far in
    rows and in columns; `apgd` ascends the loss over the flow before it is smoothed.
    What comes from beyond the image is at its lower bound.

    >>> import jax, jax.numpy as jnp
    >>> from jaxrobust import attacks
    >>> logits_fn = lambda x: jnp.stack([x[:, 1, 1, 0], x[:, 1, 2, 0]], axis=1)
    >>> x = jnp.zeros((1, 4, 4, 1)).at[0, 1, 1, 0].set(0.6).at[0, 1, 2, 0].set(0.4)
    >>> x_adv = attacks.elastic(logits_fn, x, jnp.array([0]), key=jax.random.key(0))
    >>> int(logits_fn(x_adv).argmax())
    1

    Args:
      flow: pixels by which each may move, in rows and in columns.
      smoothing: deviation of the Gaussian in pixels; 0 moves each pixel by itself.
      restarts: number of random starts; the first one that fools the model counts.

    Reference:
      Kang, Sun, Hendrycks, Brown, Steinhardt: Testing robustness against unforeseen
      adversaries, arXiv 1908.08016 ("Elastic").
    """
    given: dict[str, Any] = dict(options)

    def change(x: Images, p: Parameters, bounds: Bounds) -> Images:
        return spatial.flow(x, flow * spatial.smoothed(p, smoothing), fill=bounds[0])

    problem = changed(logits_fn, x, y, change, given)
    shape = (*problem.x.shape[1:3], 2)
    return problem.found(problem.ascend(shape, steps=steps, restarts=restarts, **given))
