"""The complete MNIST and CIFAR-10, where TFDS_DATA_DIR has them."""

import numpy as np
import pytest

from jaxrobust import data


def _load(name, split):
    try:
        return data.load(name, split)
    except FileNotFoundError as error:
        pytest.skip(str(error).splitlines()[0])


# Means and deviations of the training pixels as widely published.
@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "shape", "mean", "deviation"),
    [
        ("mnist", (28, 28, 1), [0.1307], [0.3081]),
        ("cifar10", (32, 32, 3), [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
    ],
)
def test_training_images(name, shape, mean, deviation):
    dataset = _load(name, "train")
    assert len(dataset) == {"mnist": 60_000, "cifar10": 50_000}[name]
    assert dataset.shape == shape
    pixels = dataset.images.reshape(-1, shape[-1])
    np.testing.assert_allclose(pixels.mean(0) / 255, mean, atol=1e-4)
    np.testing.assert_allclose(
        pixels.std(0, dtype=np.float64) / 255, deviation, atol=1e-4
    )


def test_test_labels():
    mnist, cifar = _load("mnist", "test"), _load("cifar10", "test")
    digits = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(mnist.labels).tolist() == digits
    assert np.bincount(cifar.labels).tolist() == [1000] * 10
    assert cifar.class_names[:3] == ("airplane", "automobile", "bird")


def test_limit_is_a_spread_subset():
    whole, part = _load("mnist", "test"), data.load("mnist", "test", limit=200)
    np.testing.assert_array_equal(part.images, whole.images[::50])
