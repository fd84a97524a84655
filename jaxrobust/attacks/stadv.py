"""StAdv: pixels that move a little, neighbours nearly alike."""

from typing import Annotated, Any, Unpack

import jax
import jax.numpy as jnp

from jaxrobust import losses
from jaxrobust._checks import Range, check_labels
from jaxrobust.array_types import Bounds, Images, Labels, LogitsFn
from jaxrobust.attacks._options import ChangeOptions, PositiveInt, shares
from jaxrobust.attacks._parameters import Parameters, changed
from jaxrobust.threat import spatial


@shares(ChangeOptions, loss="margin")
def stadv(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    flow: Annotated[float, Range(0, 1e4)] = 1.0,
    smoothness: Annotated[float, Range(0, 1e6)] = 0.005,
    steps: int = 50,
    restarts: PositiveInt = 1,
    **options: Unpack[ChangeOptions],
) -> Images:
    """StAdv (Xiao et al. 2018): moves pixels along a smooth flow, by gradients.

    Ascends the loss less `smoothness` times the flow loss (equations 2 to 4) by `apgd`,
    every pixel moving at most `flow` in rows and in columns. The bound is ours: in the
    paper the flow loss alone keeps flows small, and L-BFGS finds them. The flow loss
    counts in leads of the true class at the image, so that the scale of the logits does
    not. What comes from beyond the image is at its lower bound.

    >>> import jax, jax.numpy as jnp
    >>> from jaxrobust import attacks
    >>> logits_fn = lambda x: jnp.stack([x[:, 1, 1, 0], x[:, 1, 2, 0]], axis=1)
    >>> x = jnp.zeros((1, 4, 4, 1)).at[0, 1, 1, 0].set(0.6).at[0, 1, 2, 0].set(0.4)
    >>> x_adv = attacks.stadv(logits_fn, x, jnp.array([0]), key=jax.random.key(0))
    >>> int(logits_fn(x_adv).argmax())
    1

    Args:
      flow: pixels by which each may move, in rows and in columns.
      smoothness: weight of the flow loss, in leads (the paper's tau, .05, in logits);
        0 for a model that is stochastic.
      restarts: number of random starts; the first one that fools the model counts.

    Reference:
      Xiao, Zhu, Li, He, Liu, Song: Spatially transformed adversarial examples, ICLR
      2018, arXiv 1801.02612, section 3.2.
    """
    given: dict[str, Any] = dict(options)

    def change(x: Images, p: Parameters, bounds: Bounds) -> Images:
        return spatial.flow(x, flow * p, fill=bounds[0])

    problem = changed(logits_fn, x, y, change, given)
    if given.get("stochastic") and smoothness:
        raise ValueError(
            "`smoothness` must be 0 for a stochastic model, whose mean loss is taken "
            f"elsewhere, got {smoothness}; bound the `flow` instead."
        )
    if smoothness:
        sign = -1 if given.get("targeted") else 1
        check_labels(y, len(problem.x))
        clean = losses.comparable(problem.logits_fn(problem.x))
        lead = jax.lax.stop_gradient(jnp.abs(losses.margin(clean, y)))
        weight = sign * smoothness * jnp.where(jnp.isfinite(lead), lead, 0)
        penalty = lambda p: weight * spatial.roughness(flow * p)  # noqa: E731
        problem = problem._replace(penalty=penalty)
    shape = (*problem.x.shape[1:3], 2)
    return problem.found(problem.ascend(shape, steps=steps, restarts=restarts, **given))
