"""Puts the network of a run into the zoo: its weights and its card.

    python -m jaxrobust.zoo.publish runs/mine --name mnist_lenet5_pgd_0

The run must have been trained by a config of ours and evaluated, AutoAttack included.
Every number of the card is read from the run's results.json; that they are those of the
checkpoint is seen by its clean accuracy and loss, which are measured again. A second
evaluation, by a paper's suite, is taken from the folder `paper` of the run, where there
is one (--checkpoint runs/mine --workdir runs/mine/paper). Nothing is written where
anything is refused.
"""

import argparse
import functools
import hashlib
import pathlib
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import numpy as np

from jaxrobust import checkpoints, defenses, evaluation, zoo
from jaxrobust.array_types import Variables
from jaxrobust.attacks.registry import AUTOATTACK
from jaxrobust.data import Dataset
from jaxrobust.evaluation import adaptive, evaluator, suite, transfer
from jaxrobust.evaluation import config as common
from jaxrobust.results import files as of_run
from jaxrobust.results import schema
from jaxrobust.runtime import cpu, files, safetensors
from jaxrobust.training import config_file, overrides
from jaxrobust.zoo import card_files

IN_ALL = 15_000_000  # bytes of all weights
PAPER = "paper"  # the folder of a second evaluation
_BAD_INPUT = (ValueError, TypeError, OSError)
_SAME_LOSS = 1e-3  # relative; another device rounds otherwise


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxrobust.zoo.publish",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("run", help="a work directory, trained and evaluated")
    add("--name", required=True, help="of the network: small letters, digits and _")
    add("--title", default="", help="in plain words; made of the config if left out")
    add(
        "--checkpoint",
        default="",
        choices=("", *checkpoints.WHICH),
        help="that was evaluated; by default that which an evaluation takes",
    )
    add("--to", default="", help="a folder in place of the package's own")
    args = parser.parse_args(argv)
    cpu.tune_cpu()
    try:
        target = files.expand(args.to) if args.to else zoo.folder()
        card = publish(
            args.run,
            args.name,
            which=args.checkpoint,
            title=args.title,
            target=pathlib.Path(target),
        )
    except _BAD_INPUT as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    left = card.results.worst_case.robust_accuracy
    print(f"zoo:{card.name}  {card.title}: worst case {100 * left:.1f} %")
    return 0


def publish(
    run: str,
    name: str,
    *,
    which: str = "",
    title: str = "",
    target: pathlib.Path,
) -> zoo.Card:
    """Writes weights and card of a run's checkpoint `which` to a folder of the zoo.

    Raises:
      ValueError: naming what the zoo does not take: a network or data from outside, no
        AutoAttack, results of another config or checkpoint, weights that are not finite
        or too large.
      FileNotFoundError: if the run was not trained, or not evaluated.
    """
    if zoo.named(run) is not None:
        raise ValueError(f"{run} is in the zoo already: give a work directory.")
    place = pathlib.Path(files.expand(run))
    config, command = of_run.read_config(place / "config.json")
    _check_config(place, config)
    results = _results(place, config)
    if not any(one.name == AUTOATTACK for one in results.attacks):
        raise ValueError(
            f"{place} was evaluated without AutoAttack, and a number without it is not "
            "published: evaluate it with --config.eval.suite=attacks+autoattack."
        )
    paper = _paper(place, config)
    which = which or checkpoints.evaluated(config)
    model, variables, _ = checkpoints.load(run, which)
    content = _as_file(place, variables)
    others = sum(
        zoo.weights_path(target, other).stat().st_size
        for other in card_files.names(target)
        if other != name
    )
    if others + len(content) > IN_ALL:
        raise ValueError(
            f"the zoo would have {others + len(content)} bytes of weights, and it has "
            f"room for {IN_ALL}: publish smaller networks."
        )
    dataset = evaluator.load_test(config)
    card = zoo.Card(
        name=name,
        title=title or _title(config),
        config={**config, "twin": "", "eval": _kept(config["eval"])},
        command=_command(place, command),
        checkpoint=which,
        hours=_hours(place, config),
        parameters=sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
        input_shape=list(dataset.shape),
        class_names=list(dataset.class_names),
        sha256=hashlib.sha256(content).hexdigest(),
        results=results,
        paper=paper,
    )
    try:
        card_files.check(card)
    except ValueError as error:
        raise ValueError(f"{place} cannot be published: {error}.") from None
    check = functools.partial(_check_same, model, variables, config, dataset)
    check(place, config["eval"], results)
    if paper is not None:
        check(place / PAPER, paper.fields, paper.results)
    files.write_bytes(zoo.weights_path(target, name), content)
    card_files.write(card_files.path(target, name), card)
    return card


def _check_config(place: pathlib.Path, config: Mapping[str, Any]) -> None:
    for part in ("model", "data"):
        name = str(config.get(part, {}).get("name"))
        if ":" in name and not (part == "data" and name.startswith("tfds:")):
            raise ValueError(
                f"{place} has the {part} {name!r} from outside, which nobody else has; "
                "the zoo takes networks and data sets of ours."
            )


def _results(place: pathlib.Path, config: Mapping[str, Any]) -> schema.Results:
    """Reads what makes a row; refuses results that this config does not give."""
    results = of_run.read_results(place / "results.json")
    name, method = config["data"]["name"], adaptive.method_of(config)
    entries, _ = suite.chosen(config["eval"], name, method)
    asked = [(one.label, one.eps) for one in entries]
    if asked != [(one.label, one.eps) for one in results.attacks]:
        raise ValueError(
            f"{place} has results of other attacks than its config.json: evaluate it "
            "again (--mode=eval)."
        )
    for one in entries:
        if isinstance(one, transfer.Transfer) and zoo.named(one.source) is None:
            raise ValueError(
                f"attack {one.label!r} transfers from {one.source!r}, which nobody "
                "else has: publish that network first, and give zoo:NAME for it."
            )
    kept = ("clean", "attacks", "worst_case", "flags", "stopping", "growth")
    kept += (
        "certified",
        "corruptions",
        "suite",
        "pending",
        "data",
        "environment",
        "schema",
    )
    return schema.Results(**{name: getattr(results, name) for name in kept})


def _paper(
    place: pathlib.Path, config: Mapping[str, Any]
) -> card_files.Protocol | None:
    """Reads the second evaluation of a run, if there is one."""
    folder = place / PAPER
    if not (folder / "results.json").exists():
        return None
    theirs, _ = of_run.read_config(folder / "config.json")
    for part in ("model", "data", "objective", "attack", "seed"):
        if theirs.get(part) != config[part]:
            raise ValueError(f"{folder} is about another {part} than {place}.")
    results = _results(folder, theirs)
    return card_files.Protocol(fields=_kept(theirs["eval"]), results=results)


def _kept(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `config.eval` without what is somebody's own."""
    return {**fields, "own_analyses": {}, "save_adversarial": False}


def _as_file(place: pathlib.Path, variables: Variables) -> bytes:
    """Returns the file of weights: float32, all finite, and not too large."""
    flat = flax.traverse_util.flatten_dict(dict(variables), sep="/")
    arrays = {
        name: np.asarray(leaf, np.float32, order="C") for name, leaf in flat.items()
    }
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{place}: the weights {name} are not finite.")
    content = safetensors.encode(dict(sorted(arrays.items())))
    if len(content) > zoo.LARGEST:
        raise ValueError(
            f"{place}: the weights take {len(content)} bytes, and a network of the zoo "
            f"at most {zoo.LARGEST}."
        )
    return content


def _title(config: Mapping[str, Any]) -> str:
    fields = dict(config["model"])
    name = fields.pop("name")
    told = {k: fields[k] for k in ("integrator", "depth", "blocks") if k in fields}
    shown = f" ({', '.join(f'{k} {v}' for k, v in told.items())})" if told else ""
    how = config["objective"]["name"]
    if how == defenses.PLAIN:
        how = "cross-entropy alone"
    return f"{name}{shown} on {config['data']['name']}, trained with {how}"


def _command(place: pathlib.Path, command: str) -> str:
    """Returns what trains the same network anywhere: a config of ours and fields.

    Where results went, what was done and how it was evaluated is left out.
    """
    rest, fields = overrides.split(shlex.split(command)[3:])
    parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    for flag in ("config", "workdir", "mode", "compilation_cache", "checkpoint"):
        parser.add_argument(f"--{flag}")
    parser.add_argument("--attack", action="append")
    given, unknown = parser.parse_known_args(rest)
    file, argument = config_file.split(given.config or "")
    name = pathlib.PurePath(file).stem
    shipped = config_file.folder() / f"{name}.py"
    theirs = pathlib.Path(file)
    same = shipped.is_file() and (
        file == name
        or not theirs.is_file()
        or theirs.read_bytes() == shipped.read_bytes()
    )
    if unknown or not same:
        raise ValueError(
            f"{place} was trained by {command!r:.200}, and a network of the zoo by a "
            "config of ours and --config.FIELD=VALUE."
        )
    config = name if argument is None else f"{name}:{argument}"
    kept = [one for one in fields if not one.field.startswith(("eval.", "log."))]
    return shlex.join([*card_files.TRAIN, config, *map(overrides.written, kept)])


def _hours(place: pathlib.Path, config: Mapping[str, Any]) -> float | None:
    """Returns the hours that training steps took, as metrics.jsonl tells their rate."""
    seconds, before = 0.0, 0
    for row in of_run.read_metrics(place / "metrics.jsonl"):
        if rate := row.get("images_per_second"):
            size = config["train"]["batch_size"]
            seconds += max(row["step"] - before, 0) * size / rate
            before = row["step"]
    return round(seconds / 3600, 4) if seconds else None


def _check_same(
    model: nn.Module,
    variables: Variables,
    config: Mapping[str, Any],
    dataset: Dataset,
    place: pathlib.Path,
    evaluated: Mapping[str, Any],
    results: schema.Results,
) -> None:
    """Refuses results that these weights do not give on clean images."""
    fields = common.without_analyses(evaluated)
    fields |= {"attacks": {}, "suite": "", "ci": 0.0, "examples": results.clean.n}
    with tempfile.TemporaryDirectory() as folder:
        again = evaluation.evaluate(
            model, variables, {**config, "eval": fields}, folder, dataset=dataset
        )
    found, told = again["clean"], results.clean
    close = told.loss is None or np.isclose(found["loss"], told.loss, _SAME_LOSS, 1e-6)
    if abs(found["accuracy"] - told.accuracy) > 1 / told.n or not close:
        raise ValueError(
            f"{place}: this checkpoint has {found['accuracy']:.4f} of {told.n} images "
            f"right (loss {found['loss']:.4g}), and results.json says "
            f"{told.accuracy:.4f} ({told.loss}): say which was evaluated with "
            "--checkpoint, or evaluate it again."
        )


if __name__ == "__main__":
    sys.exit(main())
