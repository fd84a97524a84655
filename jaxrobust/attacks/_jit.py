"""Eager calls are `jax.jit`: an attack's jitted parts, found by all that is static.

What is an array is an argument, the model's weights too, so nothing is stale, compiled
again for new weights or radii, or kept alive.
"""

import dataclasses
import functools
from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import threat
from jaxrobust.array_types import Images
from jaxrobust.attacks import _jaxprs, _method
from jaxrobust.attacks._method import Best, Health, Method
from jaxrobust.attacks._objective import Keys, Problem, check_logits

# Steps on the host between two looks at whether there is anything left to do.
_LOOK_EVERY = 32


class Programs:
    """The jitted parts of a call: the whole attack, or a loop that runs on the host.

    Compiling and tracing happen when arrays are there; `jax.jit` keeps the rest.
    """

    def __init__(self, problem: Problem, method: Method, keys: Keys):
        inputs = [problem.x, keys] if problem.stochastic else [problem.x]
        out = jax.eval_shape(problem.logits_fn, *inputs)
        check_logits(out, problem.x.shape[0])
        self.classes = out.shape[1]
        self.method = method = method.for_classes(self.classes)
        parts = (_whole, _start, _step, _score)
        jitted = [jax.jit(functools.partial(part, method)) for part in parts]
        self.whole, self.start, self.step, self.score = jitted
        several = method.steps * method.runs() > 1
        # None until a program has been looked at.
        self._slow = None if several and problem.unroll is None else False

    def __call__(self, problem: Problem, keys: Keys) -> tuple[Images, Health | None]:
        """Runs the attack."""
        if self._slow is None:
            self._slow = _jaxprs.on_cpu() and _jaxprs.has_slow_convolution(
                self.whole.trace(problem, keys).jaxpr.jaxpr
            )
        return (self._stepped if self._slow else self.whole)(problem, keys)

    def _stepped(self, problem: Problem, keys: Keys) -> tuple[Images, Health | None]:
        """The loop on the host: within a program its convolutions would be slow."""
        best = None
        for r in map(np.int32, range(self.method.runs())):
            carry = self.start(problem, keys, r)
            for i in range(self.method.steps):
                carry = self.step(problem, keys, r, np.int32(i), carry)
                rows = None if i % _LOOK_EVERY else self.method.done(carry)
                if rows is not None and bool(jnp.all(rows)):
                    break
            new = self.score(problem, keys, r, carry)
            best = new if best is None else _merge(best, new)
        assert best is not None
        return best.x, best.health


def programs(problem: Problem, method: Method, keys: Keys, *, keep: bool) -> Programs:
    """Returns those of an equal call, if they are among the last used."""
    key = jax.tree.structure(problem), method, problem.x.shape, str(problem.x.dtype)
    try:
        found = place(*key) if keep else []
    except TypeError:  # a field of the method that cannot be hashed
        found = []
    if not found:
        found.append(Programs(problem, method, keys))
    return found[0]


@functools.lru_cache(maxsize=128)
def place(*key: Hashable) -> list[Any]:
    """A place for what was compiled for a key: the cache sees no arrays."""
    return []


def ready(problem: Problem, method: Method) -> Problem:
    """The problem as methods take it: radii no larger than the box, in float32.

    Of images of half precision the model is asked about what will be returned: rounded
    towards the clean ones, so that they are in the ball. The gradient passes by the
    rounding.
    """
    x = problem.x
    if method.ball:
        eps = threat.capped(problem.eps, x, problem.norm, problem.bounds)
        problem = dataclasses.replace(problem, eps=eps)
    start, dtype = problem.x_init, threat.wide_dtype(x.dtype)
    if x.dtype == dtype:
        return problem

    def rounded(z: Images) -> Images:
        fixed = jax.lax.stop_gradient(z)
        return threat.towards(fixed, x) + (z - fixed).astype(x.dtype)

    return dataclasses.replace(
        problem.seen(rounded),
        x=x.astype(dtype),
        x_init=None if start is None else jnp.asarray(start).astype(dtype),
    )


def narrowed(result: Any, x: Images) -> Any:
    """Images of a result in the dtype of the clean ones; see `ready`."""
    if x.dtype == threat.wide_dtype(x.dtype):
        return result
    return jax.tree.map(
        lambda leaf: threat.towards(leaf, x) if leaf.shape == x.shape else leaf, result
    )


def _whole(
    method: Method, problem: Problem, keys: Keys
) -> tuple[Images, Health | None]:
    unroll = 1 if problem.unroll is None else problem.unroll
    return _method.run(ready(problem, method), method, keys, unroll=unroll)


def _start(method: Method, problem: Problem, keys: Keys, r: jax.Array) -> Any:
    return method.start(ready(problem, method), _method.restart_keys(keys, r), r)


def _step(
    method: Method, problem: Problem, keys: Keys, r: Any, i: Any, carry: Any
) -> Any:
    row_keys = _method.restart_keys(keys, r)
    return method.step(ready(problem, method), row_keys, i, carry)


def _score(method: Method, problem: Problem, keys: Keys, r: Any, carry: Any) -> Best:
    rows, problem = problem.x.shape[0], ready(problem, method)
    if method.runs() > 1:
        return _method.score(problem, method, keys, r, carry)
    x = method.finish(problem, keys, carry)
    return Best(x, jnp.zeros(rows), jnp.zeros(rows, bool), carry.health)


_merge = jax.jit(_method.merge)
