import os
import pathlib
import signal
import subprocess
import sys
import time

import chex
import numpy as np
import pytest

from jaxrobust.parallel import processes, watch
from launch import local_processes
from tests.marks import full_but

ROOT = pathlib.Path(__file__).parents[2]


def _start(tmp_path, *argv, count=2, devices=2, **env):
    env = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return local_processes.start(
        count,
        devices,
        argv,
        env=env,
        module="tests.several.worker",
        log_dir=tmp_path / "logs",
    )


def _logs(tmp_path):
    return [p.read_text() for p in sorted((tmp_path / "logs").iterdir())]


@pytest.mark.parametrize("name", full_but(["arrays", "agreement"], ["arrays"]))
def test_processes_share_arrays_and_find_differences(tmp_path, name):
    group = _start(tmp_path, name, str(tmp_path))
    assert group.wait() == 0, _logs(tmp_path)
    if name == "arrays":
        own = [np.load(tmp_path / f"own-{i}.npz")["own"] for i in range(2)]
        chex.assert_trees_all_equal(np.sort(np.concatenate(own)), np.arange(8))


def _wait_for_steps(tmp_path, group):
    for _ in range(600):
        if all((tmp_path / f"step-{i}").exists() for i in range(2)):
            return
        assert all(p.poll() is None for p in group.processes), _logs(tmp_path)
        time.sleep(0.1)
    raise AssertionError("the processes never started to work")


def _wait_for_text(tmp_path, index, text):
    """The last words may come from a process that outlives the one that ended."""
    for _ in range(200):
        if text in _logs(tmp_path)[index]:
            return
        time.sleep(0.1)
    raise AssertionError(f"{text!r} is not in {_logs(tmp_path)[index]}")


@pytest.mark.parametrize("victim", full_but([0, 1], [1]))
def test_a_killed_process_ends_the_others_which_name_it(tmp_path, victim):
    group = _start(tmp_path, "together", str(tmp_path))
    _wait_for_steps(tmp_path, group)
    os.kill(group.pids[victim], signal.SIGKILL)
    assert group.wait(patience=100) == 128 + signal.SIGKILL
    _wait_for_text(tmp_path, 1 - victim, f"process {victim} of 2")
    _wait_for_text(tmp_path, 1 - victim, "died")


@pytest.mark.full
def test_a_process_that_fails_ends_the_others_which_say_why(tmp_path):
    group = _start(tmp_path, "together", str(tmp_path))
    _wait_for_steps(tmp_path, group)
    (tmp_path / "fail").touch()
    assert group.wait(patience=100) != 0
    _wait_for_text(tmp_path, 0, "process 1 failed: OSError: the disk is gone")


@pytest.mark.full
def test_an_evaluation_finds_the_same_in_two_processes(tmp_path):
    found = []
    for count, devices in ((1, 4), (2, 2)):
        folder = tmp_path / str(count)
        folder.mkdir()
        group = _start(folder, "evaluate", str(folder), count=count, devices=devices)
        assert group.wait() == 0, _logs(folder)
        found.append(np.load(folder / "found.npz"))
    one, two = found
    assert 0 < one["robust"][-1].mean() < 1
    for name in ("correct", "robust"):
        chex.assert_trees_all_equal(two[name], one[name])
    for name in ("logits", "x_adv", "adversarial"):
        chex.assert_trees_all_close(two[name], one[name], rtol=0, atol=1e-6)


def _train(folder, epochs, *, count, devices):
    """Trains, or goes on; returns the weights and what the lead said."""
    group = _start(
        folder,
        "train",
        str(folder),
        str(epochs),
        count=count,
        devices=devices,
        JAX_ENABLE_X64="1",
    )
    assert group.wait() == 0, _logs(folder)
    with np.load(folder / "weights.npz") as found:
        return dict(found), _logs(folder)[0]


@pytest.mark.full
def test_training_is_the_same_in_two_processes_and_goes_on_in_one(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    _train(two, 1, count=2, devices=2)
    found, said = _train(two, 2, count=1, devices=2)
    assert "saved by 2 processes with 4 devices (stream data)" in said
    assert "this is 1 process with 2 devices (resident data)" in said
    expected, _ = _train(one, 2, count=1, devices=1)
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        chex.assert_trees_all_close(found[name], values, rtol=0, atol=1e-9)
    rows = (two / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == len((one / "run" / "metrics.jsonl").read_text().splitlines())


def test_one_process_needs_nothing(monkeypatch):
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    processes.start()
    assert processes.is_lead()
    assert not processes.several()
    assert processes.agree(True)
    with watch.watched():
        processes.check_same("anything", lambda: pytest.fail("made for nothing"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("localhost:1", 2, None), "--process=I"),
        (("localhost:1", 2, 2), "got 2 of 2"),
        (("localhost", 2, 0), "HOST:PORT"),
    ],
)
def test_a_place_that_makes_no_sense_is_refused(arguments, message, monkeypatch):
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=message):
        processes.start(*arguments)


def test_a_coordinator_that_is_not_there_is_named(monkeypatch):
    address = f"localhost:{local_processes.free_port()}"
    with pytest.raises(ConnectionError, match=f"no process 0 at {address}"):
        processes.start(address, 2, 1, timeout=0)


def test_a_cluster_that_is_not_there_is_told():
    """As on a laptop with --distributed."""
    code = "from jaxrobust.parallel import processes; processes.start(detect=True)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ConnectionError: the other processes were not detected" in done.stderr


def test_sigterm_ends_one_joined_process(tmp_path):
    """Also where nothing trains: jax's preemption service would swallow it."""
    group = _start(tmp_path, "together", str(tmp_path), count=1)
    for _ in range(600):
        if (tmp_path / "step-0").exists():
            break
        time.sleep(0.1)
    group.send(signal.SIGTERM)
    assert group.wait() == 128 + signal.SIGTERM, _logs(tmp_path)


def test_a_count_in_the_environment_that_is_no_number_is_named(monkeypatch):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(ValueError, match=r"JAX_NUM_PROCESSES .* 'two'"):
        processes.start()
