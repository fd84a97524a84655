"""SPSA: ascent along a gradient that is estimated from random directions."""

import dataclasses
from typing import Annotated, Unpack

import jax
import jax.numpy as jnp

from jaxrobust._checks import Range
from jaxrobust.array_types import Images, Key, Labels, LogitsFn, Scalar
from jaxrobust.attacks._ascent import ADAM, Ascent, Direction, Rule, straight
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._method import Count, like, model_keys, repeat
from jaxrobust.attacks._objective import Judged, Keys, Problem, evaluate, fold, slope
from jaxrobust.attacks._options import LossOptions, PositiveInt, shares

_DIRECTION_STREAM = 0x737073


@dataclasses.dataclass(frozen=True)
class SPSA(Ascent):
    """PGD with Adam on an estimated gradient; `samples` model calls for each."""

    random = "SPSA"
    length = "lr"
    settles = True
    estimated = True

    direction: Direction = ADAM
    rule: Rule = straight
    keep_best: bool = True
    delta: float = 0.01
    samples: int = 128

    def look(
        self, problem: Problem, keys: Keys, i: Count, x: Images
    ) -> tuple[Images, Judged]:
        """The estimate at the point of step i, and the loss there."""
        at = evaluate(problem, x, model_keys(problem, keys, i))
        return self.estimate(problem, keys, i, x), at

    def estimate(self, problem: Problem, keys: Keys, i: Count, x: Images) -> Images:
        """Estimates the objective's gradient at `x` from step i's directions.

        One pair of points per turn of a loop, so that memory is that of one batch.
        """
        draw_keys = fold(keys, _DIRECTION_STREAM, i)
        row_keys = model_keys(problem, keys, i)

        draw = jax.vmap(lambda key: self.draw(key, x))

        def add(pair: jax.Array, total: Images) -> Images:
            way = draw(fold(draw_keys, pair))
            shift, pair_keys = self.delta * way, fold(row_keys, pair)
            rise = slope(problem, x, shift, self.delta, pair_keys)
            return total + like(rise, x) * way  # 1 / sign is the sign

        pairs = self.samples // 2
        return repeat(pairs, add, jnp.zeros_like(x), 1) / pairs

    def draw(self, key: Key, x: Images) -> Images:
        """Draws a direction: signs."""
        return jax.random.rademacher(key, x.shape[1:], x.dtype)


@shares(LossOptions, loss="margin")
def spsa(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar,
    steps: int = 100,
    lr: Annotated[Scalar, Range(0, 1e6)] = 0.01,
    delta: Annotated[float, Range(0, 1e6, above=True)] = 0.01,
    samples: PositiveInt = 128,
    restarts: PositiveInt = 1,
    **options: Unpack[LossOptions],
) -> Images:
    """SPSA: projected Adam on a gradient estimated from scores (Uesato et al. 2018).

    Each step looks at the loss at `x + delta v` and `x - delta v` for random sign
    vectors v, and takes the mean of the differences along them for the gradient; the
    points may lie outside the box by `delta`. A row that is misclassified stays as it
    is. Other than in the paper the best iterate is returned, not the last, at a model
    call more per step: they are `steps * (samples + 1) + 1`. The paper has Linf alone.
    The two points of a pair see one randomness of the model.

    Args:
      lr: Adam's learning rate, in units of the images; may be traced.
      delta: distance of the samples per pixel, above 0.
      samples: model calls per estimate, even: half as many directions; static.

    Reference:
      Uesato, O'Donoghue, van den Oord, Kohli: Adversarial risk and the dangers of
      evaluating against weak attacks, ICML 2018, arXiv 1802.05666, algorithm 1.
    """
    if samples % 2:
        raise ValueError(
            "`samples` are taken in pairs, one on either side of the image: it must be "
            f"even, got {samples}."
        )
    method = SPSA(steps, restarts, delta=delta, samples=samples)
    return iterate(method, logits_fn, x, y, eps, lr, **options)
