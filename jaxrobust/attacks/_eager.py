"""Between the public attacks and their pure cores.

Inside a caller's transformation an attack is its pure core. Called eagerly it checks
values, compiles once per shape, and warns. An executable takes everything that is an
array as an argument, so it is never stale and keeps no model alive.
"""

import dataclasses
from collections.abc import Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxrobust import losses, threat
from jaxrobust.array_types import Images, Key, Scalar
from jaxrobust.attacks import _capture, _checks, _compile, _method, _trap
from jaxrobust.attacks._method import Best, Health, Method
from jaxrobust.attacks._objective import OnInput, Problem, check_logits

Unroll = int | bool | None
# Steps on the host between two looks at whether there is anything left to do.
_LOOK_EVERY = 32
_ARRAYS = ("logits_fn", "x", "y", "eps", "step_size", "x_init", "clean")


class Arguments(NamedTuple):
    """All arrays of one call: what a compiled attack takes."""

    model: list[Any]
    loss: list[Any]
    x: jax.Array
    y: jax.Array
    keys: Key | None
    eps: Scalar
    step_size: Scalar
    x_init: Images | None


class Stages(NamedTuple):
    """Programs of a loop that runs on the host; `done` is None where it never ends."""

    start: Any
    step: Any
    score: Any
    done: Any


class Plan(NamedTuple):
    """How to run calls of one kind. Holds executables, no model and no weights."""

    whole: Any
    stages: Stages | None
    constants: list[Any]
    classes: int
    method: Method


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
    return jax.lax.stop_gradient(_narrowed(x_adv, clean))


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
    model, loss = _capture_all(problem, x, y, keys)
    _checks.check_classes(problem.y, model.out.shape[1])
    arrays = jax.lax.stop_gradient((model.arrays, loss.arrays if loss else []))
    args = Arguments(*arrays, x, y, keys, eps, step_size, x_init)
    return _rebuild(problem, method, model, loss, args), model.out.shape[1]


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


def _eager(
    problem: Problem, method: Method, keys: Key | None, unroll: Unroll
) -> Images | None:
    """Runs one eager call; None where a callable turns out to hold tracers."""
    x, y = jnp.asarray(problem.x), _labels(problem.y)
    dtype = threat.wide_dtype(x.dtype)
    eps = jnp.asarray(problem.eps, dtype)
    step_size = jnp.asarray(problem.step_size, dtype)
    _checks.check_values(x, problem.bounds)
    args = Arguments([], [], x, y, keys, eps, step_size, problem.x_init)
    named = _name(problem, method, args, unroll)
    plans, name = named if named else ({}, None)
    plan = plans.get(name)
    if plan is not None:
        _checks.check_classes(problem.y, plan.classes)
        _, leaves = _capture.split(problem.logits_fn)
        args = args._replace(model=[*leaves, *plan.constants])
    else:
        prepared = _prepare(problem, method, args, unroll)
        if prepared is None:
            return None
        plan, args, reusable = prepared
        if name is not None and reusable:
            plans[name] = plan
    x_adv, health = _execute(plan, args)
    if health is not None:
        _checks.warn(health)
    return _narrowed(x_adv, x)


def _name(
    problem: Problem, method: Method, args: Arguments, unroll: Unroll
) -> tuple[dict[Hashable, Any], Hashable] | None:
    """Finds where the plan of this call lives: with its Linen module, if it has one."""
    fn = problem.logits_fn
    if not isinstance(fn, jax.tree_util.Partial) or not isinstance(problem.loss, str):
        return None
    split = _compile.owner(fn.func)
    if split is None:
        return None
    model, rest = split
    leaves, tree = jax.tree.flatten((fn.args, fn.keywords))
    arrays = [leaf for leaf in leaves if _capture.is_array(leaf)]
    scalars = tuple(None if _capture.is_array(v) else (type(v), v) for v in leaves)
    static = tuple(
        (field.name, getattr(problem, field.name))
        for field in dataclasses.fields(problem)
        if field.name not in _ARRAYS
    )
    inputs = jax.tree.leaves(args)
    name = (rest, tree, scalars, static, method, unroll)
    name = (*name, _compile.signature([*arrays, *inputs]))
    try:
        hash(name)
        return _compile.plans.setdefault(model, {}), name
    except TypeError:  # a field that cannot be hashed: trace every time
        return None


def _prepare(
    problem: Problem, method: Method, args: Arguments, unroll: Unroll
) -> tuple[Plan, Arguments, bool] | None:
    """Traces the callables once and compiles, or finds, what runs them."""
    model, loss = _capture_all(problem, args.x, args.y, args.keys)
    _checks.check_classes(problem.y, model.out.shape[1])
    captured = [model] if loss is None else [model, loss]
    held = [array for part in captured for array in part.arrays]
    if any(isinstance(array, Tracer) for array in held):
        return None
    args = args._replace(model=model.arrays, loss=[] if loss is None else loss.arrays)

    def rebuild(given: Arguments) -> Problem:
        return _rebuild(problem, method, model, loss, given)

    keep = not any(part.embedded for part in captured)
    method = method.for_classes(model.out.shape[1])
    whole, stages = _compile_plan(rebuild, method, args, unroll, keep)
    constants = model.arrays[model.leaves :]
    reusable = keep and sum(np.size(c) for c in constants) < 1 << 16
    plan = Plan(whole, stages, constants, model.out.shape[1], method)
    return plan, args, reusable


def _capture_all(
    problem: Problem, x: jax.Array, y: jax.Array, keys: Key | None
) -> tuple[_capture.Captured, _capture.Captured | None]:
    """Traces the model, and a loss that is a function, once each."""

    def like(array: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(array.shape, array.dtype)

    inputs = [like(x), like(keys)] if problem.stochastic else [like(x)]
    model = _capture.capture(problem.logits_fn, *inputs)
    check_logits(model.out, x.shape[0])
    if isinstance(problem.loss, str):
        return model, None
    if isinstance(problem.loss, OnInput):
        return model, _capture.capture(problem.loss.fn, like(x), like(y))
    logits = jax.eval_shape(losses.comparable, model.out)
    return model, _capture.capture(problem.loss, logits, like(y))


def _rebuild(
    problem: Problem,
    method: Method,
    model: _capture.Captured,
    loss: _capture.Captured | None,
    args: Arguments,
) -> Problem:
    """The problem with its callables replaced by captured ones of `args`."""
    own: Any = problem.loss
    if loss is not None:
        own = jax.tree_util.Partial(loss.fn, args.loss)
        own = OnInput(own) if isinstance(problem.loss, OnInput) else own
    eps = args.eps
    if method.ball:
        eps = threat.capped(eps, args.x, problem.norm, problem.bounds)
    return _widened(
        dataclasses.replace(
            problem,
            logits_fn=jax.tree_util.Partial(model.fn, args.model),
            loss=own,
            x=args.x,
            y=args.y,
            eps=eps,
            step_size=args.step_size,
            x_init=args.x_init,
        )
    )


def _widened(problem: Problem) -> Problem:
    """The problem in float32 where images have half precision.

    The model is asked about images as they will be returned: rounded towards the clean
    ones, so that they are in the ball. The gradient passes by the rounding.
    """
    x, logits_fn, loss, start = (
        problem.x,
        problem.logits_fn,
        problem.loss,
        problem.x_init,
    )
    dtype = threat.wide_dtype(x.dtype)
    if x.dtype == dtype:
        return problem

    def rounded(z: Images) -> Images:
        fixed = jax.lax.stop_gradient(z)
        return threat.towards(fixed, x) + (z - fixed).astype(x.dtype)

    if isinstance(loss, OnInput):
        own = loss.fn
        loss = OnInput(lambda z, y: own(rounded(z), y))
    return dataclasses.replace(
        problem,
        logits_fn=lambda z, *keys: logits_fn(rounded(z), *keys),
        loss=loss,
        x=x.astype(dtype),
        x_init=None if start is None else jnp.asarray(start).astype(dtype),
    )


def _narrowed(result: Any, x: Images) -> Any:
    """Images of a result in the dtype of the clean ones; see `_widened`."""
    if x.dtype == threat.wide_dtype(x.dtype):
        return result
    return jax.tree.map(
        lambda leaf: threat.towards(leaf, x) if leaf.shape == x.shape else leaf, result
    )


def _compile_plan(
    rebuild: Any, method: Method, args: Arguments, unroll: Unroll, keep: bool
) -> tuple[Any, Stages | None]:
    def whole(given: Arguments) -> tuple[Images, Health | None]:
        return _method.run(
            rebuild(given),
            method,
            given.keys,
            unroll=1 if unroll is None else unroll,
            watch=True,
        )

    traced = _compile.trace(whole, args)
    slow = unroll is None and _trap.on_cpu() and method.steps * method.runs() > 1
    if slow and _trap.has_slow_convolution(traced.jaxpr.jaxpr):
        return None, _compile_stages(rebuild, method, args, keep)
    return _compile.build(traced, args, keep=keep), None


def _compile_stages(
    rebuild: Any, method: Method, args: Arguments, keep: bool
) -> Stages:
    """Compiles start, one step and the score, for a loop that runs on the host."""

    def start(given: Arguments, r: jax.Array) -> Any:
        keys = _method.restart_keys(given.keys, r)
        return method.start(rebuild(given), keys, r, watch=True)

    def step(given: Arguments, r: jax.Array, i: jax.Array, carry: Any) -> Any:
        keys = _method.restart_keys(given.keys, r)
        return method.step(rebuild(given), keys, i, carry)

    def score(given: Arguments, r: jax.Array, carry: Any) -> Best:
        if method.runs() > 1:
            return _method.score(rebuild(given), method, given.keys, r, carry)
        x = method.finish(rebuild(given), given.keys, carry)
        rows = given.x.shape[0]
        return Best(x, jnp.zeros(rows), jnp.zeros(rows, bool), carry.health)

    def build(function: Any, *given: Any) -> Any:
        return _compile.build(_compile.trace(function, *given), *given, keep=keep)

    zero = np.int32(0)
    first = build(start, args, zero)
    carry = first(args, zero)

    def all_done(carry: Any) -> jax.Array | None:
        rows = method.done(carry)
        return None if rows is None else jnp.all(rows)

    done = None if method.done(carry) is None else build(all_done, carry)
    return Stages(
        first,
        build(step, args, zero, zero, carry),
        build(score, args, zero, carry),
        done,
    )


def _execute(plan: Plan, args: Arguments) -> tuple[Images, Health | None]:
    if plan.stages is None:
        return plan.whole(args)
    start, step, score, done = plan.stages
    method, best = plan.method, None
    for r in range(method.runs()):
        carry = start(args, np.int32(r))
        places = jax.tree.map(lambda leaf: leaf.sharding, carry)
        for i in range(method.steps):
            carry = step(args, np.int32(r), np.int32(i), carry)
            carry = jax.device_put(carry, places)
            if done is not None and i % _LOOK_EVERY == 0 and done(carry):
                break
        new = score(args, np.int32(r), carry)
        best = new if best is None else _merge(best, new)
    assert best is not None
    return best.x, best.health


_merge = jax.jit(_method.merge)


def _auto_unroll(problem: Problem, method: Method, keys: Key | None) -> int | bool:
    """Writes few steps out where a loop would be slow on CPU."""
    total = method.steps * method.runs()
    if not 1 < total <= _trap.MAX_UNROLL or not _trap.on_cpu():
        return 1

    def first() -> Any:
        return method.step(problem, keys, 0, method.start(problem, keys, 0))

    return True if _trap.has_slow_convolution(jax.make_jaxpr(first)().jaxpr) else 1
