"""A network and images that do not fit each other are told before any compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import data, evaluation, models
from jaxrobust.training import check
from jaxrobust.training import config as common
from tests.marks import full_but

SMALL = {
    "blocks": 1,
    "layers": (1, 1, 1, 1),
    "heads": 2,
    "head_size": 2,
    "width": 4,
    "cardinality": 2,
}
DEPTHS = {"pcl_resnet": 8, "wide_resnet": 10, "vgg": 11}


def small(name):
    """A network with few layers and channels."""
    fields = {"depth": DEPTHS[name]} if name in DEPTHS else {}
    for field, value in SMALL.items():
        try:
            models.create(name, **fields, **{field: value})
        except (TypeError, ValueError):
            continue
        fields[field] = value
    return models.create(name, **fields)


def images(size, channels, count=4):
    return data.Dataset(
        np.zeros((count, size, size, channels), np.uint8),
        np.arange(count, dtype=np.int32),
        tuple("0123456789"),
    )


def check_data(model, found, name="mine"):
    fields = common.base().to_dict()
    fields["data"]["name"] = name
    check.check_data(fields, model, found)


@pytest.mark.parametrize(
    ("objective", "labels", "said"),
    [
        ("pcl", ("proximity", "contrastive"), None),
        ("pgd", ("proximity", "contrastive"), None),  # left alone
        (
            "pcl",
            ("proximity", "contrastive", "contrastiv"),
            "Did you mean 'contrastive",
        ),
        ("pcl", ("proximity",), "has no 'contrastive'"),
    ],
)
def test_optimisers_of_trainables_fit_the_objective(objective, labels, said):
    fields = common.base().to_dict()
    fields["objective"] |= {"name": objective, "layers": ("penultimate",)}
    if objective == "pgd":
        fields["objective"].pop("layers")
    fields["label_optimizers"] = {label: {"learning_rate": 0.5} for label in labels}
    model, found = small("lenet5"), images(28, 1)
    if said is None:
        check.check_data(fields, model, found)
        return
    with pytest.raises(ValueError, match=said):
        check.check_data(fields, model, found)


@pytest.mark.parametrize("name", models.names())
@pytest.mark.parametrize("size", full_but([1, 3, 5, 11], [3]))
def test_small_images_are_taken_or_refused_in_words(name, size):
    model = small(name)
    found = images(size, 3)
    try:
        check_data(model, found)
    except ValueError as error:
        message = str(error)
        if name == "ssp_tinyimagenet" and "has 200 classes" in message:
            return  # it took the images
        assert f"does not take the {size}x{size}x3 images of mine: " in message
        assert "pixels" in message
        assert "--config.data.image_size" in message
        assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "size", "channels", "fields", "message"),
    [
        ("vgg", 28, 3, {}, "VGG needs images of at least 32x32 pixels, got 28x28"),
        ("ssp_mnist", 5, 1, {}, "SSPMnist needs images of at least 6x6 pixels"),
        ("lenet5", 8, 1, {}, "LeNet needs images of at least 12x12 pixels, got 8x8"),
        ("ssp_cifar", 32, 1, {"mean": (0.5,) * 3}, "`mean` has 3 values, the images 1"),
    ],
)
def test_the_message_says_what_the_network_needs(name, size, channels, fields, message):
    with pytest.raises(ValueError, match="does not take the") as caught:
        check_data(models.create(name, **fields), images(size, channels))
    text = str(caught.value)
    assert f"{size}x{size}x{channels} images of mine: {message}" in text
    assert "--config.data.channels" in text


def test_another_number_of_classes():
    model = models.create("ssp_cifar", blocks=1, num_classes=7)
    with pytest.raises(ValueError, match=r"has 7 classes, but mine has 10; set --conf"):
        check_data(model, images(8, 3))


@pytest.mark.parametrize(
    ("shape", "labels", "message"),
    [
        ((20, 20, 1), 4, r"does not take the 20x20x1 images of digits: "),
        ((28, 28, 3), 4, r"does not take the 28x28x3 images of digits: "),
        ((28, 28, 1), 11, r"has 10 classes, but labels of digits reach 10"),
    ],
)
def test_weights_made_for_other_images(shape, labels, message, tmp_path):
    """Before an evaluation begins: flat features make LeNet's weights fit one size."""
    model = models.create("lenet5")
    x = jnp.zeros((1, 28, 28, 1))
    variables = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(model.init, jax.random.key(0), x),
    )
    found = data.Dataset(
        np.zeros((labels, *shape), np.uint8),
        np.arange(labels, dtype=np.int32),
        tuple(map(str, range(labels))),
    )
    config = common.base().to_dict()
    with pytest.raises(ValueError, match=message):
        evaluation.evaluate(model, variables, config, tmp_path, dataset=found)
    assert not list(tmp_path.iterdir())
