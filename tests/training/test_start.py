"""Fine-tuning: a start from another network, to other classes; and longer runs."""

import shutil
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from jaxrobust import checkpoints, named_models, parallel
from jaxrobust.results.files import read_metrics as read
from jaxrobust.training import config, loop, program, setup, start
from tests.marks import full_but

HEADS = {
    "ssp_cifar": {"blocks": 1, "width": 4},
    "pcl_resnet": {"depth": 8, "width": 4, "branches": ("auxiliary",)},
    "lenet5": {},
    "cnn3": {"width": 2},
    "ibp_cnn": {},
    "vgg": {"depth": 11, "width": 2},
    "alexnet": {"width": 2},
    "resnet": {"depth": 18, "width": 2, "stem": "cifar"},
    "resnet_cifar": {"depth": 8, "width": 2},
    "fpd_resnet": {"layers": (1, 1, 1, 1), "width": 4},
    "preact_resnet": {"depth": 18, "width": 2},
    "wide_resnet": {"depth": 10, "width": 1},
}


@pytest.mark.parametrize("name", full_but(HEADS, ["ssp_cifar", "resnet_cifar", "cnn3"]))
def test_the_head_is_what_the_number_of_classes_shapes(name):
    settings = {"model": {"name": name, "num_classes": 7, **HEADS[name]}}
    x = jnp.zeros((1, 32, 32, 3))
    head = start.head_of(settings, x)
    model = named_models.create_model(settings)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    assert 0 < len(head) < len(leaves)
    for path, leaf in leaves:
        if start._name(path) in head:
            assert 7 in leaf.shape


def small(tmp_path, classes, **train):
    """Digits of some classes and a network of a few weights, two steps an epoch."""
    digits: Any = load_digits()
    rows = np.flatnonzero(digits.target < classes)[: 40 * classes]
    images = (digits.images[rows] * 15.9).astype(np.uint8)[..., None]
    place = tmp_path / f"{classes}.npz"
    if not place.exists():
        labels = digits.target[rows]
        half = len(rows) // 2
        np.savez(
            place,
            x_train=images[:half],
            y_train=labels[:half],
            x_test=images[half:],
            y_test=labels[half:],
        )
    fields = config.base()
    config.shrink(fields)
    fields.data.update({"name": f"npz:{place}", "train_examples": 0})
    fields.data.validation_examples = 20
    fields.model = {
        "name": "ssp_mnist",
        "integrator": "res",
        "blocks": 1,
        "width": 4,
        "norm": "g",
        "num_classes": classes,
    }
    fields.objective.name = "standard"
    fields.optimizer.learning_rate = 0.01
    fields.train.update({"batch_size": 40, "epochs": 1.0, "log_every_steps": 1})
    fields.train.update(train)
    return fields.to_dict()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network of five classes, and where it is."""
    folder = tmp_path_factory.mktemp("five")
    loop.train(small(folder, 5), folder / "run", parallel.make_mesh(1))
    return folder


def leaves_of(variables):
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {start._name(path): np.asarray(leaf) for path, leaf in leaves}


@pytest.mark.full
def test_a_network_is_tuned_to_other_classes(trained, monkeypatch):
    monkeypatch.setattr(checkpoints, "load", None)  # nothing of its config is used
    source, mesh = str(trained / "run"), parallel.make_mesh(1)
    plain = small(trained, 4, init_from=source)
    with pytest.raises(ValueError, match=r"another .*classifier alone.*skip=head"):
        setup.build(plain, mesh)
    fields = small(trained, 4, init_from=source, init_skip="head")
    begun = leaves_of(setup.build(fields, mesh).state.variables)
    before = leaves_of(checkpoints.load_variables(source))
    same = {name for name in begun if np.array_equal(begun[name], before[name])}
    head = start.head_of(fields, jnp.zeros((1, 8, 8, 1)))
    assert begun.keys() - same == head
    loop.train(fields, trained / "tuned", mesh)
    rows = read(trained / "tuned" / "metrics.jsonl")
    chex.assert_tree_all_finite(rows[-1]["loss"])


@pytest.mark.parametrize(
    ("skip", "left"),
    [
        ("classifier", {"params/classifier/bias", "params/classifier/kernel"}),
        ("params/classifier/bias", {"params/classifier/bias"}),
        ("class*, head", {"params/classifier/bias", "params/classifier/kernel"}),
    ],
)
def test_what_is_left_out_is_named(skip, left, trained, caplog):
    fields = small(trained, 5, init_from=str(trained / "run"), init_skip=skip)
    setup.build(fields, parallel.make_mesh(1))
    named = {name for name in left if name in caplog.text}
    assert named == left


def test_a_name_that_nothing_has_is_told_with_the_nearest(trained):
    fields = small(trained, 5, init_from=str(trained / "run"), init_skip="clasifier")
    with pytest.raises(
        ValueError, match=r"`train\.init_skip`.*'clasifier'.*'classifier'"
    ):
        setup.build(fields, parallel.make_mesh(1))


def refuse(*args):
    raise ValueError("no test split")


def test_a_run_is_extended(trained, caplog, monkeypatch):
    """Longer and at another rate; the steps before are not made again."""
    folder = str(trained / "longer")
    fields = small(trained, 5)
    program.run(fields, folder, "train", None, "command")
    more = small(trained, 5, epochs=2.0)
    more["optimizer"]["learning_rate"] = 0.02
    with pytest.raises(ValueError, match=r"train\.epochs \(1\.0 there.*extend=True"):
        program.run(more, folder, "train", None, "command")
    more["train"]["extend"] = True
    # What cannot start leaves the run, its config too, as it is.
    with monkeypatch.context() as patch:
        patch.setattr(setup, "check_test_split", refuse)
        with pytest.raises(ValueError, match="no test split"):
            program.run(more, folder, "train", None, "command")
    program.run(fields, folder, "train", None, "command")
    program.run(more, folder, "train", None, "command")
    rows = read(f"{folder}/metrics.jsonl")
    rates = {row["step"]: row["learning_rate"] for row in rows}
    assert list(rates) == [1, 2, 3, 4]
    chex.assert_trees_all_close(
        np.asarray([rates[2], rates[3]]), np.asarray([0.01, 0.02]), rtol=1e-7
    )
    assert "going on with optimizer.learning_rate (0.01 there, 0.02 now)" in caplog.text
    assert "train.epochs (1.0 there, 2.0 now)" in caplog.text


def test_another_rate_alone_trains_nothing(trained, tmp_path):
    shutil.copytree(trained / "run", tmp_path / "run")
    program.run(small(trained, 5), str(tmp_path / "run"), "train", None, "command")
    before = (tmp_path / "run" / "config.json").read_bytes()
    other = small(trained, 5, extend=True)
    other["optimizer"]["learning_rate"] = 0.5
    with pytest.raises(ValueError, match=r"all its 2 steps, .*learning_rate .*epochs"):
        program.run(other, str(tmp_path / "run"), "train", None, "command")
    assert (tmp_path / "run" / "config.json").read_bytes() == before
    # With nothing changed there is nothing to refuse: it goes on to its evaluation.
    same = small(trained, 5, extend=True)
    program.run(same, str(tmp_path / "run"), "train", None, "command")


@pytest.mark.full
def test_a_run_that_lost_the_record_of_its_data(trained, tmp_path):
    shutil.copytree(trained / "run", tmp_path / "run")
    (tmp_path / "run" / "training_data.json").unlink()
    mesh, begun = parallel.make_mesh(1), []
    more = small(trained, 5, epochs=2.0, extend=True)
    with pytest.raises(ValueError, match=r"no training_data\.json.*allow_changed_data"):
        loop.train(more, tmp_path / "run", mesh, on_start=lambda: begun.append(1))
    assert not begun
    # One that has ended goes on to its evaluation; nothing is made up for it.
    loop.train(small(trained, 5), tmp_path / "run", mesh)
    assert not (tmp_path / "run" / "training_data.json").exists()
