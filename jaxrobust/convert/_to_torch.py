"""From variables to a torch state dict: the same names, read the other way."""

import pathlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.traverse_util
import numpy as np

from jaxrobust.array_types import Variables
from jaxrobust.convert import _families, _formats
from jaxrobust.convert._names import Names
from jaxrobust.convert._torch import Path, axes_of, expected_leaves, torch_name
from jaxrobust.runtime import files, safetensors

_SUFFIXES = (".npz", ".safetensors", ".pt")


def to_torch(
    model: nn.Module,
    variables: Variables,
    *,
    input_shape: tuple[int, ...] | None = None,
) -> dict[str, np.ndarray]:
    """Returns the weights as a state dict of the network's PyTorch original.

    `from_torch` of what is returned gives the same variables, to the bit. A tensor that
    the original registers twice stands under both names. Counters
    `num_batches_tracked` and layers that the original has and never runs are left out.

    Args:
      model: what `models.create` returned.
      variables: of the model, from training or a checkpoint; a defence's own trainables
        beside the network (`extra`) have no place in the original.
      input_shape: as of `from_torch`.

    Returns:
      Torch's names to arrays in torch's layouts, OIHW and OI:
      `net.load_state_dict({k: torch.tensor(v) for k, v in arrays.items()})`.

    Raises:
      TypeError: if there is no conversion for the model.
      ValueError: naming every variable that is missing, of another network, or of
        another shape.
    """
    family = _families.of(model)
    names = family.names(model)
    kept = {k: v for k, v in variables.items() if k in ("params", "batch_stats")}
    flat: Any = flax.traverse_util.flatten_dict(kept)
    given: Mapping[Path, Any] = flat
    arrays, problems = {}, []
    for path, value in given.items():
        try:
            name = torch_name(path, names)
        except KeyError:
            problems.append(f"unexpected: {'/'.join(path)}")
            continue
        there = np.argsort(axes_of(path, np.ndim(value)))
        arrays[name] = np.array(np.asarray(value).transpose(there), order="C")
    shape = input_shape or family.input_shape
    shape = shape(model, arrays) if callable(shape) else shape
    for path, leaf in expected_leaves(model, shape).items():
        found = np.shape(given[path]) if path in given else None
        if found is None:
            problems.append(f"missing: {'/'.join(path)}")
        elif found != leaf.shape:
            told = f"is {found}, expected {leaf.shape}"
            problems.append(f"wrong shape: {'/'.join(path)} {told}")
    if problems:
        raise ValueError(
            f"`variables` do not fit {type(model).__name__}:\n  "
            + "\n  ".join(problems)
        )
    return {**arrays, **_second_names(arrays, names)}


def _second_names(
    arrays: Mapping[str, np.ndarray], names: Names
) -> dict[str, np.ndarray]:
    return {
        f"{second}.{name.removeprefix(f'{first}.')}": value
        for second, first in names.aliases.items()
        for name, value in arrays.items()
        if name.startswith(f"{first}.")
    }


def write(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a state dict as a file of the kind that its suffix says.

    Raises:
      ValueError: for another suffix than `.npz`, `.safetensors` and `.pt`.
      ImportError: if `.pt` is asked for, and torch is not there.
    """
    if path.suffix == ".npz":
        files.write_npz(path, arrays, compress=False)
    elif path.suffix == ".safetensors":
        files.write_bytes(path, safetensors.encode(arrays))
    elif path.suffix == ".pt":
        torch = _formats.import_torch(f"writing {path}")
        with files.writing(path) as file:
            torch.save({k: torch.tensor(v) for k, v in arrays.items()}, file)
    else:
        raise ValueError(f"{path} must end in one of {', '.join(_SUFFIXES)}.")
