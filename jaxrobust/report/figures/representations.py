"""Features and distances to class centres, of clean and attacked images."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib import colormaps
from matplotlib.colors import to_hex

from jaxrobust.report import drawing
from jaxrobust.report.html import Markup, card
from jaxrobust.report.source import Arrays
from jaxrobust.results import Results, npz
from jaxrobust.results.analysis_schema import Features, Prototypes

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
LONGEST_NAME = 12
BINS = 40
FEWEST = 30  # images on a map
MOST = 500  # a map of more takes minutes and shows no more
WIDTH = 50


def figure(results: Results, arrays: Arrays, twin: Results | None) -> list[Markup]:
    """Draws a map of the features, and distances per layer."""
    found = results.analyses
    if found is None:
        return []
    return [*_features(arrays, found.features), *_prototypes(arrays, found.prototypes)]


def _features(arrays: Arrays, features: Features | None) -> list[Markup]:
    held = npz.FeaturesArrays.of(arrays)
    if features is None or held is None:
        return []
    found = embed(held.features, held.features_labels)
    if found is None:
        return []
    places, labels = found
    names = npz.class_names(arrays)
    note = (
        f"t-SNE of the penultimate features of {len(labels):,} images: clean ones are "
        f"dots, the same ones attacked ({features.attack}) crosses, in the colour "
        "of their true class. Distances between groups mean nothing."
    )
    return [card(scatter(places, labels, names), "Penultimate features", note)]


def _prototypes(arrays: Arrays, found: Prototypes | None) -> list[Markup]:
    if found is None:
        return []
    cards = []
    for layer, numbers in found.layers.items():
        distances = arrays.get(npz.distances(layer))
        if distances is None or not np.isfinite(distances).all():
            continue
        note = (
            f"Distance of the features {layer} to the centre of their class and to the "
            f"nearest other one, {found.n:,} images, attacked by {found.attack}. "
            f"The own centre is the nearest for {numbers.clean.nearest_is_own:.1%} "
            f"clean and {numbers.attacked.nearest_is_own:.1%} attacked."
        )
        drawn = distance_histogram(layer, distances)
        cards.append(card(drawn, f"Distances to prototypes, {layer}", note))
    return cards


def embed(
    pairs: Float[np.ndarray, "N 2 D"], labels: Int[np.ndarray, "N"]
) -> tuple[Float[np.ndarray, "M 2 2"], Int[np.ndarray, "M"]] | None:
    """Places clean and attacked features on one map by t-SNE, the same at each call.

    Returns:
      Places of M clean and attacked images and their labels; at most 500 of the images,
      always the same ones. None where there is nothing to map: under 30 images, or
      features that are all the same.

    Reference:
      van der Maaten and Hinton, Visualizing data using t-SNE, JMLR 9, 2008; fewer
      dimensions by PCA first, as in its section 4.
    """
    # Slow to import, and most reports are written without it.
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    rows = np.flatnonzero(np.isfinite(pairs).all((1, 2)))
    if len(rows) > MOST:
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:MOST])
    features = np.asarray(pairs[rows], np.float64)
    points = features.reshape(2 * len(rows), -1)
    if len(rows) < FEWEST or points.shape[1] < 2 or np.ptp(points) == 0:
        return None
    points = (points - points.mean(0)) / points.std()
    # One thread: so few points gain nothing from more, which on a busy machine wait for
    # each other ten times as long.
    with threadpool_limits(1):
        if points.shape[1] > WIDTH:
            reduce = PCA(min(WIDTH, *points.shape), svd_solver="full")
            points = reduce.fit_transform(points)
        perplexity = min(30.0, (len(points) - 1) / 3)
        map_ = TSNE(perplexity=perplexity, init="random", random_state=0)
        places = map_.fit_transform(points)
    return places.reshape(len(rows), 2, 2), labels[rows]


def scatter(
    places: Float[np.ndarray, "M 2 2"],
    labels: Int[np.ndarray, "M"],
    names: Sequence[str],
) -> str:
    """Draws a map: clean images as dots, attacked ones as crosses, colours per class.

    A legend names up to ten classes.
    """
    figure, axes = drawing.make_axes((drawing.SIZE[0], 4.6))
    axes.grid(visible=False)
    axes.set(xticks=[], yticks=[])
    axes.spines[["left", "bottom"]].set_visible(False)
    present = np.unique(labels)
    few = len(names) <= len(CLASSES)
    wheel = colormaps["hsv"]
    for k in present:
        color = CLASSES[k] if few else to_hex(wheel(k / len(names)))
        own = places[labels == k]
        name = drawing.short(names[int(k)], LONGEST_NAME)
        axes.scatter(*own[:, 0].T, s=11, color=color, linewidths=0, label=name)
        axes.scatter(*own[:, 1].T, s=13, color=color, marker="x", linewidths=0.9)
    drawing.finish(axes, "", "", columns=5 if few else 0)
    return drawing.to_svg(figure, "Map of the penultimate features, clean and attacked")


def distance_histogram(layer: str, distances: Float[np.ndarray, "N 2 2"]) -> str:
    """Draws distances to the own and the nearest other centre, clean and attacked."""
    figure, axes = drawing.make_axes()
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
                color=drawing.COLORS[color],
                linestyle=dashes,
                linewidth=1.6,
                label=who,
            )
    drawing.finish(axes, "distance", "images", columns=2)
    return drawing.to_svg(figure, f"Distances to class centres of the features {layer}")
