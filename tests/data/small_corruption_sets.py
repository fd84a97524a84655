"""Writes sets of corruptions in the two published forms, and returns their images."""

import numpy as np
from PIL import Image

from jaxrobust import data

N = 6
_LEVELS = np.array([60, 100, 120, 140, 160, 190])
_WAVE = 20 * np.indices((8, 9)).sum(0) % 40 - 20
_IMAGES = (_LEVELS[:, None, None, None] + _WAVE[None, :, :, None]).astype(np.uint8)
LIKE = data.Dataset(_IMAGES, (_LEVELS > 127).astype(np.int32), ("dark", "bright"))


def corrupted(number, severity):
    """Brighter images: by 10 times the severity, and one more for each corruption."""
    return (_IMAGES + 10 * severity + number).astype(np.uint8)


def write_arrays(folder, names):
    """As CIFAR-10-C; returns the arrays by name."""
    found = {
        name: np.concatenate([corrupted(i, s) for s in range(1, 6)])
        for i, name in enumerate(names)
    }
    for name, array in found.items():
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "labels.npy", np.tile(LIKE.labels, 5))
    return found


def write_folders(folder, names, classes=LIKE.class_names):
    """As ImageNet-C; returns images by name and severity, in the order of LIKE."""
    found = {}
    for i, name in enumerate(names):
        found[name] = [corrupted(i, severity) for severity in range(1, 6)]
        for severity, images in enumerate(found[name], start=1):
            for j, (image, label) in enumerate(zip(images, LIKE.labels, strict=True)):
                place = folder / name / str(severity) / classes[label]
                place.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image[..., 0]).save(place / f"{j}.png")
    return found
