"""NES: ascent along a gradient that is estimated from Gaussian directions."""

import dataclasses
from typing import Annotated, Any, Unpack

import jax
import optax

from jaxrobust import threat
from jaxrobust._checks import Range
from jaxrobust.array_types import Images, Key, Labels, LogitsFn, Scalar
from jaxrobust.attacks._ascent import Direction, Rule, steepest
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._options import LossOptions, PositiveInt, shares
from jaxrobust.attacks.spsa import SPSA


def averaged(decay: float) -> optax.GradientTransformation:
    """Averages gradients, those of the steps before with weight `decay`."""
    return optax.chain(optax.stateless(_tamed), optax.ema(decay, debias=False))


def _tamed(grad: Any, params: Any) -> Any:
    return threat.tamed(grad)


@dataclasses.dataclass(frozen=True)
class NES(SPSA):
    """NES without its arrays: other directions than SPSA's, and other steps."""

    random = "NES"

    rule: Rule = steepest

    def draw(self, key: Key, x: Images) -> Images:
        """Draws a direction: normal numbers."""
        return jax.random.normal(key, x.shape[1:], x.dtype)


@shares(LossOptions, loss="margin")
def nes(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar,
    steps: int = 200,
    lr: Annotated[Scalar, Range(0, 1e6)] = 0.01,
    sigma: Annotated[float, Range(0, 1e6, above=True)] = 1e-3,
    samples: PositiveInt = 50,
    decay: Annotated[float, Range(0, 1)] = 0.9,
    restarts: PositiveInt = 1,
    **options: Unpack[LossOptions],
) -> Images:
    """NES (Ilyas et al. 2018, algorithm 1): PGD on a gradient estimated from scores.

    Each step looks at the loss at `x + sigma u` and `x - sigma u` for normal u, takes
    the mean of the differences along them for the gradient, averages it with those of
    the steps before, and makes the steepest step of the norm (in Linf its sign). A row
    that is misclassified stays as it is; of others the best iterate by loss is
    returned, at a model call more per step: they are `steps * (samples + 1) + 1`. The
    rate stays as it is, where the authors' code lowers it once the loss does not fall
    for five steps. The attacks of the paper on top classes and labels alone are not
    here.

    >>> import jax, jax.numpy as jnp
    >>> from jaxrobust import attacks
    >>> logits_fn = lambda x: jnp.stack([x.sum((1, 2, 3)), jnp.full(len(x), 3.3)], 1)
    >>> x, y, key = jnp.ones((1, 2, 2, 1)), jnp.array([0]), jax.random.key(0)
    >>> x_adv = attacks.nes(logits_fn, x, y, key=key, eps=0.2, steps=40)
    >>> int(logits_fn(x_adv).argmax(1)[0])
    1

    Args:
      lr: length of a step in the norm, in units of the images; may be traced.
      sigma: deviation of the samples per pixel, above 0.
      samples: model calls per estimate, even: half as many directions; static.
      decay: weight of the gradients before, in [0, 1].

    Reference:
      Ilyas, Engstrom, Athalye, Lin: Black-box adversarial attacks with limited queries
      and information, ICML 2018, arXiv 1804.08598, algorithm 1.
    """
    if samples % 2:
        raise ValueError(
            "`samples` are taken in pairs, one on either side of the image: it must be "
            f"even, got {samples}."
        )
    direction = Direction(averaged, (decay,))
    method = NES(steps, restarts, delta=sigma, samples=samples, direction=direction)
    return iterate(method, logits_fn, x, y, eps, lr, **options)
