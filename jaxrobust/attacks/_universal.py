"""One perturbation for many images: ascent on draws of them, stepped from the host."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust import _checks as checks
from jaxrobust import losses, threat
from jaxrobust.array_types import Images, Key, Labels, LogitsFn, Norm
from jaxrobust.attacks import programs
from jaxrobust.attacks._checks import check_images, need_key
from jaxrobust.attacks._eager import in_transformation
from jaxrobust.attacks._objective import Loss, OnInput, check_logits, check_loss, named

# `(images [B, ...], perturbation [1, ...], keys [B]) -> images`.
Apply = Callable[[Images, jax.Array, Key], Images]
Step = Callable[["Many", jax.Array, jax.Array], jax.Array]


class Many(NamedTuple):
    """Images, labels and model, all checked.

    Attributes:
      logits_fn: `(arrays, x) -> logits`.
      arrays: of the model.
      x: `[N, H, W, C]`, float32 at least.
      y: `[N]`.
      key: one, of all that is drawn.
      eager: whether nothing is traced: the loop is on the host then.
    """

    logits_fn: LogitsFn
    arrays: Any
    x: Images
    y: Labels
    key: Key
    eager: bool

    def repeat(self, times: int, body: Step, init: jax.Array) -> jax.Array:
        """Makes steps, `body(self, i, value) -> value`."""
        if not self.eager:
            step = lambda i, value: body(self, i, value)  # noqa: E731
            return jax.lax.fori_loop(0, times, step, init)

        def once(arrays: Any, x: Images, y: Labels, i: jax.Array, value: Any) -> Any:
            return body(self._replace(arrays=arrays, x=x, y=y), i, value)

        step = jax.jit(once)
        for i in range(times):
            init = step(self.arrays, self.x, self.y, jnp.int32(i), init)
        return init


def many(
    logits_fn: LogitsFn, x: Images, y: Labels, key: Key, bounds: Any, least: int
) -> Many:
    """Checks what a universal attack is given; the model's arrays become arguments.

    `least` are the images of which a draw must be had.
    """
    checks.check_function(logits_fn)
    checks.check_bounds(bounds)
    checks.check_images(x)
    check_images(x)
    checks.check_labels(y, len(x))
    need_key(key, "a universal attack")
    shape = getattr(key, "shape", ())
    checks.row_keys(key, shape[0] if shape else 1)
    if shape:
        raise ValueError(
            f"`key` must be one key for all images here, got shape {key.shape}."
        )
    if least > len(x):
        raise ValueError(f"`batch` must be at most {len(x)} images, got {least}.")
    eager = not in_transformation(x, y, key)
    if eager:
        checks.check_values(x, bounds)
    x = jnp.asarray(x).astype(threat.wide_dtype(x.dtype))
    like = jax.ShapeDtypeStruct((least, *x.shape[1:]), x.dtype)
    model = programs.capture(logits_fn, like)
    check_logits(model.out, least)
    checks.check_classes(y, model.out.shape[1])
    labels = jnp.asarray(y, jnp.int32)
    return Many(model.fn, list(model.arrays), x, labels, key, eager)


class Limits(NamedTuple):
    """Where a perturbation may be, as `threat.project` takes it; and its steps."""

    eps: Any
    norm: Norm
    bounds: tuple[Any, Any]
    step_size: Any


def ascend(
    problem: Many,
    apply: Apply,
    centre: jax.Array,
    ball: Limits,
    loss: Loss,
    **given: Any,
) -> jax.Array:
    """Ascends the mean loss of draws of images, from the centre `[1, ...]` of a ball.

    Args:
      problem: images, labels, model.
      apply: puts the perturbation on images.
      centre: where the ball is, and the start.
      ball: of the perturbation, with the length of a step.
      loss: that is ascended.
      **given: `steps`; `batch`, images per draw; `limit` of an image's loss;
        `targeted`: descend.
    """
    check_loss(loss)
    if isinstance(loss, OnInput):
        raise ValueError("`loss` must be of logits here: a name or fn(logits, y).")
    loss_fn: Any = named(loss)
    batch, limit, sign = given["batch"], given["limit"], 1 - 2 * given["targeted"]

    def step(now: Many, i: jax.Array, value: jax.Array) -> jax.Array:
        pick, draw = jax.random.split(jax.random.fold_in(now.key, i))
        some = jax.random.choice(pick, len(now.x), (batch,), replace=False)
        x, y, keys = now.x[some], now.y[some], checks.row_keys(draw, batch)

        def mean(value: jax.Array) -> jax.Array:
            logits = losses.comparable(now.logits_fn(now.arrays, apply(x, value, keys)))
            each = sign * loss_fn(logits, y)
            # Beyond it, one image would not count for others.
            return jnp.mean(each if limit is None else jnp.minimum(each, limit))

        where = {"norm": ball.norm, "bounds": ball.bounds}
        slope = jax.grad(mean)(value)
        ahead = threat.steepest_step(value, slope, step_size=ball.step_size, **where)
        return threat.project(ahead, centre, eps=ball.eps, **where)

    return jax.lax.stop_gradient(problem.repeat(given["steps"], step, centre))
