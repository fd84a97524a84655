"""One perturbation and one patch for all images, as pictures, and what they leave."""

import numpy as np

from jaxrobust.report.html import Markup, image, table, tag
from jaxrobust.report.source import Arrays
from jaxrobust.report.verdict import interval, percent
from jaxrobust.results import Results, npz


def figure(results: Results, arrays: Arrays, twin: Results | None) -> list[Markup]:
    """A table of both, and their pictures."""
    del twin
    found, held = results.universal, npz.UniversalArrays.of(arrays)
    if found is None or held is None:
        return []
    rows = [["as they are", percent(found.clean.accuracy), interval(found.clean.ci95)]]
    of = {f"perturbation, L∞ {found.eps_text}": found.perturbed}
    if found.patched:
        of[f"patch of {found.side} x {found.side} pixels"] = found.patched
    for name, one in of.items():
        rows.append([name, percent(one.robust_accuracy), interval(one.ci95)])
    heads = ["all images with the same", "right", "95 % interval"]
    said = (
        f"Made on {found.n:,} test images, judged on {found.n:,} others; the patch is "
        "at a random place of each. These are the same for all images, so they bound "
        "nothing that is made for one image."
    )
    return [
        tag("h3", "One perturbation for all images"),
        table(heads, rows, right=(1, 2)),
        _pictures(held),
        tag("p", said, class_="soft below"),
    ]


def _pictures(held: npz.UniversalArrays) -> Markup:
    """The perturbation (grey is none), the patch to print, and images with it."""
    change = held.universal_perturbation
    most = max(float(np.abs(change).max()), 1e-6)
    shown = [("perturbation, enlarged", 0.5 + change / (2 * most))]
    if held.universal_patch is not None and held.universal_patched is not None:
        shown.append(("patch", held.universal_patch))
        shown += [("with the patch", one) for one in held.universal_patched[:2]]
    cells = [tag("span", image(p, name), tag("span", name)) for name, p in shown]
    return tag("div", tag("span", cells, class_="quad"), class_="card")
