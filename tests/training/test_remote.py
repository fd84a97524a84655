"""Work directories on an object store: one that cannot append stands for `gs://`.

Orbax writes there through tensorstore's own client, so checkpoints are not tried.
"""

import itertools
import json
import os

import chex
import numpy as np
import pytest
from etils import epath
from etils.epath import backend, gpath
from PIL import Image

from jaxrobust import data, report
from jaxrobust.data import prepare
from jaxrobust.results.files import read_metrics as read
from jaxrobust.runtime import files, workdir
from jaxrobust.training import writers
from jaxrobust.training.writers import Writers

RUN = "gs://bucket/run"


class Bucket:
    """An etils backend that keeps `gs://` in a local folder and refuses to append."""

    def __init__(self, folder):
        self._folder, self.written = folder, []

    def _local(self, value):
        text = os.fspath(value) if isinstance(value, os.PathLike) else value
        if isinstance(text, str) and text.startswith("gs://"):
            return str(self._folder / text.removeprefix("gs://"))
        return value

    def open(self, path, mode):
        assert mode.strip("b") in ("r", "w"), f"an object store cannot open in {mode!r}"
        if "w" in mode:
            self.written.append(os.path.basename(path))
        return backend.os_backend.open(self._local(path), mode)

    def __getattr__(self, name):  # noqa: D105
        def call(*args, **kwargs):
            return getattr(backend.os_backend, name)(*map(self._local, args), **kwargs)

        return call


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    found = Bucket(tmp_path)
    backends = {**gpath._PREFIX_TO_BACKEND, "gs": found}
    monkeypatch.setattr(gpath, "_PREFIX_TO_BACKEND", backends)
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    return found


def test_the_files_of_a_run(bucket, tmp_path):
    with workdir.locked(RUN):
        workdir.write_config(RUN, {"seed": 0}, "command")
        workdir.write_config(RUN, {"seed": 0}, "command")
    with Writers(RUN, 0) as writer:
        for step in (1, 2, 3):
            writer.write(step, {"loss": 1 / step})
    with Writers(RUN, 2) as writer:
        writer.write(3, {"loss": 0.5})
    folder = epath.Path(RUN)
    assert [r["loss"] for r in read(folder / "metrics.jsonl")] == [1.0, 0.5, 0.5]
    files.write_json(folder / "results.json", {"clean": {"accuracy": 0.5, "n": 2}})
    files.write_npz(folder / "evaluation.npz", {"x": np.arange(3)}, compress=True)
    local = tmp_path / "bucket" / "run"
    assert json.loads((local / "config.json").read_text())["config"] == {"seed": 0}
    assert json.loads((local / "results.json").read_text())["clean"]["n"] == 2
    assert len(list((local / "tensorboard").glob("*tfevents*"))) == 2
    assert not list(local.rglob("*.partial"))


def test_a_prepared_set_is_copied_once(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pictures = tmp_path / "pictures"
    rng = np.random.default_rng(0)
    for split, label in itertools.product(("train", "test"), ("a", "b")):
        folder = pictures / split / label
        folder.mkdir(parents=True)
        for number in range(3):
            image = rng.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(image).save(folder / f"{number}.png")
    prepare.prepare("toy", data_dir=tmp_path / "bucket" / "data", source=pictures)
    local = data.load("tfds:toy", data_dir=tmp_path / "bucket" / "data")
    remote = data.load("tfds:toy", data_dir="gs://bucket/data")
    chex.assert_trees_all_equal(remote.images, local.images)
    copied = [p for p in (tmp_path / "cache").rglob("*array_record*")]
    times = [p.stat().st_mtime_ns for p in copied]
    assert copied
    data.load("tfds:toy", data_dir="gs://bucket/data")
    assert [p.stat().st_mtime_ns for p in copied] == times
    with pytest.raises(FileNotFoundError, match=r"gs://bucket/data/other"):
        data.load("tfds:other", data_dir="gs://bucket/data")


def test_the_report(bucket, tmp_path):
    workdir.write_config(RUN, {"seed": 0}, "command")
    report.write(RUN)
    assert "<html" in (tmp_path / "bucket" / "run" / "report.html").read_text()


def test_rows_are_written_together_and_before_a_save(bucket, monkeypatch):
    """An object must not change each second; what a checkpoint covers must be there."""
    monkeypatch.setattr(writers, "REMOTE_SECONDS", 1e9)
    with Writers(RUN, 0) as writer:
        bucket.written.clear()
        for step in range(1, 6):
            writer.write(step, {"loss": 1.0})
        assert not bucket.written
        writer.flush()
        assert bucket.written.count("metrics.jsonl") == 1
        assert len(read(epath.Path(RUN) / "metrics.jsonl")) == 5
