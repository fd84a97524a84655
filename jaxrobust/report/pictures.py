"""The sections of the page that show images."""

from collections.abc import Sequence

import numpy as np

from jaxrobust.report.drawing import NORMS
from jaxrobust.report.html import Content, Markup, Section, image, tag
from jaxrobust.report.source import RunFiles
from jaxrobust.results import npz


def images(source: RunFiles) -> Section:
    """Clean image, amplified perturbation and attacked image of some examples."""
    found = npz.Grid.of(source.arrays)
    if found is None:
        return None
    clean = found.grid_images / 255.0
    moved = found.grid_x_adv - clean
    gain = 0.5 / max(float(np.abs(moved).max()), 1e-6)
    names = npz.class_names(source.arrays)
    cards = []
    for i, x in enumerate(clean):
        label, before, after = (
            int(classes[i])
            for classes in (
                found.grid_labels,
                found.grid_predicted,
                found.grid_predicted_adv,
            )
        )
        change = 0.5 + gain * moved[i]
        shown = (("clean", x), ("change", change), ("attacked", x + moved[i]))
        says = [
            f"{names[label]}: seen as ",
            _says(names[before], before == label),
            ", attacked ",
            _says(names[after], after == label),
        ]
        cards.append(_card(shown, "triple", says, _sizes(moved[i])))
    # AutoAttack leaves what it fails on as it was; float32 rounds by less than this.
    largest = np.abs(moved).reshape(len(moved), -1).max(-1)
    untouched = (largest < 1e-6).any()
    note = (
        f"Attacked by {found.grid_attack}; a fixed random choice of images. "
        f"Changes are shown {gain:.3g} times as large; grey is none"
        + (": nothing was found, or nothing to do." if untouched else ".")
        + " A click makes a row larger."
    )
    return _section("Images", note, cards)


def _sizes(change: np.ndarray) -> str:
    """Says how large a change is in each norm."""
    flat = np.abs(np.asarray(change, np.float64)).ravel()
    sizes = flat.max(initial=0), np.sqrt(np.square(flat).sum()), flat.sum()
    named = zip(("linf", "l2", "l1"), sizes, strict=True)
    told = ", ".join(f"{NORMS[norm]} {size:.3g}" for norm, size in named)
    return f"{told} (L∞ is {255 * sizes[0]:.3g} of 255 levels)."


def _says(name: str, right: bool) -> Markup:
    mark = f"{name} {'✓' if right else '✗'}"
    return tag("b", mark, class_="right-class" if right else "wrong-class")


def restored(source: RunFiles) -> Section:
    """Images, the attacked ones, and what the network restores of both."""
    held = npz.Restored.of(source.arrays)
    if held is None:
        return None
    names = npz.class_names(source.arrays)
    cards = []
    for i, pair in enumerate(held.restored):
        shown = (
            ("clean", held.restored_images[i] / 255.0),
            ("attacked", held.restored_x_adv[i]),
            ("restored from clean", pair[0]),
            ("restored from attacked", pair[1]),
        )
        label = int(held.restored_labels[i])
        of = pair[1] - held.restored_images[i] / 255.0
        more = f"Restored from attacked, less the clean image: {_sizes(of)}"
        cards.append(_card(shown, "quad", [names[label]], more))
    analyses = source.results and source.results.analyses
    note = "What the network's decoder makes of the images before it classifies them."
    if found := analyses and analyses.restoration:
        attacked, clean, both = (
            "not finite" if v is None else f"{v:.3g}" for v in vars(found.mse).values()
        )
        note += (
            f" Mean squared difference to the clean image over {found.n:,} images "
            f"({found.attack}): attacked {attacked}, restored from clean {clean}, from "
            f"attacked {both}."
        )
    return _section("Restored images", note, cards)


def _section(title: str, note: str, cards: list[Markup]) -> list[Markup]:
    images = tag("div", cards, class_="images")
    return [tag("h2", title), tag("p", note, class_="soft"), images]


def _card(
    shown: Sequence[tuple[str, np.ndarray]], css: str, says: Content, more: str
) -> Markup:
    """Puts images side by side; who opens the card sees them larger, and more."""
    parts = [tag("span", image(p, t), tag("span", t)) for t, p in shown]
    row, below = tag("span", parts, class_=css), tag("span", says, class_="says")
    inside = tag("summary", row, below)
    return tag("details", inside, tag("p", more, class_="soft"), class_="card zoom")
