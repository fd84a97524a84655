"""Between the public attacks and their pure cores.

Inside a caller's transformation an attack is its pure core. Called eagerly it checks
values, is compiled once per shape (`_jit`), and warns.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxrobust import losses, threat
from jaxrobust._checks import check_classes, check_values
from jaxrobust.array_types import Images, Key, Labels, LogitsFn, Scalar
from jaxrobust.attacks import _checks, _jaxprs, _jit, _method
from jaxrobust.attacks._method import Method
from jaxrobust.attacks._objective import Keys, OnInput, Problem, check_logits
from jaxrobust.attacks.programs import Captured, abstract, bind, capture


def iterate(
    method: Method,
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    eps: Scalar | None,
    step_size: Scalar = 0.0,
    *,
    key: Key | None = None,
    **fields: Any,
) -> Images:
    """Checks one call of an iterated attack and runs it.

    The arguments are those of the attack, as users give them, with a `step_size` where
    there is one, and `fields` of the `Problem`. An `eps` of None is any radius, where
    the perturbation is to be small.
    """
    eps = jnp.inf if eps is None and not method.ball else eps
    problem = Problem(logits_fn, x, y, eps, step_size, **fields)  # pyright: ignore[reportArgumentType]
    _checks.check_call(problem, method, key)
    problem = dataclasses.replace(
        problem,
        x=jnp.asarray(x),
        eps=threat.plain(problem.eps, x),
        step_size=threat.plain(step_size, x),
    )
    if not method.needs_key and not problem.stochastic:
        # Restarts would repeat each other, and no randomness is used.
        method, key = dataclasses.replace(method, restarts=1), None
    keys = None if key is None else threat.row_keys(key, x.shape[0])
    if not in_transformation(problem, keys, problem.bounds):
        x_adv = _eager(problem, method, keys)
        if x_adv is not None:
            return x_adv
    # Cut before the loop, weights in a closure too: a loss that is differentiated
    # around the attack would differentiate every step, and throw the result away.
    bound, classes, _ = _bound(capture, problem, keys)
    assert classes is not None
    check_classes(y, classes)
    clean, bound = jax.lax.stop_gradient((problem.x, bound))
    problem, method = _jit.ready(bound, method), method.for_classes(classes)
    unroll = problem.unroll
    unroll = _auto_unroll(problem, method, keys) if unroll is None else unroll
    x_adv, _ = _method.run(problem, method, keys, unroll=unroll)
    return jax.lax.stop_gradient(_jit.narrowed(x_adv, clean))


def _eager(problem: Problem, method: Method, keys: Keys) -> Images | None:
    """Runs one eager call; None where a callable turns out to hold tracers."""
    check_values(problem.x, problem.bounds)
    bound, _, keep = _bound(bind, problem, keys)
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(bound)):
        return None
    dtype = threat.wide_dtype(problem.x.dtype)
    bound = dataclasses.replace(
        bound,
        eps=jnp.asarray(problem.eps, dtype),
        step_size=jnp.asarray(problem.step_size, dtype),
        bounds=tuple(map(float, problem.bounds)),
        watch=True,
    )
    attack = _jit.programs(bound, method, keys, keep=keep)
    check_classes(problem.y, attack.classes)
    x_adv, health = attack(bound, keys)
    if health is not None:
        _checks.warn(health)
    return _jit.narrowed(x_adv, problem.x)


def _bound(
    captured: Callable[..., Captured], problem: Problem, keys: Keys
) -> tuple[Problem, int | None, bool]:
    """The problem, callables as Partials of their arrays, and labels as int32.

    Also the number of classes, where the model was traced, and whether what is compiled
    may be kept.
    """
    x, y = abstract(problem.x), abstract(problem.y.astype(jnp.int32))
    images = [x, abstract(keys)] if problem.stochastic else [x]
    model, loss = captured(problem.logits_fn, *images), problem.loss_fn
    logits_fn = jax.tree_util.Partial(model.fn, model.arrays)
    if model.out is not None:
        check_logits(model.out, x.shape[0])
    if isinstance(problem.loss, str):
        own, loss_fn = None, jax.tree_util.Partial(loss)
    elif isinstance(loss, OnInput):
        own = captured(loss.fn, x, y)
        loss_fn = OnInput(jax.tree_util.Partial(own.fn, own.arrays))
    else:
        out = jax.eval_shape(logits_fn, *images)
        check_logits(out, x.shape[0])
        own = captured(loss, jax.eval_shape(losses.comparable, out), y)
        loss_fn = jax.tree_util.Partial(own.fn, own.arrays)
    keep = model.keep and (own is None or own.keep)
    classes = None if model.out is None else model.out.shape[1]
    # That they name a class is looked at in the dtype in which they were given.
    labels = problem.y if hasattr(problem.y, "aval") else np.asarray(problem.y)
    labels = jnp.asarray(labels).astype(jnp.int32)
    bound = dataclasses.replace(problem, logits_fn=logits_fn, loss=loss_fn, y=labels)
    return bound, classes, keep


def in_transformation(*trees: Any) -> bool:
    """Whether a call is being traced, or asked to run step by step."""
    config: Any = jax.config
    # Where anything is traced, a constant made here is too.
    leaves = jax.tree.leaves((trees, jax.lax.full((), 0.0)))
    return config.jax_disable_jit or any(isinstance(leaf, Tracer) for leaf in leaves)


def _auto_unroll(problem: Problem, method: Method, keys: Keys) -> int | bool:
    """Writes few steps out where a loop would be slow on CPU."""
    total = method.steps * method.runs()
    if not 1 < total <= _jaxprs.MAX_UNROLL:
        return 1

    def first() -> Any:
        return method.step(problem, keys, 0, method.start(problem, keys, 0))

    return True if _jaxprs.slow_in_loop(first) else 1
