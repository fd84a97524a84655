"""Logit differences and their input gradients, as FAB needs them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust import losses, threat
from jaxrobust._shards import varied_alike
from jaxrobust.array_types import Images, Labels, Logits, Norm, PerExample
from jaxrobust.attacks._objective import Keys, Problem, logits_dtype, mean_logits

# Classes differentiated together; more classes go in turns, for the memory.
_TOGETHER = 16
# Classes among which the nearest is looked for, as in MALT.
CANDIDATES = 100
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


def nearest_wrong_class(
    problem: Problem, keys: Keys, rank: Labels, count: int
) -> Labels:
    """Returns the class at `rank` by how near its linearised boundary is, `[B]`.

    Looks at the `CANDIDATES` likeliest wrong classes of the images, at a gradient each.
    """
    logits = problem.clean_logits(keys)
    few = min(logits.shape[1] - 1, max(CANDIDATES, count))
    wrong = jnp.arange(logits.shape[1])[None] != problem.y[:, None]
    likely = jax.lax.top_k(jnp.where(wrong, logits, -jnp.inf), few)[1]
    likely = likely.astype(problem.y.dtype)
    far = _to_all(problem, problem.x, keys, likely)[-1]
    order = jax.lax.top_k(-far, count)[1]
    return _pick(likely, _pick(order, rank))


def _to_all(
    problem: Problem, x: Images, keys: Keys, chosen: Array | None = None
) -> tuple[jax.Array, ...]:
    """Logits; of z_k - z_y to every k: gradients [K, B, ...], values, ways [B, K].

    Of the classes `chosen`, `[B, k]`, alone where they are given.
    """
    logits, pull = jax.vjp(lambda z: mean_logits(problem, z, keys), x)
    every = chosen is None
    if chosen is None:
        chosen = jnp.broadcast_to(jnp.arange(logits.shape[1]), logits.shape)

    def gradient(k: Labels) -> Images:
        units = jax.nn.one_hot(k, logits.shape[1], dtype=logits.dtype)
        return pull(varied_alike((units, logits))[0])[0]

    if chosen.shape[1] <= _TOGETHER:
        gradients = jax.vmap(gradient)(chosen.T)
    else:
        gradients = jax.lax.map(gradient, chosen.T, batch_size=_TOGETHER)
    # Among those of all classes the own one is there already.
    own = _row_of(gradients, problem.y) if every else gradient(problem.y)
    gradients = threat.tamed(gradients - own[None])
    df = jnp.take_along_axis(logits, chosen, axis=1) - _pick(logits, problem.y)[:, None]
    df = threat.tamed(df)
    zero, dual = jnp.zeros_like(x), _DUAL[problem.norm]
    slopes = jax.vmap(lambda g: threat.distance(g, zero, norm=dual))(gradients).T
    far = jnp.abs(df) / (1e-12 + slopes)
    far = jnp.where(chosen == problem.y[:, None], jnp.inf, far)
    return logits, gradients, df, far


def _pick(rows: Logits, place: Labels) -> PerExample:
    return jnp.take_along_axis(rows, place[:, None], axis=1)[:, 0]


def _row_of(stack: jax.Array, place: Labels) -> Images:
    """Takes `stack[place[b], b]` for every row b."""
    place = place.reshape(1, -1, *(1 for _ in stack.shape[2:]))
    return jnp.take_along_axis(stack, place, axis=0)[0]
