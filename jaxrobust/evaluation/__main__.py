"""Evaluates a function `images -> logits` of any package, in any framework on JAX.

    python -m jaxrobust.evaluation --model package.module:function --data cifar10
      --eps 8/255 --workdir runs/theirs

The function gets images [B, H, W, C], float32 in --bounds, and returns logits [B, K];
`package.module:factory()` calls the factory first. The work directory gets
results.json, evaluation.npz, robustbench.json and report.html. Radii are in units of
[0, 1] images, whatever --bounds are.
"""

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from jaxrobust import evaluation, parallel, report
from jaxrobust.array_types import Bounds
from jaxrobust.evaluation import (
    evaluator,
    foreign,
    out_of_memory,
    protocols,
    robustbench,
    suite,
)
from jaxrobust.evaluation.progress import StageProgress
from jaxrobust.report import verdict
from jaxrobust.training import compilation_cache, workdir
from jaxrobust.training import config as common

_BAD_INPUT = (ValueError, TypeError, OSError, FloatingPointError, MemoryError)
_SHARES = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)  # of eps, on the curve


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    args = _parser().parse_args(argv)
    compilation_cache.use(args.compilation_cache)
    folder = args.workdir or f"runs/{re.sub(r'[^A-Za-z0-9.=-]+', '_', args.model)}"
    command = shlex.join(["python", "-m", "jaxrobust.evaluation", *argv])
    try:
        config = _config(args)
        function = foreign.load(args.model)
        dataset = evaluator.load_test(config)
        model, variables = foreign.wrap(function, dataset, bounds=_bounds(args.bounds))
        with workdir.locked(folder):
            workdir.write_config(folder, config, command)
            progress, mesh = StageProgress(), parallel.make_mesh()
            with out_of_memory.explained("--batch_size", args.batch_size, mesh.size):
                results = evaluation.evaluate(
                    model,
                    variables,
                    config,
                    folder,
                    dataset=dataset,
                    mesh=mesh,
                    curves=not args.attacks_only,
                    progress=progress,
                )
            progress.close()
            page = report.write(folder)
    except _BAD_INPUT as error:
        if args.traceback:
            raise
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    for line in (verdict.verdict(results), *verdict.belief(results)):
        print(line)
    print(f"report: {page}")
    return 0


def _config(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the config of an evaluation; of training it says nothing."""
    base = common.base()
    fields, usual = base.eval, protocols.threat_of(args.data)
    eps = args.eps or usual.eps
    suite.parse_radius(eps, "eps")
    step_size = args.step_size or common.times(eps, 0.25)
    if args.norm == "linf":
        common.use_radius(base, eps, step_size, usual.steps)
    threat: Any = {"eps": eps, "step_size": step_size, "norm": args.norm}
    if args.suite in protocols.OF_THREAT:
        fields.attacks = ConfigDict(suite.get(args.suite, data=args.data, **threat))
    else:
        fields.suite = args.suite
        fields.attacks = ConfigDict(suite.get("gradient", data=args.data, **threat))
    if args.suite in protocols.OF_DATA:
        given = {"eps": args.eps, "step_size": args.step_size}
        suite.get(args.suite, data=args.data, **given)  # refuses other radii
    fields.curve.eps = _curve(eps, args.norm)
    fields.examples, fields.batch_size = args.examples, args.batch_size
    fields.save_adversarial = args.save_adversarial
    fields.ci, fields.transfer_from = args.ci, args.transfer_from
    fields.corruptions.enabled = args.corruptions
    if args.slots:
        fields.slots = args.slots
    about = dict(_pair(text) for text in args.about)
    return {
        "name": args.model,
        "seed": args.seed,
        "model": {"name": args.model, "bounds": args.bounds},
        "data": {
            "name": args.data,
            "image_size": args.image_size,
            "channels": args.channels,
            "test_examples": 0,
        },
        "eval": {**fields.to_dict(), "robustbench": robustbench.read_about(about)},
    }


def _curve(eps: str, norm: str) -> list[str]:
    """Returns the radii of the curve; 1 in Linf reaches any image from any other."""
    radii = [common.times(eps, share) for share in _SHARES]
    if norm != "linf":
        return radii
    return [r for r in radii if suite.parse_radius(r) < 1] + ["1"]


def _bounds(text: str) -> Bounds:
    """Reads `0,1`."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"`bounds` must be LOW,HIGH, got {text!r}.") from None
    return low, high


def _pair(text: str) -> tuple[str, str]:
    """Reads `field=value`."""
    name, separator, value = text.partition("=")
    if not separator:
        raise ValueError(f"--about must be FIELD=VALUE, got {text!r}.")
    return name, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jaxrobust.evaluation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", required=True, help="package.module:function, or :factory()")
    add("--data", required=True, help="cifar10, digits, npz:PATH, folder:PATH ...")
    add("--eps", help="radius, such as 8/255; by default the data set's usual one")
    add("--norm", default="linf", choices=("linf", "l2", "l1"))
    add("--step_size", help="of the iterative attacks of `gradient`; eps / 4")
    add("--suite", default="gradient", help=f"one of {', '.join(suite.SUITES)}")
    add("--examples", type=int, default=0, help="how many test images; 0 = all")
    add("--bounds", default="0,1", help="range of the images the function takes")
    add("--image_size", type=int, default=0, help="resize the images; 0 = as they are")
    add("--channels", type=int, default=0, help="3 copies grey images to RGB")
    add("--batch_size", type=int, default=250)
    add("--ci", type=float, default=0.0, help="stop once intervals are that narrow")
    add("--corruptions", action="store_true", help="accuracy under corruptions too")
    add("--transfer_from", default="", help="work directory of another network")
    add("--slots", type=int, default=0, help="of AutoAttack; 0 = its own choice")
    add("--seed", type=int, default=0)
    add("--workdir", help="where results go; runs/MODEL by default")
    add("--attacks_only", action="store_true", help="no curves and analyses")
    add("--save_adversarial", action="store_true", help="write adversarial.npz")
    add(
        "--about",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="for robustbench.json: link, name, authors, venue, reported ...",
    )
    add("--compilation_cache", help=compilation_cache.HELP)
    add("--traceback", action="store_true", help="show the traceback of an error")
    return parser


if __name__ == "__main__":
    sys.exit(main())
