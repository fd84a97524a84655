"""Runs compared: two in a table, more on one page.

    jaxrobust compare runs/a runs/b               # two, image by image, as text
    jaxrobust compare runs/*                      # any number; comparison.html
    jaxrobust compare runs/a runs/b --page two.html

Runs that differ by nothing but their seed are one row of the page: mean and standard
deviation. Folders without a run are left out and named.
"""

import argparse
import itertools
import os
import sys
from collections.abc import Sequence
from typing import Any

from etils import epath

from jaxrobust.evaluation import comparison, statistics
from jaxrobust.report import many, source
from jaxrobust.report.many import groups, pairs, table
from jaxrobust.results import typed
from jaxrobust.runtime import files

PAGE = "comparison.html"
_Read = comparison.Evaluation | str  # or why it cannot be read


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="jaxrobust compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="an evaluated work directory")
    add("--out", help="where to write the numbers, as JSON")
    add("--page", help=f"the page; {PAGE} for more than two runs")
    args = parser.parse_args(argv)
    if len(args.runs) > 1 and len({os.path.realpath(run) for run in args.runs}) == 1:
        print(f"error: {args.runs[0]} is one run; name another.", file=sys.stderr)
        return 1
    if len(args.runs) == 2 and not args.page:
        out = [f"--out={args.out}"] if args.out else []
        return comparison.main([*args.runs, *out])
    try:
        runs, left_out = read(args.runs)
        for line in left_out:
            print(f"left out: {line}", file=sys.stderr)
        found = compare(runs)
        if args.out:
            files.write_json(files.expand(args.out), _numbers(runs, found))
        page = many.write(args.page or PAGE, runs, found, left_out)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"page: {page}")
    return 0


def read(paths: Sequence[str]) -> tuple[list[groups.EvaluatedRun], list[str]]:
    """Reads runs, each folder once; also returns what is none, with the reason.

    Raises:
      FileNotFoundError: for a path where nothing is, or if no run is left.
    """
    runs, left_out = [], []
    folders = dict.fromkeys(os.fspath(files.expand(p)).rstrip("/") for p in paths)
    for folder, name in zip(folders, groups.names([*folders]), strict=True):
        if not epath.Path(folder).exists():
            raise FileNotFoundError(f"there is no {folder}; name folders of runs.")
        if not epath.Path(folder).is_dir():
            left_out.append(f"{folder} is no folder.")
            continue
        try:
            found = source.read(folder, arrays=False)
        except (ValueError, OSError) as error:
            left_out.append(str(error))
            continue
        if found.trained_since:
            left_out.append(f"{folder}: {found.trained_since}")
            continue
        runs.append(groups.EvaluatedRun(name, folder, found))
    if not runs:
        raise FileNotFoundError(f"no run among {', '.join(folders)}.")
    return runs, left_out


def compare(runs: Sequence[groups.EvaluatedRun]) -> list[pairs.Pair]:
    """Compares every two runs, image by image, or says why that cannot be done."""
    evaluated: dict[str, _Read] = {}
    for run in runs:
        try:
            evaluated[run.name] = comparison.read(run.path)
        except (ValueError, OSError) as error:
            evaluated[run.name] = str(error)
    found = [
        _pair(a, b, evaluated[a], evaluated[b])
        for a, b in itertools.combinations(evaluated, 2)
    ]
    worst = {
        i: pair.found.worst_case.p_value
        for i, pair in enumerate(found)
        if pair.found and pair.found.worst_case and pair.found.same_attacks
    }
    adjusted = dict(zip(worst, statistics.holm(list(worst.values())), strict=True))
    return [one._replace(adjusted=adjusted.get(i)) for i, one in enumerate(found)]


def _pair(a: str, b: str, first: _Read, second: _Read) -> pairs.Pair:
    if isinstance(first, str):
        return pairs.Pair(a, b, why=first)
    if isinstance(second, str):
        return pairs.Pair(a, b, why=second)
    try:
        return pairs.Pair(a, b, comparison.compare(first, second))
    except ValueError as error:
        return pairs.Pair(a, b, why=str(error))


def _numbers(
    runs: Sequence[groups.EvaluatedRun], found: Sequence[pairs.Pair]
) -> dict[str, Any]:
    """Returns what `--out` gets: the numbers of the table and of the pairs."""
    return {
        "groups": [
            {
                "name": group.name,
                "runs": [run.path for run in group.runs],
                "accuracy": {
                    key: {**one._asdict(), "ci95": one.ci95}
                    for key, one in table.by_name(group).items()
                },
            }
            for group in groups.grouped(runs)
        ],
        "pairs": [
            {
                **{"a": pair.a, "b": pair.b, "adjusted_p": pair.adjusted},
                **(typed.as_json(pair.found) if pair.found else {"why": pair.why}),
            }
            for pair in found
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
