import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust import data


def _dataset(labels, classes=None):
    labels = np.asarray(labels, np.int32)
    classes = int(labels.max()) + 1 if classes is None else classes
    # Each image says which example it is.
    images = np.arange(len(labels), dtype=np.uint32).view(np.uint8)
    images = images.reshape(len(labels), 2, 2, 1)
    return data.Dataset(images, labels, tuple(f"class {c}" for c in range(classes)))


def _identities(dataset):
    return dataset.images.reshape(-1).view(np.uint32)


def test_dataset_describes_itself():
    dataset = _dataset([0, 2, 1, 2])
    assert len(dataset) == 4
    assert dataset.num_classes == 3
    assert dataset.shape == (2, 2, 1)


def test_take_keeps_images_with_their_labels():
    taken = _dataset([0, 2, 1, 2]).take([3, 0, 3])
    assert _identities(taken).tolist() == [3, 0, 3]
    assert taken.labels.tolist() == [2, 0, 2]
    assert len(taken.take([])) == 0


@pytest.mark.parametrize("indices", [[4], [-1], [0.5], [[0]], [True, False]])
def test_take_refuses_bad_indices(indices):
    with pytest.raises(ValueError, match="indices must be"):
        _dataset([0, 2, 1, 2]).take(indices)


@pytest.mark.parametrize(
    ("images", "labels", "error", "message"),
    [
        (np.zeros((2, 4, 4, 1), np.float32), [0, 1], TypeError, "images must be uint8"),
        (np.zeros((2, 4, 4), np.uint8), [0, 1], ValueError, r"images must be \[N, H"),
        (np.zeros((2, 4, 4, 1), np.uint8), [0], ValueError, "labels must have shape"),
        (np.zeros((2, 4, 4, 1), np.uint8), [0, 2], ValueError, "between 0 and 1"),
        (np.zeros((2, 4, 4, 1), np.uint8), [-1, 0], ValueError, "got -1 to 0"),
    ],
)
def test_dataset_refuses_what_is_no_image_set(images, labels, error, message):
    with pytest.raises(error, match=message):
        data.Dataset(images, np.asarray(labels, np.int32), ("a", "b"))


def test_dataset_refuses_other_label_types():
    with pytest.raises(TypeError, match="labels must be int32, got int64"):
        data.Dataset(np.zeros((1, 2, 2, 1), np.uint8), np.zeros(1, np.int64), ("a",))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=80), st.data())
def test_split_validation_divides_every_class_alike(labels, draw):
    dataset = _dataset(labels, classes=5)
    examples = draw.draw(st.integers(0, len(labels) - 1))
    seed = draw.draw(st.integers(0, 5))
    train, validation = data.split_validation(dataset, examples, seed)
    assert len(validation) == examples
    both = np.concatenate([_identities(train), _identities(validation)])
    assert sorted(both) == list(range(len(labels)))
    for part in (train, validation):
        np.testing.assert_array_equal(
            part.labels, dataset.labels[_identities(part)], err_msg="labels moved"
        )
    exact = np.bincount(dataset.labels, minlength=5) * examples / len(labels)
    held = np.bincount(validation.labels, minlength=5)
    assert (np.abs(held - exact) < 1).all()
    again = data.split_validation(dataset, examples, seed)[1]
    np.testing.assert_array_equal(_identities(again), _identities(validation))


def test_split_validation_depends_on_the_seed():
    dataset = _dataset(np.arange(100) % 5)
    first, second = (data.split_validation(dataset, 20, seed)[1] for seed in (0, 1))
    assert set(_identities(first)) != set(_identities(second))


@pytest.mark.parametrize("examples", [-1, 4, 5])
def test_split_validation_refuses_to_leave_nothing(examples):
    with pytest.raises(ValueError, match=rf"between 0 and 3 .* got {examples}"):
        data.split_validation(_dataset([0, 1, 0, 1]), examples, 0)
    with pytest.raises(TypeError, match="float"):
        data.split_validation(_dataset([0, 1, 0, 1]), 1.5, 0)  # pyright: ignore
