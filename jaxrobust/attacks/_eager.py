"""Between the public attacks and their pure cores.

Inside a caller's transformation an attack is its pure core. Called eagerly it checks
values, is compiled once per shape (`_jit`), and warns.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxrobust import losses, threat
from jaxrobust.array_types import Images, Key
from jaxrobust.attacks import (
    _capture,
    _checks,
    _half,
    _jit,
    _method,
    _programs,
    _trap,
)
from jaxrobust.attacks._jit import Arguments, Call, Unroll
from jaxrobust.attacks._method import Method
from jaxrobust.attacks._objective import OnInput, Problem, check_logits

# Fields of a problem that are arrays, or have a place of their own in a call.
_OWN = ("logits_fn", "x", "y", "eps", "step_size", "loss", "x_init", "clean")


def iterate(
    problem: Problem, method: Method, key: Key | None, unroll: Unroll
) -> Images:
    """Checks one call of an iterated attack and runs it."""
    _checks.check_static(problem, method, key)
    problem = dataclasses.replace(
        problem,
        eps=threat.plain(problem.eps, problem.x),
        step_size=threat.plain(problem.step_size, problem.x),
    )
    if not method.needs_key and not problem.stochastic:
        # Restarts would repeat each other, and no randomness is used.
        method, key = dataclasses.replace(method, restarts=1), None
    keys = None if key is None else threat.row_keys(key, problem.x.shape[0])
    if not in_transformation(problem, keys):
        x_adv = _eager(problem, method, keys, unroll)
        if x_adv is not None:
            return x_adv
    clean = jax.lax.stop_gradient(jnp.asarray(problem.x))
    problem, classes = _detached(problem, method, keys)
    method = method.for_classes(classes)
    unroll = _auto_unroll(problem, method, keys) if unroll is None else unroll
    x_adv, _ = _method.run(problem, method, keys, unroll=unroll)
    return jax.lax.stop_gradient(_half.narrowed(x_adv, clean))


def _detached(
    problem: Problem, method: Method, keys: Key | None
) -> tuple[Problem, int]:
    """Cuts gradients before the loop, also of weights in a closure; counts classes.

    A loss that is differentiated around the attack would otherwise differentiate
    every step of it, and throw the result away.
    """
    x, y = jnp.asarray(problem.x), _labels(problem.y)
    x, y, eps, step_size, x_init = jax.lax.stop_gradient(
        (x, y, problem.eps, problem.step_size, problem.x_init)
    )
    model, loss = _captured(problem, x, y, keys)
    _checks.check_classes(problem.y, model.out.shape[1])
    weights, parts = jax.lax.stop_gradient((model.arrays, loss.arrays if loss else []))
    args = Arguments(weights, parts, x, y, keys, eps, step_size, x_init)
    call = _call(problem, method, model.fn, loss.fn if loss else problem.loss, None)
    return call.problem(args), model.out.shape[1]


def _labels(y: Any) -> jax.Array:
    """Labels as int32; that they name a class is seen before, in their own dtype."""
    return jnp.asarray(y if hasattr(y, "aval") else np.asarray(y)).astype(jnp.int32)


def in_transformation(*trees: Any) -> bool:
    """Whether a call is being traced, or asked to run step by step."""
    config: Any = jax.config
    leaves = []
    for tree in trees:
        values = vars(tree).values() if isinstance(tree, Problem) else [tree]
        leaves += jax.tree.leaves(list(values))
    return (
        any(isinstance(leaf, Tracer) for leaf in leaves)
        or isinstance(jax.lax.full((), 0.0), Tracer)
        or bool(config.jax_disable_jit)
    )


def _captured(
    problem: Problem, x: jax.Array, y: jax.Array, keys: Key | None
) -> tuple[_capture.Captured, _capture.Captured | None]:
    """Traces the model, and a loss that is a function, once each."""
    images = _inputs(problem, x, keys)
    model = _capture.capture(problem.logits_fn, *images)
    check_logits(model.out, x.shape[0])
    if isinstance(problem.loss, str):
        return model, None
    function, *inputs = _of_loss(problem, x, y, model.out)
    return model, _capture.capture(function, *inputs)


def _eager(
    problem: Problem, method: Method, keys: Key | None, unroll: Unroll
) -> Images | None:
    """Runs one eager call; None where a callable turns out to hold tracers."""
    x, y = jnp.asarray(problem.x), _labels(problem.y)
    dtype = threat.wide_dtype(x.dtype)
    eps = jnp.asarray(problem.eps, dtype)
    step_size = jnp.asarray(problem.step_size, dtype)
    _checks.check_values(x, problem.bounds)
    images = _inputs(problem, x, keys)
    model = _programs.bind(problem.logits_fn, *images)
    if model.out is not None:
        check_logits(model.out, x.shape[0])
    loss = None
    if not isinstance(problem.loss, str):
        out = jax.eval_shape(model.program, model.arrays, *images)
        check_logits(out, x.shape[0])
        function, *inputs = _of_loss(problem, x, y, out)
        loss = _programs.bind(function, *inputs)
    held = model.arrays + (loss.arrays if loss else [])
    if any(isinstance(array, Tracer) for array in held):
        return None
    parts = loss.arrays if loss else []
    args = Arguments(model.arrays, parts, x, y, keys, eps, step_size, problem.x_init)
    loss_program = loss.program if loss else problem.loss
    call = _call(problem, method, model.program, loss_program, unroll)
    keep = model.keep and (loss is None or loss.keep)
    programs = _jit.programs(call, args, keep=keep)
    _checks.check_classes(problem.y, programs.classes)
    x_adv, health = programs(args)
    if health is not None:
        _checks.warn(health)
    return _half.narrowed(x_adv, x)


def _call(
    problem: Problem, method: Method, model: Any, loss: Any, unroll: Unroll
) -> Call:
    """What is static of a call."""
    options = tuple(
        (field.name, getattr(problem, field.name))
        for field in dataclasses.fields(problem)
        if field.name not in _OWN
    )
    on_input = isinstance(problem.loss, OnInput)
    shape = (*problem.x.shape, str(problem.x.dtype))
    return Call(model, loss, on_input, method, options, unroll, shape)


def _inputs(
    problem: Problem, x: jax.Array, keys: Key | None
) -> list[jax.ShapeDtypeStruct]:
    """What the model takes."""
    return [_like(x), _like(keys)] if problem.stochastic else [_like(x)]


def _of_loss(problem: Problem, x: jax.Array, y: jax.Array, logits: Any) -> list[Any]:
    """A loss that is a function, and what it takes."""
    if isinstance(problem.loss, OnInput):
        return [problem.loss.fn, _like(x), _like(y)]
    return [problem.loss, jax.eval_shape(losses.comparable, logits), _like(y)]


def _like(array: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _auto_unroll(problem: Problem, method: Method, keys: Key | None) -> int | bool:
    """Writes few steps out where a loop would be slow on CPU."""
    total = method.steps * method.runs()
    if not 1 < total <= _trap.MAX_UNROLL or not _trap.on_cpu():
        return 1

    def first() -> Any:
        return method.step(problem, keys, 0, method.start(problem, keys, 0))

    return True if _trap.has_slow_convolution(jax.make_jaxpr(first)().jaxpr) else 1
