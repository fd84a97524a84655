"""Drawings of the analyses."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib import colormaps
from matplotlib.colors import to_hex

from jaxrobust.report.figures import (
    COLORS,
    SIZE,
    add_legend,
    finish,
    make_axes,
    short,
    to_svg,
)

# Readable on the page's light and dark ground.
CLASSES = (
    "#3b82c4",
    "#e07b39",
    "#3fa35b",
    "#d2504c",
    "#8f6cc9",
    "#9a7358",
    "#d66fb0",
    "#8a8f98",
    "#b5a52d",
    "#27a9b8",
)
ORDINALS = {2: "2nd", 3: "3rd"}
SHADES = (1.0, 0.7, 0.45, 0.25)
LONGEST_NAME = 12
BINS = 40


def rank_bars(ranks: Mapping[str, Any], attack: Mapping[str, Any]) -> str:
    """Draws where one attack ends: stacked shares per rank, and the number as a line.

    Args:
      ranks: `analyses.class_ranks` of results.json.
      attack: one of its attacks.
    """
    figure, axes = make_axes()
    at = np.arange(len(ranks["eps"]))
    shares = [[np.nan if s is None else s for s in row] for row in attack["share"]]
    below = np.zeros(len(at))
    columns = np.nan_to_num(np.asarray(shares, float)).T * 100
    for rank, values, shade in zip(ranks["ranks"], columns, SHADES, strict=False):
        axes.bar(
            at,
            values,
            0.7,
            bottom=below,
            color=COLORS["clean"],
            alpha=shade,
            label=ORDINALS.get(rank, f"{rank}th"),
        )
        below += values
    axes.set_xticks(at, ranks["eps_text"])
    axes.set_ylim(0, 102)
    finish(axes, "eps (L∞), not to scale", "share (%)", legend=False)
    add_legend(axes, 4)
    count = axes.twinx()
    for side in ("top", "left", "bottom"):
        count.spines[side].set_visible(False)
    count.spines["right"].set_color(COLORS["line"])
    count.tick_params(colors=COLORS["robust"], labelsize=9, length=3)
    count.plot(
        at,
        attack["newly_successful"],
        color=COLORS["robust"],
        linewidth=1.8,
        marker="o",
        markersize=4,
    )
    count.set_ylim(0, 1.05 * max(attack["newly_successful"]))
    count.yaxis.get_major_locator().set_params(integer=True)
    count.set_ylabel("newly turned images", color=COLORS["robust"], fontsize=9.5)
    return to_svg(figure, f"Ranks of the classes that {attack['name']} ends in")


def scatter(
    places: Float[np.ndarray, "M 2 2"],
    labels: Int[np.ndarray, "M"],
    names: Sequence[str],
) -> str:
    """Draws a map: clean images as dots, attacked ones as crosses, colours per class.

    Args:
      places: of clean (first) and attacked images.
      labels: their true classes.
      names: of the classes; a legend names up to ten of them.
    """
    figure, axes = make_axes((SIZE[0], 4.6))
    axes.grid(visible=False)
    axes.set(xticks=[], yticks=[])
    axes.spines[["left", "bottom"]].set_visible(False)
    present = np.unique(labels)
    few = len(names) <= len(CLASSES)
    wheel = colormaps["hsv"]
    for k in present:
        color = CLASSES[k] if few else to_hex(wheel(k / len(names)))
        own = places[labels == k]
        name = short(names[int(k)], LONGEST_NAME)
        axes.scatter(*own[:, 0].T, s=11, color=color, linewidths=0, label=name)
        axes.scatter(*own[:, 1].T, s=13, color=color, marker="x", linewidths=0.9)
    if few:
        add_legend(axes, 5)
    return to_svg(figure, "Map of the penultimate features, clean and attacked")


def distance_histogram(layer: str, distances: Float[np.ndarray, "N 2 2"]) -> str:
    """Draws distances to the own and the nearest other centre, clean and attacked.

    Args:
      layer: whose features.
      distances: per image, clean and attacked, own and other.
    """
    figure, axes = make_axes()
    last = float(np.quantile(distances, 0.99))
    edges = np.linspace(0, last if last > 0 else 1, BINS + 1)
    for side, color in ((0, "clean"), (1, "robust")):
        for kind, dashes in ((0, "-"), (1, ":")):
            values = np.minimum(distances[:, side, kind], edges[-1])
            counts, _ = np.histogram(values, edges)
            who = f"{('clean', 'attacked')[side]}, {('own', 'other')[kind]}"
            axes.stairs(
                counts,
                edges,
                color=COLORS[color],
                linestyle=dashes,
                linewidth=1.6,
                label=who,
            )
    finish(axes, "distance", "images", legend=False)
    add_legend(axes, 2)
    return to_svg(figure, f"Distances to class centres of the features {layer}")
