"""Gradients from differences of the objective."""

from jaxrobust import threat
from jaxrobust.array_types import Images, PerExample
from jaxrobust.attacks._objective import Keys, Problem, evaluate


def slope(
    problem: Problem, x: Images, shift: Images, length: float, keys: Keys
) -> PerExample:
    """Returns the objective's symmetric difference quotient at `x`, `[B]`.

    Both points see one randomness of the model. What is not finite counts as flat.

    Args:
      problem: whose objective is taken.
      x: images `[B, ...]`.
      shift: from `x` to the point ahead; the one behind is as far.
      length: of the shift, in the unit of the quotient.
      keys: of a stochastic model.
    """
    ahead, behind = (evaluate(problem, x + s, keys).value for s in (shift, -shift))
    quotient = (ahead - behind) / (2 * length)
    return threat.tamed(quotient.astype(x.dtype), squared=True)
