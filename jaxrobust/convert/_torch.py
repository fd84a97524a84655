"""From a torch state dict to variables: the part that all networks share.

`_to_torch` reads the same tables the other way.
"""

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.array_types import Variables
from jaxrobust.convert import _families
from jaxrobust.convert._names import Names, translate
from jaxrobust.convert._normalization import (
    NORMALIZATION,
    other_normalization,
    split_normalization,
)

_LEAVES = {
    "kernel": "weight",
    "transposed_kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# OI -> IO, OIHW -> HWIO; torch's transposed convolutions are IOHW.
_AXES = {
    ("kernel", 2): (1, 0),
    ("kernel", 4): (2, 3, 1, 0),
    ("transposed_kernel", 4): (2, 3, 0, 1),
}

# DataParallel, torch.compile, Lightning, robustness and others.
_WRAPPERS = re.compile(r"^((module|_orig_mod|model|net|network|backbone|attacker)\.)+")
_COUNTER = "n_averaged"  # of torch's averaged models

Path = tuple[str, ...]


def from_torch(
    model: nn.Module,
    state_dict: Mapping[str, Any],
    *,
    input_shape: tuple[int, ...] | None = None,
) -> Variables:
    """Converts the weights of the network's PyTorch original.

    Prefixes of wrappers (`module.`, `_orig_mod.`, any that all share ...), counters
    `num_batches_tracked` and second names of a tensor that the original registers twice
    are fine. So are buffers that hold the normalisation of the images (`mu`, `sigma`):
    the model's own `mean` and `std` have to be the same.

    Args:
      model: what `models.create` returned.
      state_dict: torch's names to arrays (numpy arrays or torch tensors) in torch's
        layouts, OIHW and OI.
      input_shape: of the images, `[B, H, W, C]`; by default that of the data set the
        network is named after, or the one that the weights themselves tell. Only the
        number of channels matters, and the size where a network flattens.

    Returns:
      `{'params': ..., 'batch_stats': ...}` in the dtypes of the model.

    Raises:
      TypeError: if `state_dict` is no mapping, or there is no conversion for the model.
      ValueError: naming every entry that is missing, not of this network, of another
        shape, or no finite floating weights, every second name whose values differ from
        the first, and a normalisation that the model does not have. A state dict of
        int64 or bool alone is placed as it is: such arrays mark weights. Also for an
        `input_shape` that the network does not take.
    """
    family = _families.of(model)
    names = family.names(model)
    given, problems = _arrays(state_dict, family, names)
    buffers, given = split_normalization(given)
    problems += other_normalization(model, buffers)
    shape = input_shape or family.input_shape
    shape = shape(model, given) if callable(shape) else shape
    if input_shape is not None and not _is_shape(input_shape):
        raise ValueError(
            "`input_shape` must be the shape of a batch of images, (B, H, W, C), got "
            f"{input_shape!r}."
        )
    try:
        expected = expected_leaves(model, shape)
    except ValueError as error:
        if input_shape is None:
            raise
        raise ValueError(
            f"`input_shape` {tuple(input_shape)} is of images (B, H, W, C), which "
            f"{type(model).__name__} does not take: {error}"
        ) from error
    converted, known = {}, set()
    marks = all(value.dtype in (bool, np.int64) for value in given.values())
    for path, leaf in expected.items():
        name = torch_name(path, names)
        known.add(name)
        if name not in given:
            problems.append(f"missing: {name} (for {'/'.join(path)})")
            continue
        value, axes = given[name], axes_of(path, leaf.ndim)
        shape = tuple(leaf.shape[axes.index(n)] for n in range(leaf.ndim))
        if problem := None if marks else _no_weights(name, value):
            problems.append(problem)
        elif value.shape != shape:
            problems.append(f"wrong shape: {name} is {value.shape}, expected {shape}")
        else:
            converted[path] = jnp.asarray(value.transpose(*axes), leaf.dtype)
    unused = tuple(f"{name}." for name in names.unused)
    given = {k: v for k, v in given.items() if not f"{k}.".startswith(unused)}
    problems += _left_over(given, known, names.aliases)
    if problems:
        raise ValueError(
            f"`state_dict` does not fit {type(model).__name__}:\n  "
            + "\n  ".join(problems)
        )
    return flax.traverse_util.unflatten_dict(converted)


def normalization_of(state_dict: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    """Returns `mean` and `std` of the images where a state dict holds them.

    ValueError for buffers so called that normalise no images.
    """
    bare = bare_names(state_dict)
    arrays = {bare[name]: np.asarray(value) for name, value in state_dict.items()}
    return split_normalization(arrays)[0]


def _arrays(
    state_dict: Mapping[str, Any], family: _families.Family, names: Names
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the entries without prefixes, and those that then are there twice."""
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            f"`state_dict` must map names to arrays, got {type(state_dict).__name__}."
        )
    arrays: dict[str, np.ndarray] = {}
    keys: dict[str, str] = {}
    problems = []
    known = *names.modules.values(), *names.aliases, *names.unused
    own = {name.partition(".")[0] for name in known}
    bare = bare_names(state_dict, own)
    dialect = family.dialect(bare.values())
    bare = {key: translate(name, dialect) for key, name in bare.items()}
    for key, value in state_dict.items():
        name = bare[key]
        if hasattr(value, "detach"):
            value = value.detach().cpu().numpy()
        if isinstance(value, Mapping):
            raise TypeError(
                f"`state_dict` entry {key!r} is itself a mapping; pass that one."
            )
        value = np.asarray(value)
        if name in arrays:
            # `robustness` saves a network and, for its attacks, the same once more.
            copied = "attacker." in f"{key}{keys[name]}"
            if not (copied and np.array_equal(arrays[name], value, equal_nan=True)):
                problems.append(f"given twice, with and without 'module.': {name}")
        keys[name] = key
        if name != _COUNTER:
            arrays[name] = value
    return arrays, problems


def bare_names(names: Iterable[str], own: Set[str] = frozenset()) -> dict[str, str]:
    """Returns the names without what wrappers of a network put before them.

    These are the usual prefixes, and any other that all names share: whoever keeps a
    network in an attribute, or behind its normalisation in a Sequential, has one. The
    first parts of names in `own` are the network's.
    """
    bare = {name: _WRAPPERS.sub("", name) for name in names}
    while prefix := _shared(bare.values(), own):
        bare = {k: _WRAPPERS.sub("", v.removeprefix(prefix)) for k, v in bare.items()}
    return bare


def _shared(names: Iterable[str], own: Set[str]) -> str:
    """Returns the prefix of all names but those beside a network; '' for none."""
    weights = [n for n in names if n != _COUNTER and not NORMALIZATION.fullmatch(n)]
    first = {name.partition(".")[0] for name in weights}
    if len(first) != 1 or first <= own or any(name.count(".") < 2 for name in weights):
        return ""
    return f"{first.pop()}."


def expected_leaves(
    model: nn.Module, input_shape: tuple[int, ...] | None
) -> dict[Path, jax.ShapeDtypeStruct]:
    """Returns the shapes of the variables that the model has."""
    if input_shape is None:
        raise ValueError(
            f"`input_shape` must be given for {type(model).__name__}: [B, H, W, C]."
        )
    images = jax.ShapeDtypeStruct(tuple(input_shape), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    return dict(flax.traverse_util.flatten_dict(shapes))  # pyright: ignore


def axes_of(path: Path, ndim: int) -> Sequence[int]:
    """Returns which axis of torch's array each axis of ours is."""
    return _AXES.get((path[-1], ndim), range(ndim))


def torch_name(path: Path, names: Names) -> str:
    """Returns torch's name of a variable; KeyError if the network has no such part."""
    _, *modules, leaf = path
    if parameter := names.modules.get("/".join([*modules, leaf])):
        return parameter
    return f"{names.modules['/'.join(modules)]}.{_LEAVES[leaf]}"


def _is_shape(given: Any) -> bool:
    return (
        isinstance(given, tuple | list)
        and len(given) == 4
        and all(isinstance(n, int | np.integer) and n > 0 for n in given)
    )


def _no_weights(name: str, value: np.ndarray) -> str | None:
    """Says what is wrong with values, if they cannot be a network's weights."""
    if value.ndim == 0 and value.dtype in (bool, np.int64):  # numbers of NumPy's own
        return None
    if not jnp.issubdtype(value.dtype, jnp.floating):
        return f"not floating: {name} is {value.dtype} (quantised? dequantise it first)"
    if bad := int((~np.isfinite(value.astype(np.float32))).sum()):
        return f"not finite: {name} ({bad} of {value.size} values)"
    if name.endswith("running_var") and value.size and value.min() < 0:
        return f"not a variance: {name} is {value.min():g} at its least"
    return None


def _left_over(
    given: Mapping[str, np.ndarray], known: set[str], aliases: Mapping[str, str]
) -> list[str]:
    """Says what is wrong with entries under other names than the `known` ones."""
    problems = []
    for name in sorted(given.keys() - known):
        module, _, leaf = name.rpartition(".")
        module = aliases.get(module, module)
        first = f"{module}.{leaf}" if module else leaf
        counter = leaf == "num_batches_tracked"
        if (f"{module}.running_mean" if counter else first) not in known:
            problems.append(f"unexpected: {name}")
        elif first in given and not np.array_equal(given[name], given[first]):
            problems.append(f"differs from {first}, of which it is a name: {name}")
    return problems
