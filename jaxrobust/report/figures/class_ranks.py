"""Where attacks end: ranks of the classes."""

import numpy as np

from jaxrobust.report import drawing
from jaxrobust.report.html import Markup, card
from jaxrobust.report.source import Arrays
from jaxrobust.results import Results
from jaxrobust.results.analysis_schema import ClassRanks, Sweep

ORDINALS = {2: "2nd", 3: "3rd"}
SHADES = (1.0, 0.7, 0.45, 0.25)


def figure(results: Results, arrays: Arrays, twin: Results | None) -> list[Markup]:
    """Draws one card per attack that newly turned some images."""
    ranks = results.analyses and results.analyses.class_ranks
    if ranks is None:
        return []
    cards = []
    for attack in ranks.attacks:
        if not any(attack.newly_successful):
            continue
        name = attack.name.upper()
        note = (
            f"Of the images that {name} newly turns at each radius, the share that end "
            "in the 2nd to 5th most probable class of the clean image (bars), and how "
            f"many they are (line). {ranks.n_correct:,} of {ranks.n:,} images "
            "are correct before the attack."
        )
        cards.append(card(draw(ranks, attack), f"Where {name} ends", note))
    return cards


def draw(ranks: ClassRanks, attack: Sweep) -> str:
    """Draws where an attack ends: stacked shares per rank, and the number as a line."""
    figure, axes = drawing.make_axes()
    at = np.arange(len(ranks.eps))
    below = np.zeros(len(at))
    columns = np.nan_to_num(np.array(attack.share, float)).T * 100
    for rank, values, shade in zip(ranks.ranks, columns, SHADES, strict=False):
        name, color = ORDINALS.get(rank, f"{rank}th"), drawing.COLORS["clean"]
        axes.bar(at, values, 0.7, bottom=below, label=name, color=color, alpha=shade)
        below += values
    axes.set_xticks(at, ranks.eps_text)
    axes.set_ylim(0, 102)
    drawing.finish(axes, "eps (L∞), not to scale", "share (%)", columns=4)
    count = axes.twinx()
    count.spines[["top", "left", "bottom"]].set_visible(False)
    count.spines["right"].set_color(drawing.COLORS["line"])
    color = drawing.COLORS["robust"]
    count.tick_params(colors=color, labelsize=9, length=3)
    drawing.plot(count, at, attack.newly_successful, "robust")
    count.set_ylim(0, 1.05 * max(attack.newly_successful))
    count.yaxis.get_major_locator().set_params(integer=True)
    count.set_ylabel("newly turned images", color=color, fontsize=9.5)
    return drawing.to_svg(figure, f"Ranks of the classes that {attack.name} ends in")
