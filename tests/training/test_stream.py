"""Streamed batches are the resident ones: bit for bit, in order, from any step."""

import multiprocessing

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import flags
from PIL import Image

from jaxrobust import checkpoints, data, models, parallel
from jaxrobust.training import check, config, loop, optimizer, setup, state, step
from jaxrobust.training.feed import ResidentFeed, StreamFeed

RNG = np.random.default_rng(0)


@pytest.fixture
def folder(tmp_path):
    """Images of different sizes."""
    for index in range(88):
        path = tmp_path / f"images/train/class {index % 2}/{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = RNG.integers(0, 256, (7 + index % 3, 9, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return tmp_path / "images"


def open_set(name, folder):
    if name == "folder":
        return data.open_source(f"folder:{folder}", image_size=6)
    try:
        return data.open_source("cifar10", limit=300)
    except FileNotFoundError as error:
        pytest.skip(str(error).splitlines()[0])


def make(kind, source, devices=1, batch_size=40, **fields):
    mesh = parallel.make_mesh(devices)
    return kind(source, mesh, batch_size=batch_size, seed=5, **fields)


def assert_same(batches, expected):
    for batch, other in zip(batches, expected, strict=True):
        assert batch.keys() == other.keys()
        chex.assert_trees_all_equal(batch, other, strict=True)


@pytest.mark.parametrize("name", ["cifar10", "folder"])
@pytest.mark.parametrize("batch_size", [16, 80])  # parts of a batch: one, two
def test_batches_are_those_of_the_resident_set(name, batch_size, folder, monkeypatch):
    """Over two epochs, from their start and their middle, on one and four devices."""
    source = open_set(name, folder)
    epoch = len(source) // batch_size
    resident = make(ResidentFeed, source, batch_size=batch_size)
    expected = list(resident.batches(0, 2 * epoch + 1))
    monkeypatch.setattr(type(source), "load", None)  # never all at once
    for devices, start in ((1, 0), (4, 0), (4, epoch // 2 + 1), (1, 2 * epoch + 1)):
        stream = make(StreamFeed, source, devices, batch_size)
        batches = list(stream.batches(start, len(expected)))
        assert_same(batches, expected[start:])
        for batch in batches:
            assert len(batch["image"].sharding.device_set) == devices
            assert len(batch["index"].sharding.device_set) == devices


def test_rows_go_to_the_devices_that_own_them():
    """In whatever order the mesh has its devices."""
    devices = np.asarray(jax.devices()[:4])[[2, 0, 3, 1]]
    mesh = jax.sharding.Mesh(devices, ("data",))
    own = parallel.own_rows(mesh, 12)
    chex.assert_trees_all_equal(own, np.arange(12))
    rows = {"a": np.arange(24).reshape(12, 2), "b": np.arange(12.0)}
    split = parallel.from_rows(mesh, rows, 12)
    for name, array in parallel.put_batch(mesh, rows).items():
        assert split[name].sharding == array.sharding
        chex.assert_trees_all_equal(split[name], array)
        for shard, other in zip(
            split[name].addressable_shards, array.addressable_shards, strict=True
        ):
            assert shard.device == other.device
            chex.assert_trees_all_equal(shard.data, other.data)


def test_an_unreadable_image_is_named_as_load_names_it(folder):
    source = open_set("folder", folder)
    (folder / "train/class 1/051.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"051.png: not a readable image") as loaded:
        source.load()
    stream = make(StreamFeed, source)
    with pytest.raises(ValueError, match=r"051.png: not a readable image") as raised:
        list(stream.batches(0, 2))
    assert str(raised.value) == str(loaded.value)


@pytest.mark.full
def test_processes_read_the_same_and_say_what_is_wrong(folder):
    """Their errors come to the training process, and closing ends them."""
    flags.FLAGS.mark_as_parsed()  # as absl's app does; grain's processes ask for it
    source = open_set("folder", folder)
    stream = make(StreamFeed, source, batch_size=80, workers=1)
    batches = stream.batches(0, 1000)  # more than are read ahead
    expected = make(ResidentFeed, source, batch_size=80).batches(0, 2)
    assert_same([next(batches), next(batches)], expected)
    assert multiprocessing.active_children()
    for file in (folder / "train/class 0").iterdir():
        file.write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"png: not a readable image"):
        list(batches)
    stream.close()
    assert not multiprocessing.active_children()


def test_closing_ends_batches_that_are_not_at_their_end(folder):
    stream = make(StreamFeed, open_set("folder", folder), batch_size=8)
    batches = stream.batches(0, 100)
    next(batches)
    stream.close()
    with pytest.raises(ValueError, match="closed"):
        list(batches)


@pytest.mark.full
def test_twenty_steps_end_in_the_same_parameters():
    """PGD training of a small network in float64, to 1e-9; three epochs of digits."""
    model = models.create("ssp_mnist", integrator="res", blocks=1, width=4, norm="b")
    fields = config.base().to_dict()
    fields["attack"]["steps"] = 2
    defense = check.make_defense(fields, model, "pgd")
    tx = optimizer.make_optimizer(fields["optimizer"])
    mesh, example = parallel.make_mesh(2), jnp.zeros((1, 8, 8, 1))
    source, ends = data.open_source("digits", limit=120), []
    with jax.enable_x64(True):
        variables = state.init_variables(model, example, jax.random.key(0))
        variables = jax.tree.map(lambda v: v.astype(jnp.float64), variables)
        first = jax.device_get(
            state.create(variables, defense, tx, example, key=jax.random.key(1))
        )
        run = step.make_train_step(
            defense,
            tx,
            optax.constant_schedule(0.1),
            lambda images, keys: images,
            mesh=mesh,
            precision="highest",
            dtype=jnp.float64,
        )
        key = parallel.replicate(mesh, jax.random.key(7))
        for kind in (ResidentFeed, StreamFeed):
            current = parallel.replicate(mesh, first)
            for batch in make(kind, source, 2, batch_size=16).batches(0, 20):
                current, _ = run(current, batch, key)
            ends.append(jax.device_get(current.variables))
    chex.assert_type(jax.tree.leaves(ends), np.float64)
    chex.assert_trees_all_close(*ends, rtol=1e-9, atol=1e-9)


def fields_of(feed, name="digits", **more):
    """A run of two steps an epoch on a network of a few weights."""
    fields = config.base()
    config.shrink(fields)
    fields.model = {
        "name": "ssp_mnist",
        "integrator": "res",
        "blocks": 1,
        "width": 4,
        "norm": "g",
    }
    fields.data.update({"name": name, "feed": feed, **more})
    fields.objective.name = "standard"
    return fields.to_dict()


@pytest.mark.full
def test_a_run_ends_the_same_with_either_feed(tmp_path):
    mesh, found = parallel.make_mesh(1), []
    for feed in ("resident", "stream"):
        loop.train(fields_of(feed), tmp_path / feed, mesh)
        found.append(checkpoints.load(tmp_path / feed, "last")[1])
    chex.assert_trees_all_equal(*found, strict=True)


def test_the_division_does_not_depend_on_the_feed(folder, monkeypatch):
    more = {"image_size": 6, "train_examples": 60, "validation_examples": 20}
    found = {
        feed: setup.load_train(fields_of(feed, f"folder:{folder}", **more))
        for feed in ("resident", "stream", "auto")
    }
    monkeypatch.setattr("jaxrobust.training.feed.RESIDENT_BYTES", 60 * 108 - 1)
    found["large"] = setup.load_train(fields_of("auto", f"folder:{folder}", **more))
    assert [f[2] for f in found.values()] == [False, True, False, True]
    first, held_out, _, _ = found["resident"]
    for source, validation, streamed, _ in found.values():
        assert isinstance(source, data.Dataset) is not streamed
        assert isinstance(validation, data.Dataset)
        chex.assert_trees_all_equal(validation.images, held_out.images)
        chex.assert_trees_all_equal(source.load().images, first.load().images)
        chex.assert_trees_all_equal(source.labels, first.labels)


def test_an_unknown_feed_is_refused():
    with pytest.raises(ValueError, match=r"`data\.feed` must be one of .*'streamed'"):
        check.check(fields_of("streamed"))
