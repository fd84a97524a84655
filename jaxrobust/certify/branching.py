"""Branch and bound: a proof, or a counterexample, for small networks of ReLUs.

Domains fix the signs of inputs of ReLUs; each is bounded by CROWN, with slopes and the
multipliers of what it fixes moved to the best (beta-CROWN, Wang et al. 2021, arXiv
2103.06624, theorem 3.1). Every bound of every step is a proof.
"""

import dataclasses
import functools
import heapq
import itertools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, Float

from jaxrobust import threat
from jaxrobust._checks import check_values
from jaxrobust.array_types import Bounds, Images, Labels, LogitsFn, Norm, PerExample
from jaxrobust.attacks import programs
from jaxrobust.certify import _backwards, _graph, _numbers, _propagate, _regions
from jaxrobust.certify._alone import bind_alone, is_traced
from jaxrobust.certify._graph import Graph, Node

# Domains that are bounded at a time, steps of Adam for each, and its rate.
_AT_A_TIME, _STEPS, _RATE = 32, 60, 0.2
_ON_HOST = (
    "method='bab' decides as it goes: it is not for jax.jit, nor has it derivatives."
)


@dataclasses.dataclass(frozen=True)
class SearchedBall:
    """Where to look; all of it static."""

    norm: Norm
    bounds: Bounds


def margin(
    logits_fn: LogitsFn,
    x: Images,
    y: Labels,
    radii: Array,
    norm: Norm,
    bounds: Bounds,
    seconds: float,
    tolerance: float | None = None,
) -> PerExample:
    """Returns lower bounds `[B]` of margins: `certify.margin(method='bab')`.

    An image is left once its margin is known to be positive, or a point with none is
    found; with a `tolerance`, once the bound is as near to the least margin that was
    seen. `seconds` are for all images together.

    Raises:
      ValueError: for a network without ReLUs to split, one whose logits of a row depend
        on the others, or under `jax.jit`.
    """
    leaves = jax.tree.leaves((logits_fn, x, y, radii, jax.lax.full((), 0.0)))
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        raise ValueError(_ON_HOST)
    check_values(x, bounds)
    x, end = jnp.asarray(x), time.monotonic() + seconds
    if is_traced(held := bind_alone(logits_fn, x)):
        raise ValueError(_ON_HOST)
    found = []
    for i in range(len(x)):
        # What is left is shared by the images that are left.
        share = (end - time.monotonic()) / (len(x) - i)
        search = _Search(held, x[i], int(y[i]), radii[i], SearchedBall(norm, bounds))
        found.append(search.run(time.monotonic() + share, tolerance))
    return jnp.asarray(found, x.dtype)


def _trace(fn: Any, arrays: Any, x: Array) -> Graph:
    return _graph.trace(lambda z: fn(arrays, z[None])[0], x)


def splits(graph: Graph) -> list[Node]:
    """Returns the nodes whose signs decide a ReLU, a leaky one or an absolute value."""
    found = {}
    for node in graph.nodes:
        if node.op in ("leaky_relu", "abs"):
            found[node.inputs[0]] = None
        elif node.op == "max" and len(node.parents) == 1:
            (other,) = (v for v in node.inputs if not isinstance(v, Node))
            if not isinstance(other, Tracer) and np.all(other == 0):
                found[node.parents[0]] = None
    return list(found)


def _bound(
    fn: Any,
    ball: SearchedBall,
    arrays: Any,
    x: Array,
    eps: Array,
    form: Array,
    signs: Array,
) -> tuple[Array, Array, Array]:
    """Bounds one form `[K]` on one domain.

    Returns the bound, a point where it may be attained, and how much each sign that is
    not known is worth `[M]`, 0 for those that are.
    """
    graph = _trace(fn, arrays, x)
    nodes = splits(graph)
    ends = np.cumsum([node.size for node in nodes])[:-1]
    parts = [
        part.reshape(node.shape)
        for part, node in zip(jnp.split(signs, ends), nodes, strict=True)
    ]
    low, high = (jnp.full_like(x, end) for end in ball.bounds)
    region = _regions.make(low, high, x, eps, ball.norm)
    fixed = dict(zip(nodes, parts, strict=True))
    known, planes = _propagate.by_forms(graph, region, None, fixed)
    moved = [node for node in planes if planes[node].other is not None]

    def send(given: Any) -> tuple[Array, Array]:
        weights, multipliers = given
        # f - m s z <= f where s z >= 0.
        added = {
            node: -(m * s)[None]
            for node, m, s in zip(nodes, multipliers, parts, strict=True)
        }
        slopes = {n: w[None] for n, w in zip(moved, weights, strict=True)}
        total, last = _backwards.to_input(
            graph, graph.output, form[None], known, planes, slopes, added
        )
        assert last is not None
        return total[0] + _regions.least(last, region)[0], last

    tx = optax.adam(optax.exponential_decay(_RATE, _STEPS, 0.02))
    start = (
        [jnp.ones(n.shape, n.dtype) for n in moved],
        [jnp.zeros(n.shape, n.dtype) for n in nodes],
    )

    def step(_: int, carry: Any) -> Any:
        given, state, best = carry
        slopes, value = jax.grad(lambda g: (-send(g)[0],) * 2, has_aux=True)(given)
        updates: Any
        updates, state = tx.update(slopes, state)
        weights, multipliers = jax.tree.map(jnp.add, given, updates)
        weights = jax.tree.map(lambda w: jnp.clip(w, 0, 1), weights)
        multipliers = jax.tree.map(lambda m: jnp.maximum(m, 0), multipliers)
        return (weights, multipliers), state, jnp.maximum(best, -value)

    first = (start, tx.init(start), jnp.full((), -jnp.inf, x.dtype))
    given, _, best = jax.lax.fori_loop(0, _STEPS, step, first)
    value, last = send(given)
    # Where a linear form is least is what its least value changes by.
    point = jax.grad(lambda forms: _regions.least(forms, region).sum())(last)[0]
    empty = jnp.any(
        jnp.stack([jnp.any(known[n].lower > known[n].upper) for n in nodes])
    )
    value = jnp.maximum(best, value)
    value = jnp.where(_numbers.read_by(form[None], graph, known)[0], -jnp.inf, value)
    value = jnp.where(empty, jnp.inf, value)
    worth = [_worth(*known[node]) for node in nodes]
    return value, point, jnp.concatenate([one.reshape(-1) for one in worth])


def _worth(low: Array, high: Array) -> Array:
    """Returns the height of the triangle around a ReLU."""
    crossing = (low < 0) & (high > 0)
    return jnp.where(crossing, -low * high / jnp.where(crossing, high - low, 1), 0)


def _bound_all(
    fn: Any,
    ball: SearchedBall,
    arrays: Any,
    x: Array,
    eps: Array,
    forms: Array,
    signs: Array,
) -> tuple[Array, Array, Array]:
    """Bounds domains `[N]`; returns bounds, margins at points and worths."""
    one = functools.partial(_bound, fn, ball, arrays, x, eps)
    values, points, worth = jax.vmap(one)(forms, signs)
    centre = jnp.broadcast_to(x, points.shape)
    radii = jnp.broadcast_to(eps, (len(points), *eps.shape))
    points = threat.project(
        points, centre, eps=radii, norm=ball.norm, bounds=ball.bounds
    )
    logits = jax.vmap(lambda z: fn(arrays, z[None])[0])(points)
    return values, jnp.sum(logits * forms, -1), worth


_compiled = jax.jit(_bound_all, static_argnums=(0, 1))


class _Search:
    """The search for the least margin of one image."""

    def __init__(
        self, held: programs.Captured, x: Array, y: int, eps: Array, ball: SearchedBall
    ):
        graph = _trace(held.fn, held.arrays, x)
        nodes = splits(graph) if isinstance(graph.output, Node) else []
        if not nodes:
            raise ValueError(
                "method='bab' splits ReLUs, and this network has none: use 'crown'."
            )
        classes = graph.output.shape[0]
        eye = np.eye(classes, dtype=x.dtype)
        self.forms = np.delete(eye[y] - eye, y, 0)
        self.size = sum(node.size for node in nodes)
        run = _compiled if held.keep else jax.jit(_bound_all, static_argnums=(0, 1))
        self.bound = functools.partial(run, held.fn, ball, held.arrays, x, eps)
        self.count = itertools.count()
        self.open: list[tuple[float, int, int, Any, int]] = []
        # Of domains that are as small as they can be, and of points.
        self.closed, self.seen = np.inf, np.inf

    def run(self, end: float, tolerance: float | None) -> float:
        """Splits the worst domains until all is known, or time is up."""
        none = np.zeros(self.size, np.int8)
        self._look([(i, none, -np.inf) for i in range(len(self.forms))])
        while self.open and time.monotonic() < end:
            low = self._low()
            if tolerance is None:
                if low > 0 or self.seen <= 0:
                    break
            elif self.seen - low <= tolerance or self.closed <= self.open[0][0]:
                break
            worst = [
                heapq.heappop(self.open)
                for _ in range(min(_AT_A_TIME // 2, len(self.open)))
            ]
            children = []
            for low, _, form, signs, place in worst:
                for sign in (-1, 1):
                    child = signs.copy()
                    child[place] = sign
                    children.append((form, child, low))
            self._look(children)
        return float(self._low())

    def _low(self) -> float:
        return min(self.closed, self.open[0][0] if self.open else np.inf)

    def _look(self, domains: list[tuple[int, Float[np.ndarray, " M"], float]]) -> None:
        """Bounds domains and keeps them, closed where there is nothing to split."""
        for start in range(0, len(domains), _AT_A_TIME):
            part = domains[start : start + _AT_A_TIME]
            padded = part + [part[0]] * (_AT_A_TIME - len(part))
            forms = np.stack([self.forms[form] for form, _, _ in padded])
            signs = np.stack([s for _, s, _ in padded]).astype(forms.dtype)
            values, points, worth = map(np.asarray, self.bound(forms, signs))
            self.seen = min(self.seen, float(points.min()))
            for i, (form, fixed, before) in enumerate(part):
                low = -np.inf if np.isnan(values[i]) else float(values[i])
                low = max(low, before)
                free = np.where(fixed == 0, worth[i], 0)
                place = int(free.argmax())
                if free[place] > 0:
                    item = (low, next(self.count), form, fixed, place)
                    heapq.heappush(self.open, item)
                else:
                    self.closed = min(self.closed, low)
