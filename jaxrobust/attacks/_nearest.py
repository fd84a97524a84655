"""The nearest misclassified point so far: what minimum-norm attacks keep."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust import threat
from jaxrobust.array_types import Images, PerExample
from jaxrobust.attacks._method import like
from jaxrobust.attacks._objective import Problem


class Nearest(NamedTuple):
    """A point per example and its distance, infinite until there is one."""

    x: Images
    distance: PerExample


def of_images(problem: Problem, fooled: jax.Array) -> Nearest:
    """Begins with the images: at no distance where they fool the model themselves."""
    distance = jnp.where(fooled, 0, jnp.inf).astype(problem.x.dtype)
    return Nearest(problem.x, distance)


def nearer(problem: Problem, nearest: Nearest, x: Images, fooled: jax.Array) -> Nearest:
    """Takes `x` where it fools the model from a smaller distance."""
    distance = threat.distance(x, problem.x, norm=problem.norm)
    wins = fooled & (distance < nearest.distance)
    return Nearest(
        jnp.where(like(wins, x), x, nearest.x),
        jnp.where(wins, distance, nearest.distance),
    )


def within(problem: Problem, nearest: Nearest) -> Images:
    """Returns the points that are within eps, and the images of the other rows."""
    inside = nearest.distance <= jnp.asarray(problem.eps, problem.x.dtype)
    return jnp.where(like(inside, nearest.x), nearest.x, problem.x)
