"""Writers of scalars: each row once, whatever was killed in between.

W&B and MLflow are the real packages where they are installed, in modes that need no
network; a stand-in checks what a service gets where they are not.
"""

import csv
import importlib
import importlib.util
import json
import struct
import time

import pytest

from jaxrobust.training import config as common
from jaxrobust.training import writers
from jaxrobust.training.writers import Opening, Writers, services

CONFIG = {"name": "toy", "log": {"project": "tests"}, "train": {"batch_size": 8}}


def killed_and_resumed(folder, name, pause=0.0):
    """Steps 1 to 3, the last after the checkpoint; then steps 3 and 4."""
    with Writers(folder, 0, [name], CONFIG) as writer:
        for step in (1, 2, 3):
            writer.write(step, {"epoch": step / 2, "loss": 1 / step})
    time.sleep(pause)
    with Writers(folder, 2, [name], CONFIG) as writer:
        writer.write(3, {"epoch": 1.5, "loss": 1 / 3})
        writer.write(4, {"epoch": 2.0, "loss": 1 / 4, "validation/loss": 0.5})


def table(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_csv_has_each_row_once_and_a_column_for_each_scalar(tmp_path):
    killed_and_resumed(tmp_path, "csv")
    rows = table(tmp_path)
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    assert [float(row["loss"]) for row in rows] == [1, 1 / 2, 1 / 3, 1 / 4]
    assert [row["validation/loss"] for row in rows] == ["", "", "", "0.5"]
    assert not (tmp_path / "tensorboard").exists()


def test_a_writer_that_is_added_later_gets_the_rows_before(tmp_path):
    with Writers(tmp_path, 0, []) as writer:
        writer.write(1, {"loss": 1.0})
    with Writers(tmp_path, 1, ["csv"]) as writer:
        writer.write(2, {"loss": 0.5})
    assert [row["loss"] for row in table(tmp_path)] == ["1.0", "0.5"]


OWN = """
told = []
class Recorder:
    def __init__(self, opening):
        told.append(("resumed", opening.resume_step))
    def write(self, step, scalars):
        told.append((step, scalars["loss"]))
    def flush(self):
        pass
    def close(self):
        told.append("closed")
"""


def test_a_writer_from_outside(tmp_path, monkeypatch):
    (tmp_path / "own_writer.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    writers.check(["own_writer:Recorder"])
    with Writers(tmp_path, 7, ["own_writer:Recorder"]) as writer:
        writer.write(8, {"loss": 0.5})
    told = importlib.import_module("own_writer").told
    assert told == [("resumed", 7), (8, 0.5), "closed"]


class Client:
    """A service that is down while `down`."""

    def __init__(self, last=0):
        self.last, self.rows, self.down, self.closed = last, [], False, False
        self.asked = 0

    def send(self, step, scalars):
        if self.down:
            self.asked += 1
            raise ConnectionError("no route")
        self.rows.append((step, dict(scalars)))
        self.last = step

    def close(self):
        self.closed = True


def test_a_service_gets_each_row_once_and_may_be_down(tmp_path, caplog):
    rows = [{"step": step, "loss": 1.0, "skipped": None} for step in (1, 2, 3)]
    client = Client(last=1)  # rows 2 and 3 never reached it
    service = services.Service("toy", client, Opening(tmp_path, 3, rows, {}))
    assert client.rows == [(2, {"loss": 1.0}), (3, {"loss": 1.0})]
    client.down = True
    for step in (3, 4, 5):
        service.write(step, {"loss": 0.5})
        service.flush()
    assert client.asked == 1  # each time might take minutes of the training
    assert caplog.text.count("toy takes nothing (ConnectionError: no route)") == 1
    client.down = False
    service.close()
    assert [step for step, _ in client.rows] == [2, 3, 4, 5]
    assert client.closed


def test_a_missing_package_is_told_before_any_work(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    writers.check(["csv", "tensorboard"])
    with pytest.raises(ValueError, match=r"pip install 'jaxrobust\[wandb\]'"):
        writers.check(["wandb"])
    assert common.base().log.writers == ("tensorboard",)


@pytest.mark.filterwarnings("ignore")  # of theirs
def test_mlflow_in_a_folder(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    killed_and_resumed(tmp_path, "mlflow")
    from mlflow import MlflowClient

    client = MlflowClient((tmp_path / "mlruns").as_uri())
    name = json.loads((tmp_path / "mlflow.json").read_text())["id"]
    run = client.get_run(name)
    assert run.info.status == "FINISHED"
    assert run.data.params["train.batch_size"] == "8"
    loss = client.get_metric_history(name, "loss")
    assert [(one.step, one.value) for one in loss] == [(i, 1 / i) for i in (1, 2, 3, 4)]
    [experiment] = client.search_experiments(filter_string="name = 'tests'")
    assert len(client.search_runs([experiment.experiment_id])) == 1


@pytest.mark.filterwarnings("ignore")
def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    killed_and_resumed(tmp_path, "wandb", pause=1.1)  # a folder there is a second's
    files = sorted((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    name = json.loads((tmp_path / "wandb.json").read_text())
    assert name["last"] == 4
    assert len(files) == 2
    assert all(file.stem == f"run-{name['id']}" for file in files)
    for _ in range(100):  # W&B's own process writes the end of the file
        if (steps := _steps(files)) == [1, 2, 3, 4]:
            break
        time.sleep(0.1)
    assert steps == [1, 2, 3, 4]


BLOCK = 32768


def _steps(files):
    """Reads the steps of the rows in W&B's own files, which are LevelDB logs."""
    from wandb.proto import wandb_internal_pb2

    found = []
    for file in files:
        content, at, whole = file.read_bytes(), 7, b""  # after ":W&B" and a version
        while at + 7 <= len(content):
            if BLOCK - at % BLOCK < 7:  # too little for a head: the block is filled up
                at += BLOCK - at % BLOCK
                continue
            _, size, kind = struct.unpack_from("<IHB", content, at)
            whole += content[at + 7 : at + 7 + size]
            at += 7 + size
            if kind in (1, 4):  # all of a record, or its last part
                record = wandb_internal_pb2.Record.FromString(whole)
                if record.WhichOneof("record_type") == "history":
                    found.append(record.history.step.num)
                whole = b""
    return found
