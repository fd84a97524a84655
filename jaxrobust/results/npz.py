"""evaluation.npz and adversarial.npz: the name of every array, once.

What has a value per example stands under a constant or a function of an attack's label
here; arrays that belong together are a class, whose fields are their names.
"""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from jaxrobust.results.typed import Part

Arrays = Mapping[str, Any]

CLEAN = "clean"  # the label of the pass over the images as they are

# Per example: its place in the test set, its label, the cross-entropy of the clean
# image, and whether it is right in the worst case.
INDICES = "indices"
LABELS = "labels"
CLEAN_LOSS = "clean_loss"
ROBUST = "robust"
CLASS_NAMES = "class_names"


def predicted(label: str) -> str:
    """Names the classes [N] that a pass gave."""
    return f"predicted_{label}"


def robust(label: str, stage: str = "") -> str:
    """Names what [N] is right after an attack, or after a stage of an ensemble."""
    return f"robust_{label}/{stage}" if stage else f"robust_{label}"


def distance(label: str) -> str:
    """Names how far [N] an attack without a radius went, in its norm."""
    return f"distance_{label}"


# Of an image that fell at no number of queries.
STANDS = -1


def query_indices(indices: np.ndarray) -> dict[str, np.ndarray]:
    """Names the places in the test set [n] of the images that `queries` are of."""
    return {"query_indices": indices}


def queries(label: str) -> str:
    """Names the queries [n] with which an attack fooled each image.

    The smallest number that was tried; 0 for what is wrong as it is, else `STANDS`.
    """
    return f"queries_{label}"


def x_adv(label: str) -> str:
    """Names the attacked images [N, H, W, C], which are in adversarial.npz."""
    return f"x_adv_{label}"


def distances(layer: str) -> str:
    """Names distances [N, 2, 2] of a layer's features to class centres.

    Clean and attacked, to the own centre and to the nearest other one.
    """
    return f"distances/{layer}"


def class_names(arrays: Arrays) -> list[str]:
    """Returns the names of the classes; none of an old file."""
    return [str(name) for name in arrays.get(CLASS_NAMES, ())]


def with_label(label: str, arrays: Arrays) -> dict[str, Any]:
    """Names the arrays of an analysis from outside as the file has them."""
    return {f"{label}/{name}": array for name, array in arrays.items()}


def under_label(label: str, arrays: Arrays) -> dict[str, Any]:
    """Returns what `with_label` put there, under its own names."""
    start = f"{label}/"
    return {k.removeprefix(start): v for k, v in arrays.items() if k.startswith(start)}


class Group(Part):
    """Arrays that are written and read together; those that may be None can lack."""

    @classmethod
    def of(cls, arrays: Arrays) -> Self | None:
        """Reads them; None where the first is missing or empty."""
        first, *_ = names = list(cls.__dataclass_fields__)
        if first not in arrays or not len(arrays[first]):
            return None
        return cls(**{name: arrays[name] for name in names if name in arrays})

    def named(self) -> dict[str, np.ndarray]:
        """Returns them by name."""
        return {name: one for name, one in vars(self).items() if one is not None}


class Grid(Group):
    """So many images [n, H, W, C] for the page, under the strongest attack."""

    grid_images: np.ndarray
    grid_x_adv: np.ndarray
    grid_labels: np.ndarray
    grid_predicted: np.ndarray
    grid_predicted_adv: np.ndarray
    grid_attack: np.ndarray  # its label


class CurveArrays(Group):
    """Whether each of n images is right at each of E radii, [n, E]."""

    curve_eps: np.ndarray
    curve_correct: np.ndarray


class FeaturesArrays(Group):
    """Penultimate features [N, 2, D], clean and attacked."""

    features: np.ndarray
    features_labels: np.ndarray


class Restored(Group):
    """What a network restores [n, 2, H, W, C] of clean and attacked images."""

    restored: np.ndarray
    restored_x_adv: np.ndarray
    restored_images: np.ndarray
    restored_labels: np.ndarray


class CertifiedArrays(Group):
    """Proved margins of n examples, [n]: positive is proved."""

    certified_indices: np.ndarray
    certified_margins: np.ndarray


class SmoothedArrays(Group):
    """Classes [n] of the smoothed network, -1 for none, and certified L2 radii [n]."""

    smoothed_indices: np.ndarray
    smoothed_classes: np.ndarray
    smoothed_radii: np.ndarray


class CorruptionsArrays(Group):
    """Whether n images are right under R corruptions at S severities, [R, S, n].

    For the page one image, and under each corruption at the severity `shown`.
    """

    corruption_images: np.ndarray
    corruption_clean: np.ndarray
    corruption_names: np.ndarray
    corruption_shown: np.ndarray
    corruption_severities: np.ndarray | None = None
    corruption_indices: np.ndarray | None = None
    corruption_correct: np.ndarray | None = None


class CorruptionSetArrays(Group):
    """Whether n images of a published set are right, [R, 5, n], by corruption."""

    corruption_set_names: np.ndarray
    corruption_set_indices: np.ndarray  # places in the set, at each severity
    corruption_set_correct: np.ndarray


class UniversalArrays(Group):
    """What is added to all images, the patch, and a few images that have it."""

    universal_perturbation: np.ndarray
    universal_images: np.ndarray
    universal_patch: np.ndarray | None = None
    universal_patched: np.ndarray | None = None


class LossSurfaceArrays(Group):
    """Losses [n, P, P] on a plane through n images, at P places `at` to a side.

    Cross-entropy, and the margin loss, which is above 0 where the image is wrong; the
    first axis goes along an attack, the second along random signs, both in radii.
    """

    surface_loss: np.ndarray
    surface_margin: np.ndarray
    surface_labels: np.ndarray
    surface_at: np.ndarray
