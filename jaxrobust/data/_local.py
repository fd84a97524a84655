"""Sources that need no preparation: scikit-learn's digits, npz files, image folders."""

import numpy as np

from jaxrobust.data._dataset import Dataset, spread, stratified_indices
from jaxrobust.data._images import resize

_DIGITS_TEST = 360
_DIGITS_SEED = 0


def load_digits(split: str) -> Dataset:
    """Scikit-learn's 1,797 scans of 8x8 pixels, 1,437 to train and 360 to test.

    The set has no official division; ours is stratified and fixed in the code. The
    original levels 0 to 16 become 0 to 255.
    """
    from sklearn import datasets

    digits = datasets.load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    test = stratified_indices(labels, _DIGITS_TEST, _DIGITS_SEED)
    rows = test if split == "test" else np.setdiff1d(np.arange(len(labels)), test)
    whole = Dataset(images, labels, tuple(str(name) for name in digits.target_names))
    return whole.take(rows)


def finish(dataset: Dataset, image_size: int | None, limit: int | None) -> Dataset:
    """Takes `limit` examples at even distances and resizes to `image_size`."""
    dataset = dataset.take(spread(len(dataset), limit))
    if image_size is None or dataset.shape[:2] == (image_size, image_size):
        return dataset
    resized = np.stack([resize(image, image_size) for image in dataset.images])
    return Dataset(resized, dataset.labels, dataset.class_names)
