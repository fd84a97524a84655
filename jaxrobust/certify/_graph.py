"""A function as a graph of primitives: its jaxpr, written out."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import Literal
from jaxtyping import Array

from jaxrobust import _conv
from jaxrobust._shards import varied_alike

_HERE = __file__.rpartition("/")[0]
_NOWHERE = "the function that was given"


class Unsupported(ValueError):
    """A function has a primitive for which there is no rule of bounds.

    Attributes:
      primitive: its name, with why it is not supported where that is not all.
      source: file and line that it comes from.
    """

    def __init__(self, primitive: str, source: str):
        self.primitive, self.source = primitive, source
        super().__init__(
            f"there is no rule of bounds for the primitive {primitive}, at {source}: "
            "write it with others; the tables of jaxrobust.certify have those known."
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """One array that depends on the input.

    Attributes:
      op: name of the primitive, or of the rule, that makes it.
      inputs: nodes and arrays.
      shape: of the array.
      dtype: of the array.
      apply: the same operation, of arrays in place of all `inputs`.
      params: of the primitive.
    """

    op: str
    inputs: tuple[Any, ...]
    shape: tuple[int, ...]
    dtype: Any
    apply: Callable[..., Array]
    params: Mapping[str, Any]

    @property
    def size(self) -> int:
        """How many numbers the array holds."""
        return int(np.prod(self.shape, dtype=int))

    @property
    def parents(self) -> tuple["Node", ...]:
        """Returns the inputs that are nodes."""
        return tuple(one for one in self.inputs if isinstance(one, Node))


@dataclasses.dataclass(frozen=True)
class Graph:
    """What `trace` returns: nodes in the order of computation.

    `output` is an array where the function does not depend on its input. `assumed` are
    nodes that were taken for numbers, where the function asks whether they are.
    """

    input: Node
    output: Any
    nodes: tuple[Node, ...]
    assumed: tuple[Node, ...] = ()


def assume_finite(node: Node) -> None:
    """Notes in a graph that is being traced that a node is taken for finite numbers."""
    source = node
    while source.parents:
        source = source.parents[0]
    source.params["assumed"].append(node)


@dataclasses.dataclass(frozen=True)
class Platforms:
    """The index of the branch for this platform; see `jax.lax.platform_dependent`."""

    platforms: Sequence[Any]

    def choose(self, branches: Sequence[Any]) -> Any:
        """Returns the branch for any platform, which computes what the others do."""
        for names, branch in zip(self.platforms, branches, strict=True):
            if names is None:
                return branch
        return branches[-1]


def trace(fn: Callable[[Array], Array], x: Any) -> Graph:
    """Traces a function of one array like `x`.

    Raises:
      Unsupported: for a primitive without a rule; names it and its line.
      TypeError: unless the function returns one floating array.
    """
    closed, out = jax.make_jaxpr(lambda z: fn(z), return_shape=True)(
        jax.ShapeDtypeStruct(x.shape, x.dtype)
    )
    if not hasattr(out, "dtype") or not jax.numpy.issubdtype(
        out.dtype, jax.numpy.floating
    ):
        raise TypeError(f"`fn` must return one floating array, got {out}.")
    notes: list[Node] = []
    source = Node("input", (), x.shape, x.dtype, lambda: x, {"assumed": notes})
    (output,) = evaluate(closed.jaxpr, closed.consts, [source])
    assumed = tuple(dict.fromkeys(notes))
    if output is source:
        output = Node("copy", (source,), x.shape, x.dtype, lambda z: z, {})
    if not isinstance(output, Node) and assumed:
        # It depends on the input by what was assumed of it alone.
        (output,) = _with_zero(output, source)
    return Graph(source, output, _in_order(output, *assumed), assumed)


def _with_zero(output: Any, source: Node) -> list[Any]:
    """Returns an array as a node: added to 0 times the input."""
    return apply(lambda y, z: y + 0 * jnp.sum(z), jnp.asarray(output), source)


def _in_order(*outputs: Any) -> tuple[Node, ...]:
    """Returns all nodes that values are computed from, each after its inputs."""
    found: dict[int, Node] = {}
    stack = [(one, False) for one in reversed(outputs) if isinstance(one, Node)]
    while stack:
        node, ready = stack.pop()
        if id(node) in found:
            continue
        if ready:
            found[id(node)] = node
        else:
            stack.append((node, True))
            stack += [(parent, False) for parent in reversed(node.parents)]
    return tuple(found.values())


def apply(fn: Callable[..., Any], *values: Any) -> list[Any]:
    """Traces `fn` at values, nodes among them; returns what it returns as a list."""
    like = [jax.ShapeDtypeStruct(np.shape(one), one.dtype) for one in values]
    closed = jax.make_jaxpr(fn)(*like)
    return evaluate(closed.jaxpr, closed.consts, values)


def evaluate(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    """Computes a jaxpr at values: arrays where it can, else nodes."""
    env: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))
    for eqn in jaxpr.eqns:
        values = [_read(env, atom) for atom in eqn.invars]
        env.update(zip(eqn.outvars, _equation(eqn, values), strict=True))
    return [_read(env, atom) for atom in jaxpr.outvars]


def _read(env: Mapping[Any, Any], atom: Any) -> Any:
    if isinstance(atom, Literal):
        return np.asarray(atom.val, atom.aval.dtype)  # pyright: ignore[reportAttributeAccessIssue]
    return env[atom]


def holds(value: Any, number: float) -> bool:
    """Whether a value is a constant that is this number everywhere."""
    if isinstance(value, Node | Tracer | Platforms):
        return False
    array = np.asarray(value)
    return bool(array.size) and bool((array == number).all())


def _equation(eqn: Any, values: Sequence[Any]) -> Sequence[Any]:
    """Computes one equation; of an error without a line it says where it is."""
    try:
        return _outputs(eqn, values)
    except Unsupported as error:
        if error.source != _NOWHERE:
            raise
        raise Unsupported(error.primitive, where(eqn)) from None


def _outputs(eqn: Any, values: Sequence[Any]) -> Sequence[Any]:
    """Computes an equation: by itself, by others, or as a node."""
    from jaxrobust.certify import _rewrites  # it asks for `apply`

    name = eqn.primitive.name
    if name == "platform_index":
        return [Platforms(eqn.params["platforms"])]
    values = _rewrites.aligned(eqn, values)
    written = _rewrites.rewrite(eqn, values)
    if written is not None:
        return written
    if (inner := inner_jaxpr(eqn)) is not None:
        return evaluate(inner.jaxpr, inner.consts, values)
    if name == "cond":
        branch = _branch(eqn, values[0])
        return evaluate(branch.jaxpr, branch.consts, values[1:])
    if not any(isinstance(one, Node) for one in values):
        return _compute(eqn, values)
    return [make(eqn, values)]


def _compute(eqn: Any, values: Sequence[Any]) -> Sequence[Any]:
    """Computes an equation of arrays; at once if they are known, traced or not."""
    params = eqn.primitive.get_bind_params(eqn.params)
    known = not any(isinstance(one, Tracer) for one in values)
    now = jax.ensure_compile_time_eval() if known else contextlib.nullcontext()
    with now, eqn.ctx.manager:
        out = eqn.primitive.bind(*varied_alike(tuple(values)), **params)
    return out if eqn.primitive.multiple_results else [out]


# Calls that are computed by their inner jaxpr.
_CALLS = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "remat2")
_CALLS += ("custom_vjp_call", "custom_vjp_call_jaxpr", "checkpoint", "remat")


class Inner:
    """A jaxpr and its constants."""

    def __init__(self, jaxpr: Any):
        self.jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
        self.consts = getattr(jaxpr, "consts", ())


def inner_jaxpr(eqn: Any) -> Inner | None:
    """Returns what a call computes; None for what is no call."""
    if eqn.primitive.name not in _CALLS:
        return None
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if name in eqn.params:
            return Inner(eqn.params[name])
    raise unsupported(eqn, "a call of unknown form")


def _branch(eqn: Any, index: Any) -> Inner:
    """Returns the branch that `cond` takes."""
    branches = eqn.params["branches"]
    if isinstance(index, Platforms):
        return Inner(index.choose(branches))
    if isinstance(index, Node | Tracer):
        raise unsupported(eqn, "its branch depends on a value that is not known")
    return Inner(branches[int(np.clip(index, 0, len(branches) - 1))])


def make(eqn: Any, values: Sequence[Any]) -> Node:
    """Makes the node of an equation; raises `Unsupported` if there is no rule."""
    from jaxrobust.certify import _affine, _nonlinear  # they know nodes

    name, (out,) = eqn.primitive.name, eqn.outvars[:1]
    params = eqn.primitive.get_bind_params(eqn.params)

    plain = functools.partial(eqn.primitive.bind, **params)
    if name == "conv_general_dilated":
        plain = _conv.with_derivatives_of(plain, params)

    def bind(*arrays: Array) -> Array:
        return plain(*varied_alike(arrays))

    node = Node(name, tuple(values), out.aval.shape, out.aval.dtype, bind, params)
    if len(eqn.outvars) > 1 or not (
        _affine.is_affine(node) or _nonlinear.is_known(node)
    ):
        raise _unsupported_node(eqn, node)
    return node


def _unsupported_node(eqn: Any, node: Node) -> Unsupported:
    """Names a comparison of the input rather than what is made of it."""
    for one in node.parents:
        if one.dtype == bool:
            return Unsupported(f"'{one.op}' (of the input)", where(eqn))
    return unsupported(eqn)


def new(op: str, inputs: Sequence[Any], like: Any, **params: Any) -> Node:
    """Makes a node of a rule of NONLINEAR, shaped `like` an array or a variable."""
    aval = getattr(like, "aval", like)

    def missing(*arrays: Array) -> Array:
        raise NotImplementedError(op)

    return Node(op, tuple(inputs), tuple(aval.shape), aval.dtype, missing, params)


def unsupported(eqn: Any, why: str = "") -> Unsupported:
    """Returns the error that names a primitive and its line."""
    because = f" ({why})" if why else ""
    return Unsupported(f"'{eqn.primitive.name}'{because}", where(eqn))


def where(eqn: Any) -> str:
    """Says the line an equation comes from, outside of JAX and Flax if there is one."""
    found = getattr(eqn.source_info, "traceback", None)
    frames = found.frames if found is not None else []
    foreign = ("/jax/", "/flax/", "/attacks/programs.py", _HERE, "<frozen", "/equinox/")
    for frame in frames:
        if not any(part in frame.file_name for part in foreign):
            name = frame.file_name.rpartition("/")[2]
            return f"{name}:{frame.line_num} ({frame.function_name})"
    return _NOWHERE
