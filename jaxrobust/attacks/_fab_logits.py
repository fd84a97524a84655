"""Logit differences and their input gradients, as FAB needs them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust import losses, threat
from jaxrobust.array_types import Images, Labels, Logits, Norm, PerExample
from jaxrobust.attacks._objective import Keys, Problem, logits_dtype, mean_logits

# Classes differentiated together; more classes go in turns, for the memory.
_TOGETHER = 16
_DUAL: dict[Norm, Norm] = {"linf": "l1", "l2": "l2", "l1": "linf"}


class Difference(NamedTuple):
    """z_k - z_y `[B]`, its gradient `[B, ...]`, the class k `[B]`, and all logits."""

    value: PerExample
    gradient: Images
    other: Labels
    logits: Logits


def likely_wrong_class(logits: Logits, y: Labels, rank: Labels, count: int) -> Labels:
    """Returns the class at `rank` (0 first, below `count`) of the wrong ones, `[B]`."""
    wrong = jnp.arange(logits.shape[1])[None] != y[:, None]
    order = jax.lax.top_k(jnp.where(wrong, logits, -jnp.inf), count)[1]
    return jnp.take_along_axis(order, rank[:, None], axis=1)[:, 0].astype(y.dtype)


def off_rounding(problem: Problem, at: Difference, x: Images, keys: Keys) -> PerExample:
    """Differences, those lost in rounding as just short of misclassification.

    The way to a boundary that is nearer than `x` and the two logits are precise would
    round to none, and the attack would stand still. No other logit counts. `x` are the
    images at which they are taken, or farther from 0.
    """
    dtype = logits_dtype(problem, x, keys)
    terms = jnp.sum(jnp.abs(at.gradient * x), axis=tuple(range(1, x.ndim)))
    own = _pick(at.logits, problem.y)
    size = jnp.maximum(jnp.abs(own), jnp.abs(_pick(at.logits, at.other)))
    floor = 2 * jnp.finfo(x.dtype).eps * threat.tamed(terms)
    floor = (floor + losses.spacing(threat.tamed(size), dtype)).astype(at.value.dtype)
    return jnp.where(jnp.abs(at.value) < floor, -floor, at.value)


def differences_to(
    problem: Problem, x: Images, target: Labels, keys: Keys
) -> Difference:
    """Returns z_target - z_y and where it comes from."""

    def total(z: Images) -> tuple[jax.Array, tuple[PerExample, Logits]]:
        logits = mean_logits(problem, z, keys)
        difference = _pick(logits, target) - _pick(logits, problem.y)
        return jnp.sum(difference), (difference, logits)

    gradient, (difference, logits) = jax.grad(total, has_aux=True)(x)
    return Difference(threat.tamed(difference), threat.tamed(gradient), target, logits)


def differences(problem: Problem, x: Images, keys: Keys) -> Difference:
    """Like `differences_to`, to the class whose linearised boundary is nearest."""
    logits, gradients, df, far = _to_all(problem, x, keys)
    nearest = jnp.argmin(far, axis=1).astype(problem.y.dtype)
    return Difference(_pick(df, nearest), _row_of(gradients, nearest), nearest, logits)


def ways(problem: Problem, x: Images, keys: Keys) -> Logits:
    """Returns how far each class's linearised boundary is, `[B, K]`; own: infinity."""
    return _to_all(problem, x, keys)[-1]


def _to_all(problem: Problem, x: Images, keys: Keys) -> tuple[jax.Array, ...]:
    """Logits; of z_k - z_y to every k: gradients [K, B, ...], values, ways [B, K]."""
    logits, pull = jax.vjp(lambda z: mean_logits(problem, z, keys), x)
    classes, dtype = logits.shape[1], logits.dtype

    def gradient(k: jax.Array) -> Images:
        one = jnp.zeros((1, classes), dtype).at[0, k].set(1)
        return pull(jnp.broadcast_to(one, logits.shape))[0]

    every = jnp.arange(classes)
    if classes <= _TOGETHER:
        gradients = jax.vmap(gradient)(every)
    else:
        gradients = jax.lax.map(gradient, every, batch_size=_TOGETHER)
    own = _row_of(gradients, problem.y)
    gradients = threat.tamed(gradients - own[None])
    df = threat.tamed(logits - _pick(logits, problem.y)[:, None])
    zero, dual = jnp.zeros_like(x), _DUAL[problem.norm]
    slopes = jax.vmap(lambda g: threat.distance(g, zero, norm=dual))(gradients).T
    far = jnp.abs(df) / (1e-12 + slopes)
    far = jnp.where(every[None] == problem.y[:, None], jnp.inf, far)
    return logits, gradients, df, far


def _pick(rows: Logits, place: Labels) -> PerExample:
    return jnp.take_along_axis(rows, place[:, None], axis=1)[:, 0]


def _row_of(stack: jax.Array, place: Labels) -> Images:
    """Takes `stack[place[b], b]` for every row b."""
    place = place.reshape(1, -1, *(1 for _ in stack.shape[2:]))
    return jnp.take_along_axis(stack, place, axis=0)[0]
