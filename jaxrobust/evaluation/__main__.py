"""Evaluates a function `images -> logits` of any package, in any framework on JAX.

    python -m jaxrobust.evaluation --model package.module:function --data cifar10
      --eps 8/255 --workdir runs/theirs

The function gets images [B, H, W, C], float32 in --bounds, and returns logits [B, K];
`package.module:factory()` calls the factory first; zoo:NAME is a network that comes
with jaxrobust, attacked on its own data at its own radius unless others are given.
The work directory gets
results.json, evaluation.npz, robustbench.json and report.html. Radii are in units of
[0, 1] images, whatever --bounds are.

    --attack pgd:eps=8/255,steps=50,loss=margin --attack square

runs these attacks in place of a suite. --stochastic is for randomised functions (x,
keys [B]) -> logits, whose randomness comes from the keys. A function of NumPy arrays or
PyTorch tensors is a black box (--black_box): attacks that need no gradient can try it.
"""

import argparse
import logging
import re
import shlex
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import jax
from ml_collections import ConfigDict

from jaxrobust import data, evaluation, parallel, report, threat, zoo
from jaxrobust.array_types import Bounds
from jaxrobust.attacks import registry
from jaxrobust.evaluation import (
    analyses,
    attack_text,
    black_box,
    evaluator,
    external,
    protocols,
    robustbench,
    suite,
    transfer,
)
from jaxrobust.evaluation import config as common
from jaxrobust.evaluation.text import times
from jaxrobust.results import schema
from jaxrobust.runtime import caches, cpu, files, out_of_memory, workdir
from jaxrobust.runtime.progress import StageProgress

_BAD_INPUT = (ValueError, TypeError, OSError, FloatingPointError, MemoryError)
# Flags that are fields of `config.eval`.
_SAME = ("examples", "batch_size", "save_adversarial", "ci", "transfer_from", "slots")
_SAME += ("preprocessing",)
_SHARES = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)  # of eps, on the curve


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    made = parser()
    args = made.parse_args(argv)
    if not args.data and zoo.named(args.model) is None:
        made.error("--data is needed: cifar10, digits, npz:PATH, folder:PATH ...")
    if not args.traceback:  # what a black box raises is told in a line
        logging.getLogger("jax._src.callback").setLevel(logging.CRITICAL)
    cpu.tune_cpu()
    caches.keep_programs(args.compilation_cache)
    named = args.workdir or f"runs/{re.sub(r'[^A-Za-z0-9.=-]+', '_', args.model)}"
    command = shlex.join(["python", "-m", "jaxrobust.evaluation", *argv])
    try:
        folder = files.expand(named)
        _use_card(args)
        config, bounds = _config(args), _bounds(args.bounds)
        for line in suite.notices(config["eval"]["attacks"]):
            print(f"note: {line}", file=sys.stderr)
        function = external.load(args.model)
        dataset = evaluator.load_test(config)
        if hosted := _is_black_box(args, function, dataset):
            black_box.check_attacks(config["eval"])
            function = black_box.wrap(function, dataset, args.layout)
        else:
            function = black_box.in_layout(function, args.layout)
        draws = args.draws if args.stochastic else 0
        if args.attacks_only or hosted or args.stochastic:
            analyses.leave_out(config["eval"], "ATTACKS")
        if hosted or args.stochastic:
            analyses.leave_out(config["eval"], "DIFFERENTIATES")
        model, variables = external.wrap(
            function, dataset, bounds=bounds, draws=draws, black_box=hosted
        )
        with workdir.locked(folder):
            workdir.check_config(folder, config)
            # The host has one queue, whatever devices there are.
            progress, mesh = StageProgress(), parallel.make_mesh(1 if hosted else None)
            with out_of_memory.explained("--batch_size", args.batch_size, mesh.size):
                options: Any = {"dataset": dataset, "mesh": mesh, "progress": progress}
                options["evaluated"] = schema.EvaluatedNetwork(command=command)
                evaluation.evaluate(model, variables, config, folder, **options)
            progress.close()
            workdir.write_config(folder, config, command)
            page = report.write(folder)
            told = report.summary(folder)
    except (*_BAD_INPUT, jax.errors.JaxRuntimeError) as error:
        if args.traceback:
            raise
        told = f"{type(error).__name__}: {error}"
        if isinstance(error, jax.errors.JaxRuntimeError):
            lines = [line for line in str(error).splitlines() if line.strip()]
            told = f"the model failed: {lines[-1][:500]}"
        print(told, file=sys.stderr)
        return 1
    report.tell(f"\n{told}\nreport: {page}")
    return 0


def _use_card(args: argparse.Namespace) -> None:
    """Takes from the card of a network of the zoo what was not given."""
    name = zoo.named(args.model)
    if name is not None:
        card = zoo.card(name)
        if not args.data:
            fields = card.config["data"]
            args.data, args.image_size = fields["name"], fields["image_size"]
            args.channels = fields["channels"]
        has_own = args.suite in protocols.OF_DATA  # radii, of the data set
        if not (args.eps or has_own) and args.norm in (None, card.norm):
            args.eps, args.norm = card.eps, card.norm
    args.norm = args.norm or "linf"


def _config(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the config of an evaluation; of training it says nothing."""
    _check_flags(args)
    fields, usual = common.defaults(), protocols.threat_of(args.data)
    eps = args.eps or usual.eps
    suite.parse_radius(eps, "eps")
    step_size = args.step_size or times(eps, 0.25)
    if args.norm == "linf":
        common.use_radius(fields, eps, step_size)
    threat: Any = {"eps": eps, "step_size": step_size, "norm": args.norm}
    named = args.suite or "gradient"
    if args.attack:
        draws = args.draws if args.stochastic else 0
        options = {"transfer_from": args.transfer_from, "draws": draws}
        found = attack_text.table(args.attack, eps=eps, norm=args.norm, **options)
    elif args.black_box and not args.suite:
        found = {
            "square": protocols.attack("square", eps, args.norm),
            "ball": protocols.attack("uniform_noise", eps, args.norm, draws=10),
        }
    elif named in protocols.OF_THREAT or args.stochastic:
        if named not in protocols.OF_THREAT:  # AutoAttack chooses its steps
            del threat["step_size"]
        found = suite.get(named, data=args.data, **threat)
        if args.stochastic:
            found = {k: attack_text.averaged(v, args.draws) for k, v in found.items()}
    else:
        fields.suite = named
        found = suite.get("gradient", data=args.data, **threat)
    fields.attacks = ConfigDict(found)
    if named in protocols.OF_DATA:
        given = {"eps": args.eps, "step_size": args.step_size}
        suite.get(named, data=args.data, **given)  # refuses other radii
    fields.curve.eps = _curve(eps, args.norm)
    fields.update({name: getattr(args, name) for name in _SAME})
    asked = suite.table(fields, args.data).values()
    if args.transfer_from and all(one["name"] != transfer.NAME for one in asked):
        raise ValueError(
            f"--transfer_from {args.transfer_from!r} is for attacks that transfer, and "
            "none of these does: give --attack transfer:attack=pgd, or leave it out."
        )
    fields.corruptions.enabled = args.corruptions
    fields.corruption_set.path = args.corruption_set
    fields.corruption_set.examples = args.corruption_examples
    fields.corruption_set.reference = args.corruption_reference
    fields.certify.enabled = args.certify
    if all(one.get("eps") is None for one in found.values()):
        fields.certify.update(eps=eps, norm=args.norm)  # no attack has a radius
    fields.queries.enabled = args.queries
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


def _check_flags(args: argparse.Namespace) -> None:
    """Refuses, by name, flags that do not go together."""
    for one, other in (
        ("attack", "suite"),
        ("stochastic", "black_box"),
        ("stochastic", "corruptions"),
        ("stochastic", "corruption_set"),
        ("stochastic", "certify"),
        ("black_box", "certify"),
    ):
        if getattr(args, one) and getattr(args, other):
            raise ValueError(f"give --{one} or --{other}, not both.")
    if args.draws < 1:
        raise ValueError(f"--draws must be at least 1, got {args.draws}.")
    averaging = (registry.AUTOATTACK, *protocols.OF_THREAT)  # over draws
    if args.stochastic and args.suite not in (None, *averaging):
        raise ValueError(
            f"--stochastic goes with --attack, or --suite {', '.join(averaging)}, got "
            f"--suite {args.suite}."
        )


def _is_black_box(
    args: argparse.Namespace, function: Any, dataset: data.Dataset
) -> bool:
    """Whether a function is asked on the host: as told, or where nothing else works.

    Attacks that need no gradient try a function that JAX cannot trace; with others it
    is more likely a mistake, and is told as one.
    """
    if args.black_box or args.stochastic:
        return args.black_box
    if black_box.is_torch_module(function):
        return True
    asked = {fields.partition(":")[0].strip() for fields in args.attack}
    if not asked or any(map(registry.needs_gradient, asked)):
        return False
    function = black_box.in_layout(function, args.layout)
    return not external.traceable(function, dataset)


def _curve(eps: str, norm: str) -> list[str]:
    """Returns the radii of the curve; 1 in Linf reaches any image from any other."""
    radii = [times(eps, share) for share in _SHARES]
    if norm != "linf":
        return radii
    return [r for r in radii if suite.parse_radius(r) < 1] + ["1"]


def _given(text: str) -> str:
    """Refuses an empty text, as of a variable of the shell that is not set."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty: leave it out, or give a radius")
    return text


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


class _Parser(argparse.ArgumentParser):
    """Tells mistakes in one line."""

    def error(self, message: str) -> NoReturn:
        """Ends the program with status 2."""
        self.exit(2, f"error: {' '.join(message.split())}; try --help.\n")


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    made = _Parser(
        prog="python -m jaxrobust.evaluation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--model", required=True, help="package.module:function, :factory(), zoo:NAME")
    add("--data", help="cifar10, digits, npz:PATH, folder:PATH ...")
    add("--eps", type=_given, help="radius, such as 8/255; else the data set's usual")
    add("--norm", choices=threat.NORMS, help="linf by default")
    add("--step_size", type=_given, help="of the steps of suite `gradient`; eps / 4")
    add("--suite", help=f"one of {', '.join(suite.SUITES)}; gradient by default")
    add(
        "--attack",
        action="append",
        default=[],
        metavar="NAME:OPTION=VALUE,...",
        help="in place of a suite, such as pgd:steps=50,loss=margin; may be repeated",
    )
    add("--stochastic", action="store_true", help="the function takes (x, keys [B])")
    add("--draws", type=int, default=20, help="of a randomised function, per step")
    add("--preprocessing", default="", help="defence: jpeg:75, median:3+jpeg")
    add("--black_box", action="store_true", help="a function of NumPy or PyTorch")
    add("--layout", choices=black_box.LAYOUTS, help="of the images it takes; NHWC")
    add("--examples", type=int, default=0, help="how many test images; 0 = all")
    add("--bounds", default="0,1", help="range of the images the function takes")
    add("--image_size", type=int, default=0, help="resize the images; 0 = as they are")
    add("--channels", type=int, default=0, help="3 copies grey images to RGB")
    add("--batch_size", type=int, default=250)
    add("--ci", type=float, default=0.0, help="stop once intervals are that narrow")
    add("--corruptions", action="store_true", help="accuracy under corruptions too")
    add("--corruption_set", default="", help="folder of CIFAR-10-C, ImageNet-C, 3DCC")
    add("--corruption_examples", type=int, default=1000, help="of these; 0 = all")
    add("--corruption_reference", default="", help="alexnet, none, or a file of errors")
    add("--certify", action="store_true", help="what is proved, beside the attacks")
    add(
        "--queries",
        action="store_true",
        help="what fewer queries leave, of black boxes",
    )
    add("--transfer_from", default="", help="another network; [a,b]: several")
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
    add("--compilation_cache", help=caches.HELP)
    add("--traceback", action="store_true", help="show the traceback of an error")
    return made


if __name__ == "__main__":
    sys.exit(main())
