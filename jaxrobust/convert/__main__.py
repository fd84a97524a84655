"""Makes checkpoints of PyTorch networks' weights.

    python -m jaxrobust.convert weights.pt --model ssp_cifar --field blocks=6
      --field integrator=ssp2 --workdir runs/imported

From Python, `checkpoints.load('runs/imported', 'last')` gives model and variables.

Without --model the network is told from the arrays and from the folders that the
originals publish their checkpoints in; --field sets or corrects single fields. Of a
folder every checkpoint is converted, each to a work directory of its own:

    python -m jaxrobust.convert pretrained_models --workdir runs/imported

makes runs/imported/cifar10/6blocks_7iters/ssp2/model_acc of
pretrained_models/cifar10/6blocks_7iters/ssp2/model_acc.pt. Checkpoints that could not
be placed are listed with the reason, and the exit status is 1.

The way back, from a run's checkpoint to a file of torch's names and layouts (.npz,
.safetensors, or .pt where torch is installed):

    python -m jaxrobust.convert runs/mine --to-torch weights.safetensors
"""

import argparse
import ast
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from jaxrobust import models
from jaxrobust.convert import _files, _layouts
from jaxrobust.convert._to_torch import to_torch, write
from jaxrobust.convert._torch import from_torch
from jaxrobust.runtime import files
from jaxrobust.runtime.checkpoint_folder import WHICH

_LINES = 20  # of a message
_BAD_INPUT = (ValueError, TypeError, OSError, ImportError)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    if bool(args.workdir) == bool(args.to_torch):
        parser.error("give --workdir for weights of torch, or --to-torch for a run's.")
    try:
        if args.to_torch:
            _export(args)
            return 0
        source = pathlib.Path(files.expand(args.weights))
        workdir = pathlib.Path(files.expand(args.workdir))
        fields = dict(_field(text) for text in args.field)
        if args.model:
            models.create(args.model, **fields)  # before anything is read
            fields = {"name": args.model, **fields}
        if not source.is_dir():
            _convert(source, workdir, args, fields)
            return 0
        found = _files.find(source)
    except _BAD_INPUT as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    left_out = 0
    taken: set[str] = set()
    for file in found:
        try:
            target = _target(workdir, file.relative_to(source), taken)
            _convert(file, target, args, fields)
        except _BAD_INPUT as error:
            left_out += 1
            print(f"left out {file}: {error}", file=sys.stderr)
    print(f"{len(found) - left_out} of {len(found)} checkpoints converted")
    return 1 if left_out else 0


def _export(args: argparse.Namespace) -> None:
    """Writes the weights of a run as a file for torch."""
    from jaxrobust import checkpoints

    target = pathlib.Path(files.expand(args.to_torch))
    shape = tuple(args.input_shape) if args.input_shape else None
    model, variables, _ = checkpoints.load(args.weights, args.checkpoint)
    arrays = to_torch(model, variables, input_shape=shape)
    write(target, arrays)
    print(f"wrote {target} ({_files.contents(arrays)})")


def _target(workdir: pathlib.Path, file: pathlib.Path, taken: set[str]) -> pathlib.Path:
    """Returns the work directory of one checkpoint, below `workdir` whatever its name.

    It is added to those that are `taken`.
    """
    parts = [*file.parts[:-1], _files.stem(file)]
    path = first = pathlib.Path(files.safe_path(workdir, parts))
    number = 1
    while str(path).casefold() in taken:  # a.pt beside a.npz
        number += 1
        path = first.with_name(f"{first.name}-{number}")
    taken.add(str(path).casefold())
    inside = path.relative_to(workdir)
    for place in (*inside.parents, inside):
        if place.name and (workdir / place).is_symlink():
            files.own_folder(workdir / place)  # says that it is a link
    return path


def _convert(
    file: pathlib.Path,
    workdir: pathlib.Path,
    args: argparse.Namespace,
    fields: Mapping[str, Any],
) -> None:
    """Makes one work directory of one checkpoint."""
    checkpoint = _files.read(file, args.entry)
    for note in checkpoint.notes:
        print(f"{file}: {note}")
    try:
        kinds = sorted({str(array.dtype) for array in checkpoint.arrays.values()})
        if kinds and not any("float" in kind for kind in kinds):
            raise ValueError(f"no weights: all arrays are {', '.join(kinds)}")
        if "name" not in fields:
            folders = (*file.absolute().parts[:-1], _files.stem(file))
            known = (checkpoint.arrays, folders, checkpoint.options, dict(fields))
            fields = _layouts.infer(_layouts.Clues(*known))
        options = {k: v for k, v in fields.items() if k != "name"}
        model = models.create(fields["name"], **options)
        shape = tuple(args.input_shape) if args.input_shape else None
        variables = from_torch(model, checkpoint.arrays, input_shape=shape)
    except (ValueError, TypeError) as error:
        lines = str(error).splitlines()
        if len(lines) > _LINES:
            lines = [*lines[:_LINES], f"  ... and {len(lines) - _LINES} more"]
        told, held = "\n".join(lines), _files.contents(checkpoint.arrays)
        raise ValueError(f"{file}: {told}\n  the file holds {held}") from None
    # Here, as it loads orbax, which the lines above can do without.
    from jaxrobust import checkpoints

    folder = checkpoints.save_variables(workdir, variables, {"model": dict(fields)})
    told = ", ".join(f"{k}={v}" for k, v in options.items())
    print(f"wrote {folder} ({fields['name']}: {told})")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jaxrobust.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = ", ".join(_files.SUFFIXES)
    told = f"a state dict ({kinds}), or a folder of them; with --to-torch a run"
    parser.add_argument("weights", help=told)
    parser.add_argument(
        "--model",
        help=f"one of {', '.join(models.names())}; told from the weights if left out",
    )
    parser.add_argument(
        "--field",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a field of the network, such as blocks=6 or mean=(0.5,0.5,0.5)",
    )
    parser.add_argument(
        "--entry",
        help="which dict of the file to take, such as ema or ema.state_dict, where it "
        "holds several; by default the trained network, not an average of it",
    )
    parser.add_argument(
        "--workdir",
        help="gets checkpoints/0, or of a folder one work directory per checkpoint",
    )
    parser.add_argument(
        "--to-torch",
        metavar="FILE",
        help="write the weights of a run as a state dict: .npz, .safetensors or .pt",
    )
    parser.add_argument(
        "--checkpoint",
        choices=sorted(WHICH),
        help="of the run, with --to-torch; by default what an evaluation of it takes",
    )
    parser.add_argument(
        "--input-shape",
        nargs=4,
        type=int,
        metavar=("B", "H", "W", "C"),
        help="of the images, where not that of the network's usual data set",
    )
    return parser


def _field(text: str) -> tuple[str, Any]:
    """Reads `blocks=6`; what is no Python literal is a string."""
    name, separator, value = text.partition("=")
    if not separator:
        raise ValueError(f"--field must be NAME=VALUE, got {text!r}.")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


if __name__ == "__main__":
    sys.exit(main())
