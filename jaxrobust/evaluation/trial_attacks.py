"""Weak, strong, longer and unbounded attacks on the same images, side by side."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool

from jaxrobust import threat
from jaxrobust.analysis import masking
from jaxrobust.array_types import Images, Key, Labels, Logits
from jaxrobust.evaluation import verify
from jaxrobust.evaluation.protocols import STEP_SHARE
from jaxrobust.results import analysis_schema as schema

LONGER = 4  # times the steps, to see whether more steps still gain
DRAWS = 10  # of random noise
# Of the largest logit over the second: what a trained network usually has. Far more
# rounds the loss away, far less spreads it over all classes.
LEAD = 5.0
_STREAMS = {"start": 1, "noise": 2, "square": 3}
Resists = Bool[np.ndarray, "N"]

_sample = jax.jit(threat.sample, static_argnames=("norm", "bounds"))


@jax.jit(static_argnames=("name",))
def row_stream(keys: Key, name: str, number: int = 0) -> Key:
    """Returns row keys `[N]` of their own for one use of randomness."""
    fold = jax.vmap(jax.random.fold_in, (0, None))
    return fold(fold(keys, _STREAMS[name]), number)


class AscentPath(NamedTuple):
    """What steepest steps met: T steps go through T + 1 points.

    Attributes:
      correct: whether N images are classified as labelled at each point, as
        `is_correct` says.
      zero: whether the gradient was zero at the first T of them.
    """

    correct: Bool[np.ndarray, "T1 N"]
    zero: Bool[np.ndarray, "T N"]

    def resists(self, steps: int | None = None) -> Bool[np.ndarray, "N"]:
        """Says which images no point of the first `steps` steps (all) fools."""
        last = len(self.correct) if steps is None else steps + 1
        return np.asarray(self.correct[:last].all(0))


@dataclasses.dataclass(frozen=True)
class TrialSetting:
    """One network, images `x` [N, H, W, C], their threat, and an iterative attack.

    `gradient` takes images, labels and a scale of the logits in the loss, and gives
    that of the cross-entropy, and the logits.
    """

    forward: masking.Forward
    gradient: Callable[[Images, Labels, float], tuple[Images, Logits]]
    x: Images
    y: Labels
    ball: verify.Ball
    step_size: float
    steps: int

    @property
    def eps(self) -> float:
        """Radius of the ball."""
        assert self.ball.eps is not None
        return self.ball.eps

    def resists(self, points: Images) -> Resists:
        """Says which images these points do not fool."""
        return np.asarray(masking.is_correct(self.forward(points), self.y))

    def draw(self, keys: Key, name: str, number: int) -> Images:
        """Draws a point of the ball around each image, for one use of randomness."""
        own = row_stream(keys, name, number)
        return _sample(self.x, key=own, **vars(self.ball))

    def step(self, points: Images, gradient: Images, length: float) -> Images:
        """Makes a step of this length along a gradient, back into the ball."""
        ball: Any = {"norm": self.ball.norm, "bounds": self.ball.bounds}
        return masking.step_in_ball(points, gradient, self.x, length, self.eps, **ball)

    def climb(self, start: Images, times: int = 1, scale: float = 1.0) -> AscentPath:
        """Climbs the cross-entropy (PGD, Madry et al. 2018) and looks at every point.

        Step by step from the host, so that one compiled gradient serves every radius,
        any number of steps and every restart, and an image counts as fooled if any
        point on the way fools it. One gradient per step, one forward pass at the end;
        in L1, where steps need not reach even the optimum of a linear loss, one more
        per step for the vertex of ball and box that the gradient points to.

        Args:
          start: where to begin, in ball and box.
          times: how many times the steps.
          scale: of the logits in the loss.
        """
        points, correct, zero = start, [], []
        vertices = np.ones(len(self.y), bool)
        for _ in range(times * self.steps):
            grad, logits = self.gradient(points, self.y, scale)
            correct.append(np.asarray(masking.is_correct(logits, self.y)) & vertices)
            zero.append(np.asarray(masking.gradient_health(grad).zero))
            points = self.step(points, grad, self.step_size)
            if self.ball.norm == "l1":
                vertices = self.resists(self.step(self.x, grad, self.eps))
        correct.append(self.resists(points) & vertices)
        return AscentPath(np.stack(correct), np.stack(zero))

    def covering(self) -> "TrialSetting":
        """Returns the same where the ball around any image holds every image."""
        ball = self.ball
        eps = threat.covering_radius(ball.norm, self.x[0].size, ball.bounds)
        step_size = STEP_SHARE * eps / self.steps
        ball = dataclasses.replace(ball, eps=eps)
        return dataclasses.replace(self, ball=ball, step_size=step_size)


def compare(
    trials: TrialSetting,
    gradient: Images,
    squares: Images,
    *,
    keys: Key,
    restarts: int,
    scale: float,
) -> schema.Trials:
    """Attacks the same images in many ways, from more random starts too.

    `gradient` is at the clean images, `squares` what a black-box attack made of them;
    `scale` is of the logits in the loss, in one of the runs.
    """
    x, clean = trials.x, trials.resists(trials.x)
    jump = trials.step(x, gradient, trials.eps)
    first, *others = (trials.draw(keys, "start", r) for r in range(restarts + 1))
    noise = (trials.draw(keys, "noise", d) for d in range(DRAWS))
    long, rescaled = trials.climb(first, LONGER), trials.climb(first, scale=scale)
    whole = trials.covering()
    iterative = long.resists(trials.steps)
    single_step, scaled = trials.resists(jump), rescaled.resists()
    more_steps = long.resists()
    more_restarts = _all(iterative, *(trials.climb(s).resists() for s in others))
    noises, square = _all(*map(trials.resists, noise)), trials.resists(squares)
    # With the logits scaled: to see whether the gradient is blind, not the loss.
    covering = whole.climb(x, scale=scale).resists()
    strong = _all(clean, more_steps, more_restarts)
    white = _all(strong, single_step, scaled)
    climbed = (single_step, long.correct[-1])

    def left(resist: Resists) -> float:
        return float((clean & resist).mean())

    return schema.Trials(
        accuracy=schema.Left(
            clean=left(clean),
            single_step=left(single_step),
            iterative=left(iterative),
            more_steps=left(more_steps),
            more_restarts=left(more_restarts),
            rescaled=left(scaled),
            noise=left(noises),
            square=left(square),
            covering=left(covering),
        ),
        only_single_step_share=float((strong & ~single_step).mean()),
        only_rescaled_share=float((strong & ~scaled).mean()),
        only_black_box_share=float((white & ~(noises & square)).mean()),
        zero_gradient_share_attacked=float(min(long.zero.mean(), rescaled.zero.mean())),
        raised=max(float(end.mean() - clean.mean()) for end in climbed),
        covering_eps=whole.eps,
    )


def _all(*resist: Resists) -> Resists:
    return np.logical_and.reduce(resist)
