"""NNX modules as Linen modules. Only `to_linen` loads this, where it is needed."""

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from jaxrobust.array_types import Images, Key
from jaxrobust.models._outputs import Outputs

Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Structure:
    """An NNX module without its arrays; equal for equal structures.

    Attributes:
      structure: all but the variables.
      variables: shapes of their values.
      make: `key -> module`, with its first weights.
      name: of its class.
      takes_train: whether `train` is an argument of its `__call__`.
    """

    structure: nnx.GraphDef
    variables: nnx.State = dataclasses.field(compare=False)
    make: Callable[[Key], nnx.Module] = dataclasses.field(compare=False)
    name: str
    takes_train: bool

    def leaves(self) -> Iterator[tuple[Any, str, Path, Any]]:
        """Yields path, collection, path by strings and variable of each array."""
        for path, variable in nnx.to_flat_state(self.variables):
            yield path, _collection(variable), tuple(map(str, path)), variable


class FromNNX(nn.Module):
    """A network of NNX as a Linen module, see `to_linen`."""

    network: _Structure

    @nn.compact
    def __call__(self, images: Images, *, train: bool = False) -> Outputs | Array:
        """Maps images `[B, H, W, C]` to what the network returns."""
        if self.is_initializing():
            module = self.network.make(self.make_rng("params"))
            self._store(module)
        else:
            module = self._load()
        (module.train if train else module.eval)()
        options = {"train": train} if self.network.takes_train else {}
        out = module(images, **options)  # pyright: ignore[reportCallIssue]
        if not self.is_initializing():
            self._store(module)
        return out

    def _load(self) -> Any:
        """Returns the module with the variables of this call."""
        key = self.make_rng("dropout") if self.has_rng("dropout") else jax.random.key(0)
        given = flax.traverse_util.flatten_dict(self.variables)
        values = []
        for number, leaf in enumerate(self.network.leaves()):
            path, collection, name, variable = leaf
            if isinstance(variable, nnx.RngCount):
                value = jnp.zeros(variable.shape, variable.dtype)
            elif isinstance(variable, nnx.RngKey):
                own = jax.random.fold_in(key, number)
                value = jax.random.split(own, variable.shape) if variable.shape else own
            else:
                value = given.get((collection, *name))
                self._check(f"{collection}/{'/'.join(name)}", value, variable.shape)
            filled = isinstance(variable, nnx.Variable)
            values.append((path, variable.replace(value) if filled else value))
        return nnx.merge(self.network.structure, nnx.from_flat_state(values))

    def _check(self, name: str, value: Any, shape: tuple[int, ...]) -> None:
        if value is None or value.shape != shape:
            found = "not there" if value is None else f"{value.shape}"
            raise ValueError(
                f"the variables are not of this {self.network.name}: {name} must be "
                f"{shape} and is {found}."
            )

    def _store(self, module: nnx.Module) -> None:
        """Writes the module's variables to the collections that may change."""
        found = dict(nnx.to_flat_state(nnx.state(module)))
        changed: dict[Path, Any] = {}
        for path, collection, name, variable in self.network.leaves():
            is_random = isinstance(variable, nnx.RngState)
            if not is_random and self.is_mutable_collection(collection):
                changed[collection, *name] = jnp.asarray(found[path])
        for collection, tree in flax.traverse_util.unflatten_dict(changed).items():
            for name, value in tree.items():
                self.put_variable(collection, name, value)


def _collection(variable: Any) -> str:
    """Returns the name of a variable's collection: that of its kind."""
    if isinstance(variable, nnx.Param):
        return "params"
    if isinstance(variable, nnx.BatchStat):
        return "batch_stats"
    return type(variable).__name__ if isinstance(variable, nnx.Variable) else "arrays"


def wrap(build: Callable[..., Any], fields: Mapping[str, Any], made: Any) -> nn.Module:
    """Returns the Linen module of an NNX one, see `to_linen`.

    `made` is what `build(**fields)` returned, None where it takes `rngs`, too.
    """

    def make(key: Key) -> nnx.Module:
        if made is None:
            return build(**fields, rngs=nnx.Rngs(key))
        with jax.ensure_compile_time_eval():  # its own weights, whatever is traced
            return build(**fields)

    shapes = made
    if made is None:
        shapes = nnx.eval_shape(lambda: build(**fields, rngs=nnx.Rngs(0)))
    if not (isinstance(shapes, nnx.Module) and callable(shapes)):
        raise TypeError(
            "the function that builds a network must return a Linen module or an NNX "
            f"module with `__call__`, got {type(shapes).__name__}. (A bare function to "
            "logits is attacked by `python -m jaxrobust.evaluation`.)"
        )
    structure, variables = nnx.split(shapes)
    try:
        hash(structure)
    except TypeError as error:
        raise ValueError(
            f"an attribute of {type(shapes).__name__} is of a kind that no compiled "
            f"program can be told by ({error}); keep arrays in nnx.Variable(...) or "
            "nnx.data(...), and lists as tuples."
        ) from None
    network = _Structure(
        structure,
        jax.eval_shape(lambda: variables),
        make,
        type(shapes).__name__,
        "train" in inspect.signature(shapes.__call__).parameters,
    )
    return FromNNX(network)
