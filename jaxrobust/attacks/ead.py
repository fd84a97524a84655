"""EAD: the elastic-net attack, small in L1 by shrinkage and thresholding."""

import dataclasses
from typing import Annotated, NamedTuple, Unpack

import jax
import jax.numpy as jnp

from jaxrobust._checks import Range
from jaxrobust.array_types import Images, Labels, LogitsFn, Scalar
from jaxrobust.attacks._carlini import Carlini, Weight
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._method import Count, Health, choose, like, model_keys, watched
from jaxrobust.attacks._nearest import Nearest
from jaxrobust.attacks._objective import Keys, Problem, evaluate, judged_gradient
from jaxrobust.attacks._options import PositiveInt, TargetOptions, shares


class Carry(NamedTuple):
    """State between two steps."""

    x: Images
    ahead: Images  # where the gradient is taken: past x, by momentum
    weight: Weight
    hit: jax.Array  # whether it has been enough in this binary step
    nearest: Nearest
    health: Health | None


@dataclasses.dataclass(frozen=True)
class EAD(Carlini):
    """EAD without its arrays; its steps are those of all binary steps."""

    norms = ("l1",)

    beta: float = 1e-2

    def start(self, problem: Problem, keys: Keys, r: Count) -> Carry:
        """Starts at the image."""
        x = problem.x
        won, margin = self.at_the_images(problem, keys)
        return Carry(
            x,
            x,
            Weight.first(margin, self.initial_const),
            jnp.zeros(x.shape[:1], bool),
            Nearest.first(problem, won),
            Health.first(problem, self.steps, keys, x),
        )

    def step(self, problem: Problem, keys: Keys, i: Count, carry: Carry) -> Carry:
        """Makes a step of algorithm 1, the first of a binary step with a new c."""
        clean, (low, high) = problem.x, problem.bounds
        turn = jnp.asarray(i) % self.descent
        begins = jnp.broadcast_to((turn == 0) & (jnp.asarray(i) > 0), carry.hit.shape)
        carry = choose(begins, self._again(problem, carry), carry)
        row_keys = model_keys(problem, keys, i)
        grad, at = judged_gradient(problem, carry.ahead, row_keys)
        lacks = ~(at.value >= self.kappa)  # beyond kappa the hinge is flat
        pull = like(jnp.where(lacks, carry.weight.c, 0), clean) * jnp.nan_to_num(grad)
        turn = turn.astype(clean.dtype)
        rate = self.lr * jnp.sqrt(1 - turn / self.descent)
        moved = carry.ahead - rate * (2 * (carry.ahead - clean) - pull)
        # Towards the image by beta, and onto it from within beta: equation 5.
        delta = moved - clean
        shrunk = jnp.clip(moved - self.beta * jnp.sign(delta), low, high)
        x = jnp.where(jnp.abs(delta) > self.beta, shrunk, clean)
        won = self.won(evaluate(problem, x, row_keys))
        return carry._replace(
            x=x,
            ahead=x + turn / (turn + 3) * (x - carry.x),
            hit=carry.hit | won,
            nearest=carry.nearest.or_nearer(problem, x, won),
            health=watched(carry.health, grad, at.logits, i),
        )

    def _again(self, problem: Problem, carry: Carry) -> Carry:
        weight, none = carry.weight.next(carry.hit), jnp.zeros_like(carry.hit)
        return carry._replace(x=problem.x, ahead=problem.x, weight=weight, hit=none)

    def done(self, carry: Carry) -> jax.Array:
        """Rows whose image needs no change."""
        return carry.nearest.distance == 0


@shares(TargetOptions, norm="l1")
def ead(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar | None = None,
    binary_steps: PositiveInt = 9,
    steps: int = 1000,
    lr: Annotated[float, Range(0, 1e6)] = 0.01,
    beta: Annotated[float, Range(0, 1e6)] = 1e-2,
    kappa: Annotated[float, Range(0, 1e10)] = 0.0,
    initial_const: Annotated[float, Range(0, 1e10, above=True)] = 1e-3,
    **options: Unpack[TargetOptions],
) -> Images:
    """Elastic-net attack (Chen et al. 2018, algorithm 1): small in L1.

    Minimises c max(-m(x'), -kappa) + |x' - x|_2^2 + beta |x' - x|_1, where m is the
    margin by which x' is misclassified, by gradient steps with momentum (FISTA), each
    of which then moves every value by beta towards the image, and puts it back where
    it is within beta. The rate falls with the root of the steps that are left; c is
    found as in `cw_l2`. Returns the misclassified point that is nearest in L1, the
    paper's L1 rule; its other rule, the nearest by the sum of both lengths, is not
    here, nor does a search give up where the loss stands still. Uses no randomness.

    >>> import jax.numpy as jnp
    >>> from jaxrobust import attacks
    >>> weights = jnp.array([1.0, 2.0, 9.0, 1.0])  # the third value is cheapest
    >>> logits_fn = lambda x: jnp.stack([x @ weights, jnp.full(len(x), 5.0)], axis=1)
    >>> x, y = jnp.ones((1, 4)), jnp.array([0])
    >>> x_adv = attacks.ead(logits_fn, x, y, steps=100)
    >>> round(float(abs(x_adv - x).sum()), 1)  # 8 above, over 9
    0.9

    Args:
      binary_steps: constants c tried per example, at least 1; static.
      steps: steps per constant, at least 0, one gradient and one call each; static.
      lr: the first rate, in units of the images.
      beta: weight of the L1 length; the default is Foolbox's.
      kappa: margin, in logits, by which a point must be misclassified.
      initial_const: the first c, above 0; over the image's lead where that is
        not between .01 and 100, so that the scale of the logits does not count (ours).
      norm: 'l1'; the attack has no other.

    Reference:
      Chen, Sharma, Zhang, Yi, Hsieh: EAD: elastic-net attacks to deep neural networks
      via adversarial examples, AAAI 2018, arXiv 1709.04114, algorithm 1 and section 4.
    """
    method = EAD(
        steps * binary_steps,
        descent=max(steps, 1),
        lr=lr,
        kappa=kappa,
        initial_const=initial_const,
        beta=beta,
    )
    return iterate(method, logits_fn, x, y, eps, loss="margin", **options)
