"""Two evaluations on the same images, compared example by example.

    python -m jaxrobust.evaluation.comparison runs/a runs/b [--out comparison.json]

Both networks meet the same images, so their accuracies are not independent: what
counts are the images on which the two differ.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Bool

from jaxrobust.evaluation import statistics
from jaxrobust.results import files as stored
from jaxrobust.results import npz, schema, typed
from jaxrobust.runtime import files

# Of an attack in results.json: what it found, and what does not change that.
_FOUND = {field.name for field in dataclasses.fields(schema.AttackSummary)} - {
    field.name for field in dataclasses.fields(schema.Asked)
}

# Arrays of evaluation.npz with a value per example, and their kinds of dtype.
_CLASSES = npz.predicted(npz.CLEAN)
_NEAR = 1e-6  # what rounding may do
_ROWS = {npz.INDICES: "iu", npz.LABELS: "iu", _CLASSES: "iu", npz.ROBUST: "b"}


class Evaluation(NamedTuple):
    """What one evaluation left: results.json and evaluation.npz."""

    results: schema.Compared
    arrays: Mapping[str, np.ndarray]


def read(workdir: epath.PathLike) -> Evaluation:
    """Reads what is compared of an evaluation; what is missing or damaged is named."""
    folder = files.expand(workdir)
    for name in ("results.json", "evaluation.npz"):
        if not (folder / name).exists():
            raise FileNotFoundError(
                f"{folder} holds no {name}: evaluate that run first (--mode=eval)."
            )
    results = stored.read_results(folder / "results.json", schema.Compared)
    arrays = stored.read_arrays(folder / "evaluation.npz", _ROWS)
    stored.require_rows(arrays, _ROWS, folder / "evaluation.npz")
    metrics = stored.read_metrics(folder / "metrics.jsonl")
    if told := stored.trained_since(results.evaluated, metrics):
        raise ValueError(f"{folder}: {told}")
    _require_same_evaluation(folder, results, arrays)
    return Evaluation(results, arrays)


def _require_same_evaluation(
    folder: epath.Path, results: schema.Compared, arrays: Mapping[str, np.ndarray]
) -> None:
    """Raises ValueError where the two files cannot be of one evaluation."""
    right = arrays[_CLASSES] == arrays[npz.LABELS]
    told = []
    if clean := results.clean:
        told.append((clean.accuracy, clean.n, right))
    if worst := results.worst_case:
        told.append((worst.robust_accuracy, worst.n, arrays[npz.ROBUST]))
    for share, n, rows in told:
        if n != len(rows) or abs(share - rows.mean()) > _NEAR:
            raise ValueError(
                f"{folder}: its results.json and evaluation.npz are of two runs: "
                f"{share:.4g} of {n} images in one, {rows.mean():.4g} of {len(rows)} "
                "in the other. Evaluate that run again (--mode=eval)."
            )


def compare(a: Evaluation, b: Evaluation) -> schema.Comparison:
    """Compares two evaluations on the images that both have; refuses other data."""
    data_a, data_b = a.results.data, b.results.data
    for field in ("name", "of"):
        ours, theirs = getattr(data_a, field), getattr(data_b, field)
        if ours != theirs:
            raise ValueError(
                "the two were evaluated on different data: `data."
                f"{field}` is {ours!r} in one, {theirs!r} in the other."
            )
    both, rows_a, rows_b = np.intersect1d(
        a.arrays[npz.INDICES], b.arrays[npz.INDICES], return_indices=True
    )
    if not len(both):
        raise ValueError("the two were evaluated on different images; none is in both.")
    labels = a.arrays[npz.LABELS][rows_a]
    different = int((labels != b.arrays[npz.LABELS][rows_b]).sum())
    if different:
        raise ValueError(
            f"the two were evaluated on different data: {different} of {len(both)} "
            f"images of {data_a.name} have other labels."
        )

    def clean(one: Evaluation, rows: np.ndarray) -> Bool[np.ndarray, "n"]:
        return one.arrays[_CLASSES][rows] == labels

    attacks_a, attacks_b = (_attacks(one.results) for one in (a, b))
    worst = None
    if attacks_a and attacks_b:
        worst = paired(a.arrays[npz.ROBUST][rows_a], b.arrays[npz.ROBUST][rows_b])
    return schema.Comparison(
        n=len(both),
        clean=paired(clean(a, rows_a), clean(b, rows_b)),
        worst_case=worst,
        attacks_a=attacks_a,
        attacks_b=attacks_b,
        same_attacks=_settings(a.results) == _settings(b.results),
    )


def _attacks(results: schema.Compared) -> list[str]:
    """Names the attacks of the worst case, with their threats."""
    return sorted(
        f"{one.name} ({one.norm}, eps {one.written})"
        for one in results.attacks
        if one.eps is not None
    )


def _settings(results: schema.Compared) -> list[str]:
    """Writes out all that the attacks with a radius were told."""
    told = [typed.as_json(one) for one in results.attacks if one.eps is not None]
    return sorted(
        json.dumps({k: v for k, v in one.items() if k not in _FOUND}, sort_keys=True)
        for one in files.as_plain(told)
    )


def paired(a: Bool[np.ndarray, "n"], b: Bool[np.ndarray, "n"]) -> schema.Paired:
    """Compares two shares of the same n examples: Tango's interval, McNemar's test."""
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return schema.Paired(
        a=float(a.mean()),
        b=float(b.mean()),
        difference=(only_a - only_b) / len(a),
        ci95=list(statistics.paired_interval(only_a, only_b, len(a))),
        only_a=only_a,
        only_b=only_b,
        p_value=statistics.mcnemar(only_a, only_b),
    )


def with_twin(
    workdir: epath.PathLike, results: schema.Results, arrays: Mapping[str, Any]
) -> schema.Comparison | None:
    """Compares an evaluation (a) with the one in `workdir`/twin (b).

    None where there is no twin, or it was evaluated on other images.
    """
    assert results.data is not None
    ours = schema.Compared(data=results.data, attacks=[*results.attacks])
    try:
        twin = read(epath.Path(workdir) / "twin")
        return compare(Evaluation(ours, arrays), twin)
    except (FileNotFoundError, ValueError):
        return None


def tell(found: schema.Comparison, a: str, b: str) -> str:
    """Says what `compare` found, in a table and a paragraph."""
    rows = [("accuracy, %", "A", "B", "A - B", "95 % interval", "only A / B", "p")]
    said = [f"A is {a}, B is {b}; {found.n:,} images that both were evaluated on."]
    for one, name in ((found.clean, "clean"), (found.worst_case, "worst case")):
        if one is None:
            said.append("One has no attack with a radius: nothing about robustness.")
            continue
        low, high = one.ci95
        shares = f"{100 * one.a:.1f}", f"{100 * one.b:.1f}"
        difference = f"{100 * one.difference:+.1f}"
        ends = f"[{100 * low:+.1f}, {100 * high:+.1f}]"
        only = f"{one.only_a} / {one.only_b}"
        rows.append((name, *shares, difference, ends, only, f"{one.p_value:.2g}"))
        if one is found.worst_case and not found.same_attacks:
            continue
        which = f"{'A' if low > 0 else 'B'} gets more right."
        if low <= 0 <= high:
            which = "these images do not tell which is more."
        said.append(f"{name.capitalize()}: {which}")
    if not found.same_attacks:
        said.append(
            "They met different attacks, so their worst cases are not comparable: "
            f"{', '.join(found.attacks_a or ()) or 'none'} against "
            f"{', '.join(found.attacks_b or ()) or 'none'}."
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    how = "Intervals: Tango's score for paired shares; p: McNemar's exact test."
    return "\n".join([" ".join(said), "", *lines, "", how])


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxrobust.evaluation.comparison",
        description="Compares two evaluated runs on the images both have.",
    )
    parser.add_argument("run_a", help="an evaluated work directory")
    parser.add_argument("run_b", help="another one, on the same data set")
    parser.add_argument("--out", help="where to write the numbers, as JSON")
    args = parser.parse_args(argv)
    try:
        found = compare(read(args.run_a), read(args.run_b))
        if args.out:
            names = {"a": args.run_a, "b": args.run_b}
            files.write_json(files.expand(args.out), {**names, **typed.as_json(found)})
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(tell(found, args.run_a, args.run_b))
    return 0


if __name__ == "__main__":
    sys.exit(main())
