"""A checkpoint of somebody else's: its config is data, whatever it says."""

import json
import os
import shutil
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import checkpoints, models, named_models
from jaxrobust.checkpoints import stored
from jaxrobust.data import Dataset
from jaxrobust.evaluation import suite, transfer
from jaxrobust.runtime import lock
from jaxrobust.training import program

MODEL = {"name": "cnn3", "width": 2}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """Saves a small network once; returns a function that rewrites its config."""
    folder = tmp_path_factory.mktemp("theirs") / "run"
    model = models.create(**MODEL)
    like = jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32)
    init = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), like)
    variables = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), init)
    checkpoints.save_variables(folder, variables, {"model": MODEL})

    def rewrite(config):
        text = config if isinstance(config, str) else json.dumps(config)
        file = folder / "checkpoints" / "0" / "config" / "metadata"
        file.write_text(text)
        # Who rewrites a config can write its checksum, too.
        shutil.rmtree(folder / "checkpoints" / "0" / "sums", ignore_errors=True)
        return folder

    return rewrite


def build(width=2, mark=None):
    """A network of the user's own."""
    if mark:
        with open(mark, "w"):
            pass
    return models.create("cnn3", width=width)


OWN = f"{__name__}:build"


@pytest.fixture
def own(theirs, tmp_path):
    sys.modules.setdefault(__name__, sys.modules[build.__module__])
    return theirs({"model": {"name": OWN, "mark": str(tmp_path / "ran")}})


def _transfer(folder, name):
    table = {"t": {"name": "transfer", "attack": "fgsm", "eps": "0.1"}}
    entries = suite.read(table, str(folder))
    images = np.zeros((2, 28, 28, 1), np.uint8)
    dataset = Dataset(images, np.zeros(2, np.int32), ("a", "b"))
    transfer.connect(entries, 10, dataset, "toy", name)


WAYS = {
    "load": lambda folder, name: checkpoints.load(folder, "last", model_name=name),
    "a step's folder": lambda folder, name: checkpoints.load(
        folder / "checkpoints" / "0", model_name=name
    ),
    "eval.transfer_from": _transfer,
    "--checkpoint": lambda folder, name: program.evaluate_checkpoint(
        name and {"model": {"name": name}, "objective": {"name": "pgd"}},
        str(folder / "evaluated"),
        str(folder),
        None,
        "",
    ),
}


@pytest.mark.parametrize("name", [None, "cnn3", "os:mkdir"])
@pytest.mark.parametrize("way", WAYS)
def test_code_that_a_file_names_is_not_run(way, name, own, tmp_path):
    with pytest.raises(ValueError, match=r"names the network '.*:build'.* not run"):
        WAYS[way](own, name)
    assert not (tmp_path / "ran").exists()


def test_code_that_the_caller_names_too_is(own, tmp_path):
    model, _, _ = checkpoints.load(own, "last", model_name=OWN)
    assert model.width == 2
    assert (tmp_path / "ran").exists()


def test_variables_alone_need_no_network(own, tmp_path):
    variables = checkpoints.load_variables(own)
    assert jax.tree.leaves(variables)
    assert not (tmp_path / "ran").exists()


BAD = {
    "no object": [],
    "null": None,
    "no JSON": "{",
    "no model": {},
    "a list for a model": {"model": []},
    "no name": {"model": {}},
    "a number for a name": {"model": {"name": 5}},
    "an unknown name": {"model": {"name": "cnn9"}},
    "an unknown field": {"model": {**MODEL, "eggs": 1}},
    "a huge width": {"model": {**MODEL, "width": 10**9}},
    "a huge float": {"model": {**MODEL, "width": 1e30}},
    "endless blocks": {"model": {"name": "ssp_cifar", "blocks": 10**9}},
    "endless stages": {"model": {"name": "fpd_resnet", "layers": [1, 1, 1, 10**7]}},
    "deep nesting": '{"model":' * 9999,
}


@pytest.mark.parametrize("kind", BAD)
def test_a_config_that_is_none(kind, theirs):
    with pytest.raises((ValueError, FileNotFoundError), match="checkpoint") as told:
        checkpoints.load(theirs(BAD[kind]), "last")
    assert "\n" not in str(told.value)


def test_arrays_that_would_take_far_more_than_their_files(theirs, monkeypatch):
    monkeypatch.setattr(stored, "_SMALL", 0)
    monkeypatch.setattr(stored, "_RATIO", 0)
    with pytest.raises(ValueError, match=r"its arrays would take .* KiB, and its fil"):
        checkpoints.load(theirs({"model": MODEL}), "last")


def test_threads_of_a_failed_read_print_nothing(theirs, monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    for _ in range(2):
        checkpoints.load(theirs({"model": MODEL}), "last")
    for error in (RuntimeError("Event loop is closed"), KeyError("another")):
        sys.unraisablehook(SimpleNamespace(exc_value=error))
    assert [str(one.exc_value) for one in told] == ["'another'"]


@pytest.mark.parametrize("name", ["lr=[0.1]", "a*", "what?", "back\\slash"])
def test_names_that_orbax_takes_for_patterns(name, tmp_path):
    for call in (
        checkpoints.Checkpointer,
        checkpoints.load,
        checkpoints.verify,
        lambda folder: checkpoints.save_variables(folder, {}, {}),
    ):
        with pytest.raises(ValueError, match="in its name, and checkpoints in such"):
            call(tmp_path / name)
        with pytest.raises(ValueError, match=r"\\udcff' is no text in UTF-8"):
            call(tmp_path / "\udcff")
        with pytest.raises(ValueError, match="a path is empty"):
            call("")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["checkpoints", "checkpoints/1"])
def test_links_in_the_place_of_checkpoints(place, tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    link = tmp_path / "run" / place
    link.parent.mkdir(parents=True)
    link.symlink_to(victim)
    with pytest.raises(OSError, match="is a link"):
        checkpoints.Checkpointer(tmp_path / "run")
    assert not list(victim.iterdir())


def test_a_link_in_the_place_of_weights(tmp_path):
    (tmp_path / "victim").mkdir()
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "0").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="is a link"):
        checkpoints.save_variables(tmp_path / "run", {}, {})
    assert not list((tmp_path / "victim").iterdir())


def test_weights_are_not_written_over_others(theirs):
    with pytest.raises(FileExistsError, match="0 is there already, of another"):
        checkpoints.save_variables(theirs({"model": MODEL}), {}, {})


@pytest.mark.parametrize(
    "file",
    [
        "results.json",
        "metrics.jsonl",
        "evaluation.npz",
        "config.json",
        "checkpoints/7/x",
    ],
)
def test_weights_are_not_written_into_a_run(file, tmp_path):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text('{"config": {"train": {}}, "command": "x"}')
    with pytest.raises(
        FileExistsError, match=r"is there already, of another .* --workd"
    ):
        checkpoints.save_variables(tmp_path, {}, {})
    kept = [p for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"]
    assert kept == [tmp_path / file]
    assert not (tmp_path / "checkpoints" / "0").exists()


def test_weights_wait_for_no_run(tmp_path):
    with lock.held(tmp_path), pytest.raises(BlockingIOError, match="choose another"):
        checkpoints.save_variables(tmp_path, {}, {})


def test_weights_that_were_removed_are_made_anew(tmp_path):
    variables = {"params": {"w": jnp.ones(2)}}
    shutil.rmtree(checkpoints.save_variables(tmp_path, variables, {"model": {}}))
    assert checkpoints.save_variables(tmp_path, variables, {"model": MODEL}).is_dir()


@pytest.mark.parametrize("part", ["_METADATA", "manifest.ocdbt", "d/more"])
def test_a_pipe_is_not_waited_for(part, theirs, tmp_path):
    shutil.copytree(theirs({"model": MODEL}), tmp_path / "run")
    file = tmp_path / "run" / "checkpoints" / "0" / "variables" / part
    file.parent.mkdir(exist_ok=True)
    file.unlink(missing_ok=True)
    os.mkfifo(file)
    with pytest.raises(ValueError, match=f"{part} is a named pipe"):
        checkpoints.load(tmp_path / "run", "last")


def test_what_the_callers_own_code_does_not_take_is_not_looked_at(theirs):
    """A config whose network was replaced by `--config.model.name` has more fields."""
    folder = theirs({"model": {"name": OWN, "width": 2, "depth": 18, "blocks": 99}})
    model, _, _ = checkpoints.load(folder, "last", model_name=OWN)
    assert model.width == 2
    folder = theirs({"model": {"name": OWN, "width": 10**9}})
    with pytest.raises(ValueError, match="damaged"):
        checkpoints.load(folder, "last", model_name=OWN)


def test_a_depth_that_layers_stand_in_for_is_no_damage(tmp_path):
    """`fpd_mnist:undefended,budget=cpu`: one block a stage, and the depth of 101."""
    fields = {"layers": (1, 1, 1, 1), "width": 2, "depth": 101, "stem": "cifar"}
    config = {"model": {"name": "fpd_resnet", "defended": False, **fields}}
    model = named_models.create_model(config)
    images = jnp.zeros((1, 16, 16, 3))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    sizes = [leaf.size for leaf in jax.tree.leaves(shapes)]
    assert len(sizes) < 101
    built = named_models.create_stored(config, "here", sizes)
    assert built == model
    config["model"]["depth"] = 999
    with pytest.raises(ValueError, match=r"damaged: model\.depth is 999"):
        named_models.create_stored(config, "here", sizes)
