"""Makes a checkpoint of a PyTorch network's weights.

    python -m jaxrobust.convert weights.pt --model ssp_cifar --field blocks=6
      --field integrator=ssp2 --workdir runs/imported

From Python, `checkpoints.load('runs/imported', 'last')` gives model and variables.
"""

import argparse
import ast
import sys
from collections.abc import Sequence
from typing import Any

from jaxrobust import models
from jaxrobust.convert import _files
from jaxrobust.convert._torch import from_torch


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    args = _parser().parse_args(argv)
    try:
        fields = dict(_field(text) for text in args.field)
        model = models.create(args.model, **fields)
        state_dict = _files.read_state_dict(args.weights)
        shape = tuple(args.input_shape) if args.input_shape else None
        variables = from_torch(model, state_dict, input_shape=shape)
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    from jaxrobust import (
        checkpoints,
    )  # loads orbax, which the lines above can do without

    config = {"model": {"name": args.model, **fields}}
    folder = checkpoints.save_variables(args.workdir, variables, config)
    print(f"wrote {folder}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jaxrobust.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = ", ".join(_files.SUFFIXES)
    parser.add_argument("weights", help=f"a state dict: {kinds}")
    parser.add_argument(
        "--model", required=True, help=f"one of {', '.join(models.names())}"
    )
    parser.add_argument(
        "--field",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a field of the network, such as blocks=6 or mean=(0.5,0.5,0.5)",
    )
    parser.add_argument("--workdir", required=True, help="gets checkpoints/0")
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
