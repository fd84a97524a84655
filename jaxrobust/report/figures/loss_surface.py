"""The loss of a few images over a plane, and where the network changes its mind."""

import numpy as np
from jaxtyping import Float

from jaxrobust.report import drawing
from jaxrobust.report.html import Markup, card
from jaxrobust.report.source import Arrays
from jaxrobust.results import Results, npz

LEVELS = 9
SHADES = np.linspace(0.0, 0.75, LEVELS)
Plane = Float[np.ndarray, "P P"]


def figure(results: Results, arrays: Arrays, twin: Results | None) -> list[Markup]:
    """Draws a card per image."""
    found, held = results.loss_surface, npz.LossSurfaceArrays.of(arrays)
    if found is None or held is None:
        return []
    names = npz.class_names(arrays)
    cards = []
    rows = zip(held.surface_loss, held.surface_margin, held.surface_labels, strict=True)
    for number, (loss, margin, label) in enumerate(rows):
        if not (np.isfinite(loss).all() and np.isfinite(margin).all()):
            continue
        note = (
            f"Cross-entropy from {loss.min():.3g} (pale) to {loss.max():.3g} (dark): "
            f"to the right along what {found.attack} found, up along random signs; 1 "
            f"is eps {found.eps_text} ({drawing.NORMS[found.norm]}). "
            f"{_share(margin)} Images are cut to [0, 1]."
        )
        about = f"Loss surface, image {number + 1} ({names[int(label)]})"
        cards.append(card(draw(loss, margin, held.surface_at, about), about, note))
    return cards


def _share(margin: Plane) -> str:
    """Says where the boundary is, or that there is none."""
    wrong = (margin > 0).mean()
    if wrong in (0, 1):
        return f"The image is {'wrong' if wrong else 'right'} everywhere here."
    return "Beyond the line the network is wrong."


def draw(
    loss: Plane, margin: Plane, at: Float[np.ndarray, "P"], description: str
) -> str:
    """Draws shades of the loss, the line where the margin is 0, and both images.

    The first axis of the planes goes to the right.
    """
    figure, axes = drawing.make_axes((drawing.SIZE[0], 4.2))
    axes.grid(visible=False)
    low, high = float(loss.min()), float(loss.max())
    if high > low:
        edges = np.linspace(low, high, LEVELS + 1)
        ground = [(drawing.COLORS["clean"], float(shade)) for shade in SHADES]
        axes.contourf(at, at, loss.T, levels=edges, colors=ground)
    if margin.min() < 0 < margin.max():
        line = {"colors": drawing.COLORS["robust"], "linewidths": 2}
        axes.contour(at, at, margin.T, levels=[0.0], **line)
    ink = drawing.COLORS["ink"]
    axes.plot([0], [0], "o", color=ink, markersize=5, label="clean")
    axes.plot([1], [0], "x", color=ink, markersize=6, label="attacked")
    axes.set_aspect("equal")
    drawing.finish(axes, "along the attack (eps)", "random signs (eps)", columns=2)
    return drawing.to_svg(figure, description)
