"""Evaluates a network of the zoo again, and holds what is found against its card.

    jaxrobust reproduce --list
    jaxrobust reproduce digits_ssp_pgd                  # all images of the card
    jaxrobust reproduce digits_ssp_pgd --examples 50    # some of them
    jaxrobust reproduce digits_ssp_pgd --train          # train it again first

The attacks are those of the card, AutoAttack included, and those of a paper's own suite
where the card has them. On the images of the card each
number must lie within the 95 % interval of the shipped one. On fewer images, and for a
network that was trained again, the 99.9 % intervals of both must have a point in
common, as less would call a choice of images wrong now and then. The exit status is 1
if one number does not hold, 2 for a mistake. Run again, it goes on where it was
stopped.
"""

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn

from jaxrobust import checkpoints, evaluation, parallel, report, zoo
from jaxrobust._checks import check_choice
from jaxrobust.array_types import Variables
from jaxrobust.attacks.registry import AUTOATTACK
from jaxrobust.evaluation import adaptive, statistics, suite
from jaxrobust.evaluation import config as common
from jaxrobust.report import forms
from jaxrobust.report.blocks import Block, Table, Text
from jaxrobust.results import read as read_part
from jaxrobust.results import schema
from jaxrobust.runtime import caches, cpu, files, out_of_memory, workdir
from jaxrobust.runtime.progress import StageProgress
from jaxrobust.zoo import card_files

_SURE = 0.999  # of intervals of numbers that need not be equal
_BAD_INPUT = (ValueError, TypeError, OSError, MemoryError)


class Row(NamedTuple):
    """One number of a card, and the same found again."""

    what: str
    shipped: float
    interval: Sequence[float]
    n: int
    found: float
    found_interval: Sequence[float]
    found_n: int

    def holds(self, trained: bool = False) -> bool:
        """Whether the number found agrees with the shipped one."""
        if self.found_n == self.n and not trained:
            low, high = self.interval
            return low <= self.found <= high
        (low, high), (other_low, other_high) = (
            statistics.wilson_interval(round(share * n), n, _SURE)
            for share, n in ((self.shipped, self.n), (self.found, self.found_n))
        )
        return low <= other_high and other_low <= high


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="jaxrobust reproduce",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("name", nargs="?", help="of a network of the zoo")
    add("--list", action="store_true", help="show all networks")
    add("--examples", type=int, default=0, help="so many images; all of the card")
    add("--only", action="append", default=[], help="an attack of the card; repeatable")
    add("--train", action="store_true", help="by the command of the card, first")
    add("--workdir", help="where results go; runs/reproduce-NAME by default")
    add("--compilation_cache", help=caches.HELP)
    args = parser.parse_args(argv)
    if args.list == bool(args.name):
        parser.error("give the name of a network, or --list")
    try:
        if args.list:
            report.tell(forms.as_text([_listed()]).rstrip())
            return 0
        card = zoo.card((args.name or "").removeprefix(zoo.PREFIX))
        cpu.tune_cpu()
        caches.keep_programs(args.compilation_cache)
        folder = os.fspath(files.expand(args.workdir or f"runs/reproduce-{card.name}"))
        parts = _parts(card, args.examples, args.only)
        rows = []
        with workdir.locked(folder):
            model, variables = _network(card, folder, args.train)
            for part in parts:
                found = _evaluate(card, model, variables, part, folder)
                rows += compare(part.shipped, found, part.name)
    except _BAD_INPUT as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    wrong = [row.what for row in rows if not row.holds(args.train)]
    report.tell(forms.as_text(_told(card, rows, args.train)).rstrip())
    if wrong:
        report.tell(f"\nnot reproduced: {', '.join(wrong)}")
    return 1 if wrong else 0


def compare(
    shipped: schema.Results, found: schema.Results, name: str = ""
) -> Iterator[Row]:
    """Yields the numbers that both evaluations have; `name` is of the evaluation."""

    def row(what: str, key: str, one: Any, other: Any) -> Row:
        sides = [(getattr(x, key), x.ci95, x.n) for x in (one, other)]
        return Row(f"{name} {what}".strip(), *sides[0], *sides[1])

    yield row("clean", "accuracy", shipped.clean, found.clean)
    again = {attack.label: attack for attack in found.attacks}
    for attack in shipped.attacks:
        if attack.label in again:
            yield row(attack.label, "robust_accuracy", attack, again[attack.label])
    if again.keys() == {attack.label for attack in shipped.attacks}:
        both = shipped.worst_case, found.worst_case
        yield row("worst case", "robust_accuracy", *both)
    proofs = shipped.certified, found.certified
    if all(one is not None and one.ci95 is not None for one in proofs):
        yield row("proved", "proved", *proofs)
    if shipped.corruptions and found.corruptions:
        both = shipped.corruptions, found.corruptions
        yield row("corruptions, mean", "mean_accuracy", *both)


class _Evaluation(NamedTuple):
    """One evaluation of a card: its name ('' for the first), fields and results."""

    name: str
    fields: dict[str, Any]
    shipped: schema.Results


def _parts(card: zoo.Card, examples: int, only: Sequence[str]) -> list[_Evaluation]:
    """Returns the evaluations of a card, on all or some examples and attacks."""
    found = [_Evaluation("", card.config["eval"], card.results)]
    if card.paper is not None:
        name = card.paper.results.suite or "paper"
        found.append(_Evaluation(name, card.paper.fields, card.paper.results))
    most = card.results.clean.n
    if not 0 <= examples <= most:
        raise ValueError(
            f"`examples` must be 0 (all) to {most}, as many as the card of "
            f"{card.name} is about, got {examples}."
        )
    method = adaptive.method_of(card.config)
    known = [suite.table(one.fields, card.data, method) for one in found]
    for label in only:
        check_choice("only", label, {k: 0 for table in known for k in table})
    parts = []
    for one, table in zip(found, known, strict=True):
        fields = common.without_analyses(one.fields, ("certify", "corruptions"))
        n = one.shipped.clean.n
        fields |= {"ci": 0.0, "examples": min(examples or n, n)}
        chosen = {label: table[label] for label in only if label in table}
        if chosen:
            fields |= {"attacks": chosen, "suite": ""}
        if chosen or not only:
            parts.append(one._replace(fields=fields))
    return parts


def _network(card: zoo.Card, folder: str, train: bool) -> tuple[nn.Module, Variables]:
    """Returns the shipped network, or the same trained again."""
    if not train:
        model, variables, _ = zoo.load(card.name)
        return model, variables
    place = os.path.join(folder, "training")
    arguments = [
        *card_files.arguments(card.command),
        "--mode=train",
        f"--workdir={place}",
    ]
    command = [sys.executable, "-m", "jaxrobust.main", *arguments]
    print(shlex.join(["python", *command[1:]]), flush=True)
    if status := subprocess.run(command).returncode:
        raise ValueError(f"the training ended with status {status}.")
    model, variables, _ = checkpoints.load(place, card.checkpoint)
    return model, variables


def _evaluate(
    card: zoo.Card,
    model: nn.Module,
    variables: Variables,
    part: _Evaluation,
    folder: str,
) -> schema.Results:
    config = {**card.config, "eval": part.fields}
    size, mesh, progress = (
        part.fields["batch_size"],
        parallel.make_mesh(),
        StageProgress(),
    )
    options: Any = {"mesh": mesh, "progress": progress}
    place = os.path.join(folder, part.name) if part.name else folder
    with out_of_memory.explained("eval.batch_size", size, mesh.size):
        found = evaluation.evaluate(model, variables, config, place, **options)
    progress.close()
    return read_part(schema.Results, files.as_plain(found))


def _told(card: zoo.Card, rows: Sequence[Row], trained: bool) -> list[Block]:
    cells = [
        [
            row.what,
            _percent(row.shipped, row.interval),
            str(row.n),
            _percent(row.found, row.found_interval),
            str(row.found_n),
            "yes" if row.holds(trained) else "NO",
        ]
        for row in rows
    ]
    same = all(row.n == row.found_n for row in rows) and not trained
    rule = (
        "It holds if the number found lies within the interval of the shipped one."
        if same
        else "It holds if the 99.9 % intervals of both have a point in common."
    )
    heads = ["", "shipped, %", "images", "found, %", "images", "holds"]
    about = f"{card.name}: {card.title}. {rule} Those shown are Wilson's, 95 %."
    return [Table(heads, cells, (1, 2, 3, 4)), Text(about)]


def _percent(share: float, interval: Sequence[float]) -> str:
    low, high = (100 * end for end in interval)
    return f"{100 * share:.1f} [{low:.1f}, {high:.1f}]"


def _listed() -> Table:
    """Returns the table of all networks."""
    rows = []
    for name in zoo.names():
        card = zoo.card(name)
        results = card.results
        strongest = [a for a in results.attacks if a.name == AUTOATTACK]
        rows.append(
            [
                name,
                card.data,
                card.method,
                f"{card.norm} {card.eps}",
                f"{card.parameters:,}",
                f"{100 * results.clean.accuracy:.1f}",
                " ".join(f"{100 * a.robust_accuracy:.1f}" for a in strongest),
                f"{100 * results.worst_case.robust_accuracy:.1f}",
                str(len(results.flags) or ""),
            ]
        )
    heads = ["name", "data", "trained with", "threat", "parameters", "clean, %"]
    heads += ["AutoAttack, %", "worst case, %", "flags"]
    return Table(heads, rows, (4, 5, 6, 7, 8))


if __name__ == "__main__":
    sys.exit(main())
