"""Eager calls are `jax.jit`: an attack's jitted parts, found by all that is static.

What is an array is an argument, the model's weights too, so nothing is stale, compiled
again for new weights or radii, or kept alive.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import threat
from jaxrobust.array_types import Images, Key, Scalar
from jaxrobust.attacks import _half, _method, _trap
from jaxrobust.attacks._method import Best, Health, Method
from jaxrobust.attacks._objective import OnInput, Problem, check_logits
from jaxrobust.attacks._programs import Fixed, Traced

Unroll = int | bool | None
# Steps on the host between two looks at whether there is anything left to do.
_LOOK_EVERY = 32


class Arguments(NamedTuple):
    """All arrays of one call."""

    model: list[Any]
    loss: list[Any]
    x: Images
    y: jax.Array
    keys: Key | None
    eps: Scalar
    step_size: Scalar
    x_init: Images | None


@dataclasses.dataclass(frozen=True)
class Call:
    """All that is static of one call; equal ones run one jitted attack.

    Attributes:
      model: without its arrays.
      loss: a name, or a function without its arrays.
      on_input: whether the loss is of the images.
      method: the attack.
      options: the other fields of the problem.
      unroll: how its loop is written out; None chooses.
      shape: of the images, and their dtype.
    """

    model: Fixed | Traced
    loss: str | Fixed | Traced
    on_input: bool
    method: Method
    options: tuple[tuple[str, Any], ...]
    unroll: Unroll
    shape: tuple[Any, ...]

    def problem(self, args: Arguments) -> Problem:
        """The problem with these arrays."""
        loss: Any = self.loss
        if not isinstance(loss, str):
            loss = jax.tree_util.Partial(loss, args.loss)
            loss = OnInput(loss) if self.on_input else loss
        problem = Problem(
            jax.tree_util.Partial(self.model, args.model),
            args.x,
            args.y,
            args.eps,
            args.step_size,
            loss=loss,
            x_init=args.x_init,
            **dict(self.options),
        )
        if self.method.ball:
            norm, bounds = problem.norm, problem.bounds
            eps = threat.capped(args.eps, args.x, norm, bounds)
            problem = dataclasses.replace(problem, eps=eps)
        return _half.widened(problem)


class Programs:
    """The jitted parts of a call: the whole attack, or a loop that runs on the host.

    Compiling and tracing happen when arrays are there; `jax.jit` keeps the rest.
    """

    def __init__(self, call: Call, args: Arguments):
        inputs = [args.x] if args.keys is None else [args.x, args.keys]
        stochastic = dict(call.options)["stochastic"]
        out = jax.eval_shape(call.model, args.model, *inputs[: 1 + stochastic])
        check_logits(out, args.x.shape[0])
        self.classes = out.shape[1]
        self.method = method = call.method.for_classes(self.classes)
        self.whole = jax.jit(functools.partial(_whole, call, method))
        self.start = jax.jit(functools.partial(_start, call, method))
        self.step = jax.jit(functools.partial(_step, call, method))
        self.score = jax.jit(functools.partial(_score, call, method))
        several = method.steps * method.runs() > 1
        self._may_be_slow = call.unroll is None and several
        self._slow: bool | None = None

    def __call__(self, args: Arguments) -> tuple[Images, Health | None]:
        """Runs the attack."""
        if self._slow is None:
            self._slow = (
                self._may_be_slow
                and _trap.on_cpu()
                and _trap.has_slow_convolution(self.whole.trace(args).jaxpr.jaxpr)
            )
        return self._stepped(args) if self._slow else self.whole(args)

    def _stepped(self, args: Arguments) -> tuple[Images, Health | None]:
        """The loop on the host: within a program its convolutions would be slow."""
        best = None
        for r in map(np.int32, range(self.method.runs())):
            carry = self.start(args, r)
            for i in range(self.method.steps):
                carry = self.step(args, r, np.int32(i), carry)
                rows = None if i % _LOOK_EVERY else self.method.done(carry)
                if rows is not None and bool(jnp.all(rows)):
                    break
            new = self.score(args, r, carry)
            best = new if best is None else _merge(best, new)
        assert best is not None
        return best.x, best.health


def programs(call: Call, args: Arguments, *, keep: bool) -> Programs:
    """Returns those of an equal call, if they are among the last used."""
    if not keep:
        return Programs(call, args)
    try:
        found = _known(call)
    except TypeError:  # a field that cannot be hashed
        return Programs(call, args)
    if not found:
        found.append(Programs(call, args))
    return found[0]


@functools.lru_cache(maxsize=64)
def _known(call: Call) -> list[Programs]:
    """A place for the programs of equal calls: the cache sees no arrays."""
    del call
    return []


def _whole(call: Call, method: Method, args: Arguments) -> tuple[Images, Health | None]:
    unroll = 1 if call.unroll is None else call.unroll
    problem = call.problem(args)
    return _method.run(problem, method, args.keys, unroll=unroll, watch=True)


def _start(call: Call, method: Method, args: Arguments, r: jax.Array) -> Any:
    keys = _method.restart_keys(args.keys, r)
    return method.start(call.problem(args), keys, r, watch=True)


def _step(
    call: Call, method: Method, args: Arguments, r: Any, i: Any, carry: Any
) -> Any:
    keys = _method.restart_keys(args.keys, r)
    return method.step(call.problem(args), keys, i, carry)


def _score(call: Call, method: Method, args: Arguments, r: Any, carry: Any) -> Best:
    if method.runs() > 1:
        return _method.score(call.problem(args), method, args.keys, r, carry)
    x = method.finish(call.problem(args), args.keys, carry)
    rows = args.x.shape[0]
    return Best(x, jnp.zeros(rows), jnp.zeros(rows, bool), carry.health)


_merge = jax.jit(_method.merge)
