"""The section of the page about where attacks end and what they do inside."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxrobust.report import analysis_figures, feature_map
from jaxrobust.report.html import Content, Markup, figure, table, tag
from jaxrobust.report.source import Source

Section = list[Markup] | Markup | None


def analyses(source: Source) -> Section:
    """Ranks, gaps, features and distances, as far as they were measured."""
    found = (source.results or {}).get("analyses") or {}
    cards = [
        *_ranks(found.get("class_ranks")),
        *_gaps(source, found.get("probability_gap")),
        *_features(source, found.get("features")),
        *_prototypes(source, found.get("prototypes")),
    ]
    if not cards:
        return None
    return [tag("h2", "Analyses"), tag("div", cards, class_="pair")]


def _ranks(ranks: Mapping[str, Any] | None) -> list[Markup]:
    cards = []
    for attack in (ranks or {}).get("attacks", ()):
        if not any(attack["newly_successful"]):
            continue
        assert ranks
        name = attack["name"].upper()
        note = (
            f"Of the images that {name} newly turns at each radius, the share that end "
            "in the 2nd to 5th most probable class of the clean image (bars), and how "
            f"many they are (line). {ranks['n_correct']:,} of {ranks['n']:,} images "
            "are correct before the attack."
        )
        drawn = analysis_figures.rank_bars(ranks, attack)
        cards.append(figure(drawn, f"Where {name} ends", note))
    return cards


def _gaps(source: Source, gaps: Mapping[str, Any] | None) -> list[Markup]:
    if not gaps:
        return []
    twin = (source.twin.results if source.twin else None) or {}
    theirs = (twin.get("analyses") or {}).get("probability_gap")
    heads = ["images", "all", "correct"] + ["twin, all"] * bool(theirs)
    other = _by_label(theirs) if theirs else {}
    rows = [
        [label, *(_signed(values[k]) for k in ("all", "correct"))]
        + ([_signed(other.get(label, {}).get("all"))] if theirs else [])
        for label, values in _by_label(gaps).items()
    ]
    note = (
        "Probability of the true class minus that of the best wrong one, mean over "
        f"{gaps['n']:,} images and over the {gaps['n_correct']:,} that are correct "
        "before the attack."
    )
    return [_card("Probability gap", table(heads, rows, right=(1, 2, 3)), note)]


def _by_label(gaps: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    attacked = {one["label"]: one for one in gaps["attacks"]}
    return {"clean": gaps["clean"], **attacked}


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.3f}"


def _card(title: str, content: Content, note: str) -> Markup:
    caption = tag("figcaption", note, class_="below")
    return tag("figure", tag("h3", title), content, caption, class_="card")


def _features(source: Source, features: Mapping[str, Any] | None) -> list[Markup]:
    pairs = source.arrays.get("features")
    if features is None or pairs is None:
        return []
    found = feature_map.embed(pairs, source.arrays["features_labels"])
    if found is None:
        return []
    places, labels = found
    names = [str(name) for name in source.arrays["class_names"]]
    note = (
        f"t-SNE of the penultimate features of {len(labels):,} images: clean ones are "
        f"dots, the same ones attacked ({features['attack']}) crosses, in the colour "
        "of their true class. Distances between groups mean nothing."
    )
    drawn = analysis_figures.scatter(places, labels, names)
    return [figure(drawn, "Penultimate features", note)]


def _prototypes(source: Source, found: Mapping[str, Any] | None) -> list[Markup]:
    cards = []
    for layer, numbers in (found or {}).get("layers", {}).items():
        distances = source.arrays.get(f"distances/{layer}")
        if distances is None or not np.isfinite(distances).all():
            continue
        assert found
        shares = [numbers[side]["nearest_is_own"] for side in ("clean", "attacked")]
        note = (
            f"Distance of the features {layer} to the centre of their class and to the "
            f"nearest other one, {found['n']:,} images, attacked by {found['attack']}. "
            f"The own centre is the nearest for {shares[0]:.1%} clean and "
            f"{shares[1]:.1%} attacked."
        )
        drawn = analysis_figures.distance_histogram(layer, distances)
        cards.append(figure(drawn, f"Distances to prototypes, {layer}", note))
    return cards
