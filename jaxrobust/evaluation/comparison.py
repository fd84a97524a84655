"""Two evaluations on the same images, compared example by example.

    python -m jaxrobust.evaluation.comparison runs/a runs/b [--out comparison.json]

Both networks meet the same images, so their accuracies are not independent: what
counts are the images on which the two differ.
"""

import argparse
import io
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Bool

from jaxrobust.evaluation import files, statistics

Results = dict[str, Any]


class Evaluation(NamedTuple):
    """What one evaluation left: results.json and evaluation.npz."""

    results: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]


def read(workdir: epath.PathLike) -> Evaluation:
    """Reads the evaluation in a work directory.

    Raises:
      FileNotFoundError: if there is none.
    """
    folder = epath.Path(workdir)
    for name in ("results.json", "evaluation.npz"):
        if not (folder / name).exists():
            raise FileNotFoundError(
                f"{folder} holds no {name}: evaluate that run first (--mode=eval)."
            )
    content = io.BytesIO((folder / "evaluation.npz").read_bytes())
    with np.load(content, allow_pickle=False) as arrays:
        return Evaluation(
            json.loads((folder / "results.json").read_text()), dict(arrays)
        )


def compare(a: Evaluation, b: Evaluation) -> Results:
    """Compares two evaluations on the images that both have.

    Returns:
      For JSON: `n`, and under `clean` and (if both have an attack with a radius)
      `worst_case` what `paired` returns; `same_attacks`, `attacks_a`, `attacks_b`.

    Raises:
      ValueError: for other data sets, images or labels, naming both.
    """
    data_a, data_b = (one.results["data"] for one in (a, b))
    for field in ("name", "of"):
        if data_a[field] != data_b[field]:
            raise ValueError(
                "the two were evaluated on different data: `data."
                f"{field}` is {data_a[field]!r} in one, {data_b[field]!r} in the other."
            )
    both, rows_a, rows_b = np.intersect1d(
        a.arrays["indices"], b.arrays["indices"], return_indices=True
    )
    if not len(both):
        raise ValueError("the two were evaluated on different images; none is in both.")
    labels = a.arrays["labels"][rows_a]
    different = int((labels != b.arrays["labels"][rows_b]).sum())
    if different:
        raise ValueError(
            f"the two were evaluated on different data: {different} of {len(both)} "
            f"images of {data_a['name']} have other labels."
        )

    def clean(one: Evaluation, rows: np.ndarray) -> Bool[np.ndarray, "n"]:
        return one.arrays["predicted_clean"][rows] == labels

    attacks_a, attacks_b = (_attacks(one.results) for one in (a, b))
    found: Results = {
        "n": len(both),
        "clean": paired(clean(a, rows_a), clean(b, rows_b)),
        "attacks_a": attacks_a,
        "attacks_b": attacks_b,
        "same_attacks": attacks_a == attacks_b,
    }
    if attacks_a and attacks_b:
        robust = a.arrays["robust"][rows_a], b.arrays["robust"][rows_b]
        found["worst_case"] = paired(*robust)
    return found


def _attacks(results: Mapping[str, Any]) -> list[str]:
    """Names the attacks of the worst case, with their threats."""
    return sorted(
        f"{one['name']} ({one['norm']}, eps {one['eps_text']})"
        for one in results["attacks"]
        if one["eps"] is not None
    )


def paired(a: Bool[np.ndarray, "n"], b: Bool[np.ndarray, "n"]) -> Results:
    """Compares two shares of the same n examples.

    Returns:
      The shares `a` and `b`; `difference` a - b with its interval `ci95`
      (`statistics.paired_interval`); `only_a` and `only_b`, the numbers of examples
      that one alone gets right; `p_value` of McNemar's exact test that both shares are
      the same.
    """
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return {
        "a": float(a.mean()),
        "b": float(b.mean()),
        "difference": (only_a - only_b) / len(a),
        "ci95": list(statistics.paired_interval(only_a, only_b, len(a))),
        "only_a": only_a,
        "only_b": only_b,
        "p_value": statistics.mcnemar(only_a, only_b),
    }


def with_twin(
    workdir: epath.PathLike, results: Mapping[str, Any], arrays: Mapping[str, Any]
) -> Results | None:
    """Compares an evaluation (a) with the one in `workdir`/twin (b).

    None where there is no twin, or it was evaluated on other images.
    """
    try:
        twin = read(epath.Path(workdir) / "twin")
        return compare(Evaluation(results, arrays), twin)
    except (FileNotFoundError, ValueError):
        return None


def tell(found: Mapping[str, Any], a: str, b: str) -> str:
    """Says what `compare` found, in a table and a paragraph."""
    names = {"clean": "clean", "worst_case": "worst case"}
    rows = [("accuracy, %", "A", "B", "A - B", "95 % interval", "only A / B", "p")]
    said = [f"A is {a}, B is {b}; {found['n']:,} images that both were evaluated on."]
    for key, name in names.items():
        if key not in found:
            said.append("One has no attack with a radius: nothing about robustness.")
            continue
        one = found[key]
        low, high = one["ci95"]
        rows.append(
            (
                name,
                f"{100 * one['a']:.1f}",
                f"{100 * one['b']:.1f}",
                f"{100 * one['difference']:+.1f}",
                f"[{100 * low:+.1f}, {100 * high:+.1f}]",
                f"{one['only_a']} / {one['only_b']}",
                f"{one['p_value']:.2g}",
            )
        )
        if low <= 0 <= high:
            said.append(f"{name.capitalize()}: these images do not tell which is more.")
        else:
            more = "A" if low > 0 else "B"
            said.append(f"{name.capitalize()}: {more} gets more right.")
    if not found["same_attacks"]:
        said.append(
            "They met different attacks, so their worst cases are not comparable: "
            f"{', '.join(found['attacks_a']) or 'none'} against "
            f"{', '.join(found['attacks_b']) or 'none'}."
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
            files.write_json(args.out, {**names, **found})
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(tell(found, args.run_a, args.run_b))
    return 0


if __name__ == "__main__":
    sys.exit(main())
