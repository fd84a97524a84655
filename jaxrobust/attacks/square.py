"""The square attack: random search over square windows, from logits alone."""

import dataclasses
from typing import Annotated, NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrobust import threat
from jaxrobust._checks import Range
from jaxrobust.array_types import Images, Labels, LogitsFn, PerExample, Scalar
from jaxrobust.attacks import _square_windows as windows
from jaxrobust.attacks._eager import iterate
from jaxrobust.attacks._method import Count, Health, Method, choose, like, model_keys
from jaxrobust.attacks._objective import Keys, Problem, evaluate, fold, succeeds
from jaxrobust.attacks._options import LossOptions, PositiveInt, shares

# Streams of a row's key: the first point, and the windows.
_FIRST_STREAM = 0x73717331
_WINDOW_STREAM = 0x73717732


class Carry(NamedTuple):
    """The best point so far, its value, and whether it is misclassified."""

    x: Images
    value: PerExample
    fooled: jax.Array
    faces: tuple[Images, Images] | None  # in Linf the ends of the ball
    health: Health | None


@dataclasses.dataclass(frozen=True)
class Square(Method):
    """The square attack without its arrays: a step is a query."""

    ball = True
    random = "the square attack"

    p_init: float = 0.8
    rescale: bool = False

    def start(self, problem: Problem, keys: Keys, r: Count) -> Carry:
        """Makes the first point, unless the image itself is misclassified."""
        x = problem.x
        clean = problem.clean_logits(model_keys(problem, keys, self.steps + 1))
        settled = succeeds(problem, clean)
        faces = None
        if problem.norm == "linf":
            radius = threat.per_row(_radius(problem), x)
            faces = problem.project(x - radius), problem.project(x + radius)
        point = _first(problem, keys, faces)
        at = evaluate(problem, point, model_keys(problem, keys, self.steps))
        return Carry(
            choose(settled, x, point),
            jnp.where(jnp.isnan(at.value), -jnp.inf, at.value),
            settled | at.fooled,
            faces,
            Health.of(problem, clean),
        )

    def step(self, problem: Problem, keys: Keys, i: Count, carry: Carry) -> Carry:
        """Tries a new window; keeps it if the loss is higher or the class wrong."""
        shape = problem.x.shape
        count = shape[3] + (5 if carry.faces is None else 2)
        row_keys = fold(keys, _WINDOW_STREAM, i)
        draws = jax.vmap(lambda k: jax.random.uniform(k, (count,), jnp.float32))(
            row_keys
        )
        size = windows.sides(i, self._schedule(problem), shape[0])
        if carry.faces is None:
            point = problem.project(_new_in_window(problem, carry.x, draws, size))
        else:
            point = _new_linf(carry.faces, carry.x, draws, size)
        at = evaluate(problem, point, model_keys(problem, keys, i))
        better = ~carry.fooled & (at.fooled | (at.value > carry.value))
        x, value = choose(better, (point, at.value), (carry.x, carry.value))
        fooled, health = carry.fooled | at.fooled, carry.health
        if health is not None:
            # The first window always moves something, but with a radius of 0.
            moved = (point != carry.x).any((1, 2, 3)) | (jnp.asarray(i) > 0)
            same = (at.value == carry.value) & moved & ~fooled
            health = health.saw(at.logits).flat(same, i)
        return carry._replace(x=x, value=value, fooled=fooled, health=health)

    def finish(self, problem: Problem, keys: Keys, carry: Carry) -> Images:
        """Returns the best point."""
        return carry.x

    def hit(self, problem: Problem, i: Count, carry: Carry) -> tuple[jax.Array, Images]:
        """A misclassified row stays as it is."""
        return carry.fooled, carry.x

    def _schedule(self, problem: Problem) -> list[int]:
        """Sides of the windows at all queries."""
        shape = (problem.x.shape[1], problem.x.shape[2])
        squeezed = self.steps if self.rescale else None
        return [
            windows.side(windows.share(i, self.p_init, squeezed), shape, problem.norm)
            for i in range(self.steps)
        ]


def _radius(problem: Problem) -> Float[Array, "..."]:
    """The radius, not so large that its square overflows."""
    eps = jnp.asarray(problem.eps, problem.x.dtype)
    return jnp.minimum(eps, 1e15)


def _stretched(delta: Images, radius: Float[Array, "..."]) -> Images:
    """Scales each row to the length `radius` in L2; zero stays zero."""
    length = threat.distance(delta, jnp.zeros_like(delta), norm="l2")
    return delta * threat.per_row(radius, delta) / like(length + 1e-12, delta)


def _first(problem: Problem, keys: Keys, faces: tuple[Images, Images] | None) -> Images:
    """Draws the first point: stripes in Linf, else patterns side by side."""
    x, first_keys = problem.x, fold(keys, _FIRST_STREAM)
    if faces is not None:
        return jnp.where(windows.stripes(first_keys, x) < 0, *faces)
    delta = windows.tiles(first_keys, x, problem.norm)
    if problem.norm == "l2":
        delta = _stretched(delta, _radius(problem))
    else:
        delta = delta * (problem.bounds[1] - problem.bounds[0])
    return problem.project(x + delta)


def _new_linf(
    faces: tuple[Images, Images],
    best: Images,
    draws: Float[Array, "B n"],
    size: windows.PerRow,
) -> Images:
    """Puts one face of the ball, a sign per channel, into a window."""
    shape = best.shape[1:3]
    window = windows.place(draws[:, :2], size, shape)
    face = jnp.where((draws[:, 2:] < 0.5)[:, None, None], *faces)
    return jnp.where(windows.inside(window, shape), face, best)


def _new_in_window(
    problem: Problem, best: Images, draws: Float[Array, "B n"], size: windows.PerRow
) -> Images:
    """Moves the perturbation of one window into another, on a new pattern there.

    What the clipping to the box has freed of the radius is spent there too.
    """
    x, norm, shape = problem.x, problem.norm, best.shape[1:3]
    here, there = (windows.place(draws[:, k : k + 2], size, shape) for k in (0, 2))
    unit = windows.pattern(here, draws[:, 4] < 0.5, shape, norm).astype(x.dtype)
    unit = unit * jnp.where(draws[:, 5:] < 0.5, -1, 1).astype(x.dtype)[:, None, None]
    filled, emptied = windows.inside(here, shape), windows.inside(there, shape)
    delta, radius = best - x, threat.per_row(_radius(problem), x)
    power = 2 if norm == "l2" else 1
    mass = jnp.abs(delta) ** power
    root = jnp.sqrt if norm == "l2" else (lambda v: v)

    def over(pixels: jax.Array, values: Images) -> Float[Array, "B 1 1 C"]:
        return jnp.sum(jnp.where(pixels, values, 0), axis=(1, 2), keepdims=True)

    used = jnp.sum(mass, axis=(1, 2, 3), keepdims=True)
    free = jnp.maximum(radius**power - used, 0)
    channels = x.shape[3]
    if norm == "l2":
        amount = root(free / channels + over(filled | emptied, mass))
    else:
        amount = free + channels * over(filled | emptied, mass)
    new = unit + jnp.where(filled, delta, 0) / (1e-12 + root(over(filled, mass)))
    new = new / (1e-12 + root(over(filled, jnp.abs(new) ** power))) * amount
    delta = jnp.where(filled, new, jnp.where(emptied, 0, delta))
    return x + (_stretched(delta, _radius(problem)) if norm == "l2" else delta)


@shares(LossOptions, loss="margin")
def square(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar,
    queries: int = 5000,
    p_init: Annotated[float, Range(0, 1, above=True)] = 0.8,
    resc_schedule: bool = False,
    restarts: PositiveInt = 1,
    **options: Unpack[LossOptions],
) -> Images:
    """Square attack: random search without gradients (Andriushchenko et al. 2020).

    Each query changes the perturbation in one square window, per example at its own
    place; the change stays if the loss is higher or the class wrong. Windows shrink
    as in AutoAttack's code; L1 is AutoAttack's own extension. A row that is
    misclassified stays as it is.

    Args:
      queries: model calls after the first point, at least 0; static.
      p_init: share of the image that the first windows cover, in (0, 1].
      resc_schedule: squeeze the schedule, made for 10,000 queries, into `queries`.

    Reference:
      Andriushchenko, Croce, Flammarion, Hein: Square attack: a query-efficient
      black-box adversarial attack via random search, ECCV 2020, arXiv 1912.00049,
      algorithms 1 to 3.
    """
    if getattr(x, "ndim", 4) != 4:
        raise ValueError(
            f"`x` must have shape [B, H, W, C] for square windows, got {x.shape}."
        )
    method = Square(queries, restarts, p_init=p_init, rescale=resc_schedule)
    return iterate(method, logits_fn, x, y, eps, **options)
