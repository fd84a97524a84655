"""Every config file builds, runs a step, and (`-m full`) runs from end to end.

The files are read off the directory: a new one is tested without a word here. Their
data sets need not be on disk; scikit-learn's digits stand in, in the size and channels
of the set that a config names.
"""

import dataclasses
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys

import chex
import jax
import numpy as np
import pytest

from jaxrobust import checkpoints, models, parallel
from jaxrobust.data import augment
from jaxrobust.results.files import read_metrics as read
from jaxrobust.training import check, setup
from jaxrobust.training import config as common
from tests.marks import full_but

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
# Side and channels of the digits that stand in for a set.
STAND_INS = {
    "digits": (8, 1),
    "mnist": (28, 1),
    "fashion_mnist": (28, 1),
    "cifar10": (32, 3),
    "cifar100": (32, 3),
    "svhn_cropped": (32, 3),
    "tiny_imagenet": (64, 3),
    "caltech101": (64, 3),
    "caltech101_90_10": (64, 3),
    "caltech256": (64, 3),
    "tfds:imagenet2012": (64, 3),
}
LARGEST = 32
LEAST_DEPTH = {"pcl_resnet": 8, "resnet_cifar": 8, "wide_resnet": 10, "vgg": 11}
CLASSES = 10
# Without `-m full`; test_main.py runs one from end to end.
A_STEP_IN_CI = ("ssc_mnist",)


def get_config(path, arg):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(arg)


def stand_in(config):
    """The fields that put digits in the place of a config's data."""
    size, channels = STAND_INS[config.data.name]
    fields = {
        "data.name": "digits",
        "data.image_size": min(config.data.image_size or size, LARGEST),
        "data.channels": 3 if max(channels, config.data.channels) == 3 else 0,
    }
    if "num_classes" in config.model:
        fields["model.num_classes"] = CLASSES
    return fields


def narrow(config):
    """Makes the network as small as it can be: only the compilation costs."""
    name, fields = config.model.name, config.model
    width = 1 if name == "wide_resnet" else 4
    try:
        models.create(name, width=width)
    except TypeError:  # LeNet and the like have no such field
        pass
    else:
        fields.width = width
    if name in LEAST_DEPTH:
        fields.depth = LEAST_DEPTH[name]


def params_of(state):
    return jax.device_get(state.params)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
@pytest.mark.parametrize("arg", [None, "quick", "quick,budget=cpu"])
def test_config_builds(path, arg):
    """Everything that can be made without data is."""
    if arg and "budget" in arg and "budget=cpu" not in path.read_text():
        pytest.skip("has no variant for a CPU")
    config = get_config(path, arg)
    assert config.data.name in STAND_INS, "say which digits stand in for it"
    check.check(config.to_dict())
    assert not [line for line in check.notices(config.to_dict()) if "no effect" in line]


@pytest.mark.parametrize(
    "path",
    full_but(CONFIGS, [p for p in CONFIGS if p.stem in A_STEP_IN_CI]),
    ids=lambda p: p.stem,
)
def test_config_runs_a_step(path):
    """One training step of the quick variant, with a narrow network and few images."""
    config = get_config(path, "quick")
    config.update_from_flattened_dict(stand_in(config))
    narrow(config)
    config.data.train_examples, config.data.validation_examples = 24, 8
    config.train.batch_size = 8
    config.train.save_every_steps = config.train.log_every_steps = 1
    fields = config.to_dict()
    check.check(fields)
    run = setup.build(fields, parallel.make_mesh(1))
    before = params_of(run.state)
    [batch] = run.feed.batches(0, 1)
    state, metrics = run.step(run.state, batch, run.key)
    assert int(state.step) == 1
    chex.assert_tree_all_finite(jax.device_get(metrics))
    moved = [
        not np.array_equal(a, b)
        for a, b in zip(*map(jax.tree.leaves, (before, params_of(state))), strict=True)
    ]
    assert any(moved)
    chex.assert_tree_all_finite(params_of(state))


def test_score_is_trained_on_labels_as_they_are():
    path = ROOT / "configs" / "trades_ddpm_cifar10.py"
    for name, smoothing in (("trades", 0.1), ("score", 0.0)):
        objective = get_config(path, f"objective={name}").objective
        assert (objective.name, objective.label_smoothing) == (name, smoothing)


def test_free_training_carries_no_fields_of_fast():
    path = ROOT / "configs" / "fast_cifar10.py"
    for method in ("free", "rs"):
        config = get_config(path, f"method={method}").to_dict()
        assert check.notices(config) == []
        assert ("noise" in config["objective"]) == (method == "rs")


def test_augmentation_fields_are_those_of_the_config():
    known = {field.name for field in dataclasses.fields(augment.Spec)}
    assert set(common.base().data.augment) == known


def run(folder, *flags):
    """Runs the program in a process of its own, as a user does."""
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    env["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # compiling is what takes the time
    env.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax_cache"))
    done = subprocess.run(
        [sys.executable, "-m", "jaxrobust.main", f"--workdir={folder}", *flags],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def last_variables(folder):
    _, variables, _ = checkpoints.load(folder, "last")
    return jax.tree.leaves(jax.device_get(variables))


@pytest.mark.full
@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_config_runs_from_end_to_end(path, tmp_path):
    """Trains, attacks, reports; with the last checkpoint lost it resumes to the bit."""
    config = get_config(path, "quick")
    flags = [
        f"--config={path.relative_to(ROOT)}:quick",
        *(f"--config.{k}={v}" for k, v in stand_in(config).items()),
        "--config.train.save_every_steps=1",
        "--config.train.log_every_steps=1",
    ]
    folder = tmp_path / "run"
    run(folder, *flags)
    for name in ("config.json", "metrics.jsonl", "results.json", "report.html"):
        assert (folder / name).stat().st_size > 0, name
    results = json.loads((folder / "results.json").read_text())
    assert results["clean"]["n"] == config.data.test_examples
    assert 0 <= results["worst_case"]["robust_accuracy"] <= 1

    steps = [row["step"] for row in read(folder / "metrics.jsonl")]
    total, expected = steps[-1], last_variables(folder)
    assert total > 1
    shutil.rmtree(folder / "checkpoints" / str(total))
    resumed = max(int(p.name) for p in (folder / "checkpoints").glob("[0-9]*"))
    said = run(folder, *flags, "--mode=train")
    assert f"at step {resumed} of {total}" in said
    for a, b in zip(last_variables(folder), expected, strict=True):
        chex.assert_trees_all_equal(a, b)
    assert [row["step"] for row in read(folder / "metrics.jsonl")] == steps


@pytest.mark.parametrize(
    ("name", "arg", "field", "value"),
    [
        ("ssp_cifar10", "n=1", "model.blocks", 1),
        ("ssp_tinyimagenet", "n=3", "model.blocks", 3),
        ("pcl_mnist", "depth=20", "model.depth", 20),
        ("pcl_cifar10", "depth=14", "model.depth", 14),
        ("pcl_mnist", "schedule=released", "schedule.scales", (10.0, 1.0)),
        ("fpd_mnist", "depth=50", "model.layers", ()),
        ("pgd_imagenet", "depth=50", "model.depth", 50),
        ("certified_mnist", "size=medium", "model.size", "medium"),
        ("pgd_cifar10", "model=cnn3", "model.name", "cnn3"),
    ],
)
def test_a_small_budget_leaves_alone_what_was_asked_for(name, arg, field, value):
    config = get_config(ROOT / "configs" / f"{name}.py", f"{arg},budget=cpu")
    part, leaf = field.split(".")
    assert config[part][leaf] == value
