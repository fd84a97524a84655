"""An attack as programs over rows that are at different steps and runs.

For a scheduler that keeps a fixed number of rows busy: rows never mix, and image,
step and run of a row are data, so any mixture of them is one compiled program.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust._checks import check_classes as check_classes
from jaxrobust._checks import row_keys as row_keys
from jaxrobust.array_types import Images, Key, Labels, Logits, LogitsFn, Scalar
from jaxrobust.attacks import _jaxprs
from jaxrobust.attacks._apgd import Apgd as Apgd
from jaxrobust.attacks._checks import check_examples as check_examples
from jaxrobust.attacks._jit import place, ready
from jaxrobust.attacks._method import Method as Method
from jaxrobust.attacks._method import choose, restart_keys
from jaxrobust.attacks._objective import Keys, Problem, check_logits, fold
from jaxrobust.attacks.fab import FAB as FAB
from jaxrobust.attacks.programs import Captured, abstract, capture
from jaxrobust.attacks.square import Square as Square

Arrays = Sequence[Any]

_QUICKLY: Any = {"xla_backend_optimization_level": 0}


class Rows(NamedTuple):
    """What each of S rows is given."""

    x: Images  # `[S, H, W, C]`
    y: Labels
    keys: Key
    clean: Logits  # of the images
    run: jax.Array  # which restart or target, int32


class Slots(NamedTuple):
    """Where S rows stand."""

    rows: Rows
    step: jax.Array  # steps made, int32 `[S]`
    carry: Any  # of the method
    found: jax.Array  # bool `[S]`, whether the row has succeeded
    x_found: Images  # with which it first did, else the images given


@dataclasses.dataclass(frozen=True)
class Stepper:
    """One attack on one model; `arrays` are the model's (`capture_model`)."""

    model: Captured
    method: Method
    fields: dict[str, Any]  # of the problem, all that is static: norm, loss, bounds ...
    stream: int  # of the attack's own randomness, folded into the rows' keys

    def refill(
        self, arrays: Arrays, eps: Scalar, slots: Slots, rows: Rows, new: jax.Array
    ) -> Slots:
        """Puts rows at their start where `new`, bool `[S]`; the others stay."""
        return choose(new, self.start(arrays, eps, rows), slots)

    def start(self, arrays: Arrays, eps: Scalar, rows: Rows) -> Slots:
        """Makes the first points of all rows."""
        problem = self._problem(arrays, eps, rows)
        keys = self._keys(rows)
        carry = self.method.start(problem, keys, rows.run)
        step = jnp.zeros_like(rows.run)
        return Slots(rows, step, carry, step != 0, rows.x)

    def advance(
        self, arrays: Arrays, eps: Scalar, slots: Slots, count: jax.Array
    ) -> Slots:
        """Makes `count` steps of every row, a traced number."""
        return jax.lax.fori_loop(
            0, count, lambda _, s: self.step(arrays, eps, s), slots
        )

    def step(self, arrays: Arrays, eps: Scalar, slots: Slots) -> Slots:
        """Makes one step of every row; what was found first stays."""
        rows, points = slots.rows, self.method.points
        problem = self._problem(arrays, eps, rows)
        keys = self._keys(rows)
        i = jnp.minimum(slots.step, max(self.method.steps - 1, 0))
        carry = self.method.step(problem, keys, i, slots.carry)
        hit, x_hit = self.method.hit(problem, slots.step, carry)
        new = hit & ~slots.found & (slots.step < points)
        x_found = choose(new, x_hit, slots.x_found)
        return Slots(rows, slots.step + 1, carry, slots.found | new, x_found)

    def reject(
        self, arrays: Arrays, eps: Scalar, slots: Slots, rejected: jax.Array
    ) -> Slots:
        """Takes back what the rows `rejected`, bool `[S]`, have found; they go on.

        Where a row has succeeded again since, that is what it has found.
        """
        problem = self._problem(arrays, eps, slots.rows)
        hit, x_hit = self.method.hit(problem, slots.step - 1, slots.carry)
        other = jnp.any(x_hit != slots.x_found, axis=tuple(range(1, x_hit.ndim)))
        later = rejected & hit & other
        return slots._replace(
            carry=self.method.missed(slots.carry, rejected & ~later),
            found=jnp.where(rejected, later, slots.found),
            x_found=choose(later, x_hit, slots.x_found),
        )

    def strongest(self, arrays: Arrays, eps: Scalar, slots: Slots) -> Images:
        """Returns what comes nearest to success in every row."""
        problem = self._problem(arrays, eps, slots.rows)
        return self.method.strongest(problem, slots.carry)

    def has_slow_step(self, arrays: Arrays, eps: Scalar, slots: Slots) -> bool:
        """Whether steps are to be made from the host: on a CPU, loops are slow."""
        return _jaxprs.slow_in_loop(self.step, arrays, eps, slots)

    def _keys(self, rows: Rows) -> Keys:
        return restart_keys(fold(rows.keys, self.stream), rows.run)

    def _problem(self, arrays: Arrays, eps: Scalar, rows: Rows) -> Problem:
        logits_fn = jax.tree_util.Partial(self.model.fn, list(arrays))
        eps = jnp.asarray(eps, rows.x.dtype)
        fields = self.fields | {"clean": rows.clean, "watch": True}
        problem = Problem(logits_fn, rows.x, rows.y, eps, eps, **fields)
        return ready(problem, self.method)


def capture_model(logits_fn: LogitsFn, x: Any, *, stochastic: bool = False) -> Captured:
    """Traces a model once; its arrays become arguments (`arrays`, `fn(arrays, x)`).

    Args:
      logits_fn: `x -> logits [B, K]`; `(x, keys [B]) -> logits` if stochastic.
      x: images, or their shape and dtype.
      stochastic: whether the model takes keys.

    Raises:
      ValueError: if it does not return logits of rank 2.
    """
    found = capture(logits_fn, *_inputs(x, stochastic))
    check_logits(found.out, x.shape[0])
    return found


def fingerprint(logits_fn: LogitsFn, x: Any, *, stochastic: bool = False) -> str:
    """Names a model by its program, that of its gradient, and its arrays.

    It takes what `capture_model` takes, and says nothing about what a model calls on
    the host (`calls_on_host`).
    """
    model = capture_model(logits_fn, x, stochastic=stochastic)
    digest = hashlib.sha256(_traced(model, x, stochastic).lower().as_text().encode())
    for array in model.arrays:
        digest.update(np.ascontiguousarray(jax.device_get(array)).tobytes())
    return digest.hexdigest()


def calls_on_host(
    logits_fn: LogitsFn, x: Any, *, stochastic: bool = False
) -> tuple[str, ...]:
    """Names what a model, or its gradient, calls on the host: `pure_callback` ...

    It takes what `capture_model` takes. Such a model is more than its program and its
    arrays. Calls that only print or log do not count.
    """
    model = capture_model(logits_fn, x, stochastic=stochastic)
    forward = jax.make_jaxpr(model.fn)(model.arrays, *_inputs(x, stochastic))
    # The forward pass first: what calls the host may have no gradient.
    found = _jaxprs.outside_calls(forward.jaxpr) or _jaxprs.outside_calls(
        _traced(model, x, stochastic).jaxpr.jaxpr
    )
    return tuple(sorted(found))


def _traced(model: Captured, x: Any, stochastic: bool) -> Any:
    """The program of a model and its gradient."""

    def total(z: Any, arrays: Any, *keys: Any) -> jax.Array:
        return jnp.sum(model.fn(arrays, z, *keys))

    images, *keys = _inputs(x, stochastic)
    # Shapes alone, so that the name is the same on any devices.
    shapes = [abstract(array) for array in model.arrays]
    return jax.jit(jax.value_and_grad(total)).trace(images, shapes, *keys)


def _inputs(x: Any, stochastic: bool) -> list[jax.ShapeDtypeStruct]:
    """What a model takes: images, and keys."""
    if not stochastic:
        return [abstract(x)]
    keys = jax.eval_shape(lambda: row_keys(jax.random.key(0), x.shape[0]))
    return [abstract(x), abstract(keys)]


def build(
    function: Any,
    *args: Any,
    model: Captured,
    donate: tuple[int, ...] = (),
    shardings: Any = None,
    seldom: bool = False,
) -> Any:
    """Compiles a function of arrays, or finds the executable of an equal program.

    Equal is the text of the program, and where its arrays lie: a model that was traced
    anew finds what an equal one left, and an executable keeps no model.

    Args:
      function: to compile.
      *args: its arguments, placed as they will be; an abstract value will do.
      model: the captured model that it calls.
      donate: places of arguments whose memory the result may take.
      shardings: of the result; None leaves them open.
      seldom: it runs so seldom that compiling it quickly matters more.
    """
    jitted = jax.jit(
        function, keep_unused=True, donate_argnums=donate, out_shardings=shardings
    )
    traced = jitted.trace(*args)
    lowered = traced.lower()
    options = _QUICKLY if seldom and _jaxprs.on_cpu() else None
    if not model.keep or _jaxprs.outside_calls(traced.jaxpr.jaxpr, harmless=True):
        return lowered.compile(options)
    places = [_placement(array) for array in jax.tree.leaves(args)]
    kind = f"{places}\n{options}\n{lowered.in_tree}\n{lowered.in_avals}"
    text = f"{kind}\n{lowered.out_tree}\n{lowered.as_text()}"
    found = place(hashlib.sha256(text.encode()).hexdigest())
    if not found:
        found.append(lowered.compile(options))
    return found[0]


def _placement(array: Any) -> str:
    """Where an array lies: its sharding and devices."""
    sharding = getattr(array, "sharding", None)
    if sharding is None:
        return ""
    devices = getattr(sharding, "_device_assignment", None)
    return f"{sharding}{devices or sorted(d.id for d in sharding.device_set)}"
