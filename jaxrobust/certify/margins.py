"""Proofs of single images: the margin of a ball, and the largest ball."""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from jaxrobust import _checks, threat
from jaxrobust.array_types import (
    Bounds,
    Images,
    Labels,
    Logits,
    LogitsFn,
    Norm,
    PerExample,
    Scalar,
)
from jaxrobust.certify import _graph, _propagate, _regions, bounding, branching
from jaxrobust.certify._alone import bind_alone, check_logits, classes_of
from jaxrobust.certify._graph import Node
from jaxrobust.certify.bounding import Method

# Margins from so many of the smallest normal numbers on are proofs.
_SURE = 2.0**24
Proof = Literal[Method, "bab"]
PROOFS: tuple[Proof, ...] = (*bounding.METHODS, "bab")


@dataclasses.dataclass(frozen=True)
class Task:
    """What is asked of each image; all of it static."""

    norm: Norm
    method: Method
    bounds: Bounds
    halvings: int = 0


def margin(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar | Array,
    norm: Norm = "linf",
    method: Proof = "crown",
    bounds: Bounds = (0.0, 1.0),
    seconds: float = 60.0,
) -> PerExample:
    """Proves how far the true class stays ahead of all others in a ball.

    A lower bound of `min_{j != y} z_y - z_j` over the ball of radius eps cut with the
    box; each difference is bounded as one form. Positive is proved: no attack can
    change the class.

    Args:
      logits_fn: images `[B, H, W, C]` to logits `[B, K]`, each row by itself.
      x: images `[B, H, W, C]`, or any rows `[B, ...]`, float32 or float64.
      y: labels `[B]`.
      eps: the radius, a number or `[B]`, in Linf also one that broadcasts to x.
      norm: of the ball.
      method: of `certify.bounds`; or `bab`, branch and bound for small networks of
        ReLUs, which is not for `jax.jit`.
      bounds: of the box.
      seconds: after which `bab` stops; what it returns holds all the same.

    Returns:
      `[B]`, up to the rounding told in `jaxrobust.certify`.

    Raises:
      Unsupported: a ValueError that names the primitive without a rule and its line.
      ValueError: for an unknown method or norm, images outside the bounds, labels out
        of range, seconds below 0.

    >>> from jaxrobust import certify
    >>> weights = jnp.array([[1.0, -1.0], [0.0, 0.0]])
    >>> x, y = jnp.array([[0.7, 0.5]]), jnp.array([0])
    >>> print(certify.margin(lambda z: z @ weights, x, y, eps=0.1))
    [1.2]
    """
    if method == "bab":
        _checks.check_one_number("seconds", seconds, _checks.FINITE)
        _check(x, y, eps, norm, method, bounds)
        _check_classes(logits_fn, x, y)
        radii = _radii(eps, x, norm, bounds)
        return branching.margin(logits_fn, x, y, radii, norm, bounds, seconds)
    return _run(logits_fn, x, y, eps, Task(norm, method, bounds))


def radius(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar | Array,
    norm: Norm = "linf",
    method: Method = "crown",
    bounds: Bounds = (0.0, 1.0),
    halvings: int = 10,
) -> PerExample:
    """Finds by bisection a radius up to which a class is proved.

    Args:
      logits_fn: see `margin`, like all that is not told here.
      x: images.
      y: labels.
      eps: the largest radius that is tried.
      norm: of the ball.
      method: of `certify.bounds`.
      bounds: of the box.
      halvings: how often the interval of radii is halved.

    Returns:
      `[B]`, in [0, eps]; 0 where nothing is proved. Each radius is one at which
      `margin` is positive.
    """
    _checks.check_count("halvings", halvings, 1)
    return _run(logits_fn, x, y, eps, Task(norm, method, bounds, halvings))


def worst_logits(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    *,
    eps: Scalar | Array,
    norm: Norm = "linf",
    method: Method = "ibp",
    bounds: Bounds = (0.0, 1.0),
) -> Logits:
    """Returns logits no better than any in the ball: what certified training is of.

    Those of the other classes are upper bounds of `z_j - z_y`, that of the true one is
    0 (Gowal et al. 2018, arXiv 1810.12715, equation 11; here each difference is one
    form). Any loss that falls with the true logit and rises with the others is at these
    at least what an adversary can make it.

    Args:
      logits_fn: see `margin`, like all that is not told here.
      x: images.
      y: labels.
      eps: the radius.
      norm: of the ball.
      method: of `certify.bounds`.
      bounds: of the box.

    Returns:
      `[B, K]`; can be differentiated.

    >>> from jaxrobust import certify
    >>> x, y = jnp.array([[0.7, 0.5]]), jnp.array([0])
    >>> print(certify.worst_logits(lambda z: z, x, y, eps=0.2).round(3))
    [[-0.   0.2]]
    """
    _check(x, y, eps, norm, method, bounds)
    _check_classes(logits_fn, x, y)
    task, y = Task(norm, method, bounds), jnp.asarray(y)
    differences = functools.partial(_differences, logits_fn, task=task)
    found = jax.vmap(differences)(jnp.asarray(x), y, _radii(eps, x, norm, bounds))
    return jnp.where(_is_class(y, found.shape[1])[:, None], -found, jnp.nan)


def _run(logits_fn: LogitsFn, x: Images, y: Labels, eps: Any, task: Task) -> PerExample:
    """Checks a call; eagerly it is compiled once per shape and network."""
    _check(x, y, eps, task.norm, task.method, task.bounds)
    x, given, y = jnp.asarray(x), y, jnp.asarray(y)
    leaves = jax.tree.leaves((logits_fn, x, y, eps, jax.lax.full((), 0.0)))
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        _check_classes(logits_fn, x, given)
        radii = _radii(eps, x, task.norm, task.bounds)
        return of_batch(logits_fn, x, y, radii, task)
    _checks.check_values(x, task.bounds)
    if not len(x):
        return jnp.zeros(0, x.dtype)
    held = bind_alone(logits_fn, x)
    _checks.check_classes(given, classes_of(held, x))
    run = _compiled if held.keep else jax.jit(_of_arrays, static_argnums=(0, 1))
    try:
        return run(held.fn, task, held.arrays, x, y, jnp.asarray(eps, x.dtype))
    except _graph.Unsupported:
        # What was captured has lost its lines: the function itself has them.
        _graph.trace(lambda z: logits_fn(z[None])[0], x[0])
        raise


def _of_arrays(
    fn: Any, task: Task, arrays: Any, x: Images, y: Labels, eps: Any
) -> PerExample:
    radii = _radii(eps, x, task.norm, task.bounds)
    return of_batch(functools.partial(fn, arrays), x, y, radii, task)


# A function of arrays alone: it keeps no weights alive.
_compiled = jax.jit(_of_arrays, static_argnums=(0, 1))


def of_batch(
    logits_fn: LogitsFn, x: Images, y: Labels, radii: Array, task: Task
) -> PerExample:
    """Returns the margin of each row, or its radius where `task` says halvings."""

    def row(x: Array, y: Array, eps: Array) -> Array:
        if not task.halvings:
            return _of_row(logits_fn, x, y, eps, task)
        share = jnp.zeros((), x.dtype)
        whole = _of_row(logits_fn, x, y, eps, task) > 0

        def halve(i: Array, low: Array) -> Array:
            tried = low + 0.5 ** (i + 1).astype(x.dtype)
            proved = _of_row(logits_fn, x, y, eps * tried, task) > 0
            return jnp.where(proved, tried, low)

        share = jax.lax.fori_loop(0, task.halvings, halve, share)
        return jnp.where(whole, 1, share) * jnp.max(eps)

    if task.method in ("ibp", "crown_ibp"):
        return jax.vmap(row)(x, y, radii)
    graph = _graph.trace(lambda z: logits_fn(z[None])[0], x[0])
    size = min(len(x), _propagate.images_at_a_time(graph))
    return jax.lax.map(lambda one: row(*one), (x, y, radii), batch_size=size)


def _of_row(logits_fn: LogitsFn, x: Array, y: Array, eps: Array, task: Task) -> Array:
    """Returns the margin of one image `[H, W, C]`."""
    found = _differences(logits_fn, x, y, eps, task)
    # Inside of jit labels cannot be refused.
    return jnp.where(_is_class(y, found.shape[0]), _least(found, y), -jnp.inf)


def _is_class(y: Array, classes: int) -> Array:
    return (y >= 0) & (y < classes)


def _differences(
    logits_fn: LogitsFn, x: Array, y: Array, eps: Array, task: Task
) -> Float[Array, " K"]:
    """Returns lower bounds of `z_y - z_j` for all j, 0 for y itself."""
    graph = _graph.trace(lambda z: logits_fn(z[None])[0], x)
    forms = forms_of(y, graph.output.shape[0], x.dtype)
    if not isinstance(graph.output, Node):
        return forms @ jnp.asarray(graph.output)
    low, high = (jnp.full_like(x, end) for end in task.bounds)
    region = _regions.make(low, high, x, eps, task.norm)
    return bounding.of_forms(graph, region, task.method, forms)


def forms_of(y: Array, classes: int, dtype: Any) -> Float[Array, "K K"]:
    """Returns the forms `z_y - z_j` for all j."""
    true = jax.nn.one_hot(y, classes, dtype=dtype)
    return true[None] - jnp.eye(classes, dtype=dtype)


def _least(found: Float[Array, " K"], y: Array) -> Float[Array, ""]:
    """Returns the least difference to another class; minus infinity for NaN."""
    others = jnp.where(jnp.arange(found.shape[0]) == y, jnp.inf, found)
    least = jnp.min(jnp.where(jnp.isnan(others), -jnp.inf, others))
    # Backends take numbers below the normal ones for 0: near them nothing is sure.
    return jnp.where(
        least > _SURE * jnp.finfo(least.dtype).tiny, least, jnp.minimum(least, 0)
    )


def _radii(eps: Any, x: Images, norm: Norm, bounds: Bounds) -> Array:
    """Returns a radius per row, or per value in Linf where some are."""
    # Larger ones are no other ball, and infinity times 0 is no number.
    eps = jnp.asarray(eps, x.dtype)
    # Inside of jit a radius below 0 cannot be refused.
    eps = jnp.where(eps >= 0, eps, jnp.nan)
    eps = threat.capped(eps, x, norm, bounds).astype(x.dtype)
    if eps.ndim > 1:
        return jnp.broadcast_to(eps, x.shape)
    return jnp.broadcast_to(eps, x.shape[:1])


def _check(x: Any, y: Any, eps: Any, norm: Any, method: Any, bounds: Any) -> None:
    _checks.check_choice("method", method, PROOFS)
    _checks.check_norm(norm, _checks.NORMS)
    _checks.check_bounds(bounds)
    _checks.check_images(x, flat=True)
    if x.dtype not in (jnp.float32, jnp.float64):
        raise TypeError(f"`x` must be float32 or float64 for a proof, got {x.dtype}.")
    _checks.check_labels(y, x.shape[0])
    _checks.check_radius("eps", eps)
    _checks.check_shape("eps", eps, x.shape, norm)


def _check_classes(logits_fn: LogitsFn, x: Images, y: Labels) -> None:
    """Checks logits, and labels as they were given."""
    _checks.check_classes(y, check_logits(logits_fn, x))
