"""Bandits: ascent along a prior that learns from two scores a step."""

import dataclasses
import math
from typing import Annotated, Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxrobust import losses, threat
from jaxrobust._checks import Range, check_count
from jaxrobust.array_types import Images, Labels, LogitsFn, Scalar
from jaxrobust.attacks._ascent import Ascent, Carry, steepest
from jaxrobust.attacks._descent import width
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._method import Count, like, model_keys, watched
from jaxrobust.attacks._objective import Keys, OnInput, Problem, evaluate, fold, slope
from jaxrobust.attacks._options import LossOptions, PositiveInt, shares

_DRAW_STREAM = 0x62616E
_CALLS = 3  # of a step
# Where tanh has come to 1.
_CERTAIN = 8.0
_FEWEST_TILES = 16
# Of the authors: step of the image, distance of the points, exploration, prior's rate.
_DEFAULTS = {"linf": (0.01, 0.1, 1.0, 100.0), "l2": (0.5, 0.01, 0.01, 0.1)}


@dataclasses.dataclass(frozen=True)
class Bandits(Ascent):
    """Bandits without its arrays.

    `direction_state` of its carry is the prior, and the lead of the true class at the
    image, of which differences are counted: logits of another scale are no other model.
    """

    norms = ("linf", "l2")
    random = "bandits"
    length = "lr"
    settles = True
    estimated = True

    keep_best: bool | None = True
    probe: float = 0.1
    exploration: float = 1.0
    prior_lr: float = 100.0
    tiles: int | None = None

    def start(self, problem: Problem, keys: Keys, r: Count) -> Carry:
        """Starts at the image, with a prior that knows nothing."""
        shape = self._tiled(problem.x[:1]).shape[1:]
        prior = jnp.zeros((len(problem.x), *shape), problem.x.dtype)
        state = prior, jnp.ones(len(prior), prior.dtype)
        return super().start(problem, keys, r)._replace(direction_state=state)

    def step(self, problem: Problem, keys: Keys, i: Count, carry: Carry) -> Carry:
        """Looks at the point, at two around it, and steps along the new prior."""
        x, row_keys = carry.x, model_keys(problem, keys, i)
        at = evaluate(problem, x, row_keys)
        prior, lead = carry.direction_state
        if not isinstance(problem.loss, OnInput):
            here = jnp.abs(losses.margin(losses.comparable(at.logits), problem.y))
            here = jnp.where(jnp.isfinite(here) & (here > 0), here, 1).astype(x.dtype)
            lead = jnp.where(jnp.asarray(i) == 0, here, lead)
        shape = prior.shape[1:]
        drawn = fold(keys, _DRAW_STREAM, i)
        noise = jax.vmap(lambda key: jax.random.normal(key, shape, x.dtype))(drawn)
        noise = noise * self.exploration / math.sqrt(math.prod(shape))
        length = self.probe * width(problem)
        ahead, behind = (
            length * _unit(self._image(problem, prior, s * noise)) for s in (1, -1)
        )
        # The two points lie around the middle of the two directions.
        middle, shift = (ahead + behind) / 2, (ahead - behind) / 2
        rise = 2 * slope(problem, x + middle, shift, length, row_keys)
        rise = threat.tamed(rise / lead, squared=True)
        prior = prior + self.prior_lr * like(rise / self.exploration, noise) * noise
        if problem.norm == "linf":
            prior = jnp.clip(prior, -_CERTAIN, _CERTAIN)
        direction = self._image(problem, prior, jnp.zeros_like(noise))
        moved = steepest(problem, x, direction, problem.step_size)
        assert carry.kept is not None
        return Carry(
            problem.project(moved),
            (prior, lead),
            self._kept(carry.kept, x, at),
            direction,
            watched(carry.health, direction, at.logits, i, self.estimated),
        )

    def done(self, carry: Carry) -> jax.Array | None:
        """Rows that are misclassified."""
        return carry.kept and carry.kept.fooled

    def _image(self, problem: Problem, prior: Array, noise: Array) -> Images:
        """The prior as large as the image; in Linf its values lie between -1 and 1.

        Steps of exponentiated gradients are steps of its inverse tanh, which is kept.
        """
        prior = (jnp.tanh(prior) if problem.norm == "linf" else prior) + noise
        return prior if self.tiles is None else self._grown(prior, problem.x)

    def _tiled(self, x: Images) -> Images:
        return x if self.tiles is None else x[:, : self.tiles, : self.tiles]

    def _grown(self, tiles: Array, x: Images) -> Images:
        """Each value of the tiles at all pixels of its tile."""
        for axis in (1, 2):
            size = x.shape[axis]
            places = np.arange(size) * tiles.shape[axis] // size
            tiles = jnp.take(tiles, places, axis=axis)
        return tiles


def _unit(v: Images) -> Images:
    length = threat.distance(v, jnp.zeros_like(v), norm="l2")
    return threat.safe_divide(v, like(length, v))


@shares(LossOptions, loss="margin")
def bandits(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar,
    queries: int = 10_000,
    lr: Annotated[float | None, Range(0, 1e6)] = None,
    probe: Annotated[float | None, Range(0, 1e6, above=True)] = None,
    exploration: Annotated[float | None, Range(0, 1e6, above=True)] = None,
    prior_lr: Annotated[float | None, Range(0, 1e9)] = None,
    tiles: PositiveInt | None = None,
    restarts: PositiveInt = 1,
    **options: Unpack[LossOptions],
) -> Images:
    """Bandits (Ilyas et al. 2019, algorithms 1 to 3): ascent from scores, with priors.

    A prior for the gradient is carried from step to step (the prior of time), over
    tiles of pixels that share their value (the prior of data). Each step looks at two
    points, along the prior with some noise added and taken away, moves the prior by
    the difference (in leads of the true class at the image, so that the scale of the
    logits does not count), and makes a steepest step along it. A row that is
    misclassified stays as it is; of others the best iterate by loss is returned. The
    two points may lie outside of the box by `probe`.

    >>> import jax, jax.numpy as jnp
    >>> from jaxrobust import attacks
    >>> logits_fn = lambda x: jnp.stack([x.sum((1, 2, 3)), jnp.full(len(x), 3.3)], 1)
    >>> x, y, key = jnp.ones((1, 2, 2, 1)), jnp.array([0]), jax.random.key(0)
    >>> x_adv = attacks.bandits(logits_fn, x, y, key=key, eps=0.2, queries=200)
    >>> int(logits_fn(x_adv).argmax(1)[0])
    1

    Args:
      queries: model calls per image, three a step and two at the end, those of
        `eot_samples` included; static. The authors do not count the look at the point.
      lr: length of a step in the norm, in units of the images; None: .01 in Linf, .5 in
        L2, as of the authors; the other numbers that are None likewise.
      probe: how far the two points are, in units of the box's width; .1, or .01 in L2.
      exploration: length of the noise; 1, or .01 in L2.
      prior_lr: rate at which the prior learns: 100 in Linf, where its steps are
        exponentiated gradients, .1 in L2.
      tiles: on each side; None: a fifth of its pixels (authors: 50 of 224), but no
        fewer than 16, or as many as there are.
      norm: 'linf' or 'l2'.

    Reference:
      Ilyas, Engstrom, Madry: Prior convictions: black-box adversarial attacks with
      bandits and priors, ICLR 2019, arXiv 1807.07978, algorithms 1 to 3.
    """
    check_count("queries", queries, 0)
    given = (lr, probe, exploration, prior_lr)
    usual = _DEFAULTS.get(options.get("norm", "linf"), _DEFAULTS["linf"])
    pairs = zip(given, usual, strict=True)
    lr, probe, exploration, prior_lr = (b if a is None else a for a, b in pairs)
    own: dict[str, Any] = {"probe": probe, "exploration": exploration}
    if getattr(x, "ndim", 0) == 4:
        side = min(x.shape[1:3])
        own["tiles"] = min(tiles or max(_FEWEST_TILES, round(side / 5)), side)
    steps = max(0, (queries // options.get("eot_samples", 1) - 2) // _CALLS)
    method = Bandits(steps, restarts, prior_lr=prior_lr, **own)
    return iterate(method, logits_fn, x, y, eps, lr, **options)
