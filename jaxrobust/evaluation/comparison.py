"""Two evaluations on the same images, compared example by example.

    python -m jaxrobust.evaluation.comparison runs/a runs/b [--out comparison.json]

Both networks meet the same images, so their accuracies are not independent: what
counts are the images on which the two differ.
"""

import argparse
import sys
from collections.abc import Sequence

from jaxrobust.evaluation import paired
from jaxrobust.results import as_json
from jaxrobust.results.schema import Comparison
from jaxrobust.runtime import files


def tell(found: Comparison, a: str, b: str) -> str:
    """Says what `paired.compare` found, in a table and a paragraph."""
    rows = [("accuracy, %", "A", "B", "A - B", "95 % interval", "only A / B", "p")]
    said = [f"A is {a}, B is {b}; {found.n:,} images that both were evaluated on."]
    for one, name in ((found.clean, "clean"), (found.worst_case, "worst case")):
        if one is None:
            said.append("One has no attack with a radius: nothing about robustness.")
            continue
        low, high = one.ci95
        rows.append(
            (
                name,
                f"{100 * one.a:.1f}",
                f"{100 * one.b:.1f}",
                f"{100 * one.difference:+.1f}",
                f"[{100 * low:+.1f}, {100 * high:+.1f}]",
                f"{one.only_a} / {one.only_b}",
                f"{one.p_value:.2g}",
            )
        )
        if one is found.worst_case and not found.same_attacks:
            continue
        if low <= 0 <= high:
            said.append(f"{name.capitalize()}: these images do not tell which is more.")
        else:
            more = "A" if low > 0 else "B"
            said.append(f"{name.capitalize()}: {more} gets more right.")
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
        found = paired.compare(paired.read(args.run_a), paired.read(args.run_b))
        if args.out:
            names = {"a": args.run_a, "b": args.run_b}
            files.write_json(files.expand(args.out), {**names, **as_json(found)})
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(tell(found, args.run_a, args.run_b))
    return 0


if __name__ == "__main__":
    sys.exit(main())
