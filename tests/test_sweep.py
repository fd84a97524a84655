"""A sweep: names, the queue, what becomes of runs, and a real training."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from jaxrobust import sweep

# Stands for the program: fails for seed 2; where a file `go` is named, waits for it.
STUB = """
import pathlib, sys, time, os
arguments = dict(word.lstrip("-").split("=", 1) for word in sys.argv[1:])
folder = pathlib.Path(arguments["workdir"])
with open(folder / "calls", "a") as file:
    print(os.environ.get("CUDA_VISIBLE_DEVICES", "all"), file=file)
go = folder.parent / "go"
while arguments["config.seed"] == "3" and not go.exists():
    time.sleep(0.02)
print("working")
if arguments["config.seed"] == "2":
    sys.exit("ValueError: no luck")
"""


@pytest.fixture
def stub(tmp_path, monkeypatch):
    file = tmp_path / "stub.py"
    file.write_text(STUB)
    monkeypatch.setattr(sweep, "PROGRAM", (str(file),))
    return file


def lines(tmp_path, *told):
    file = tmp_path / "runs.txt"
    file.write_text("\n".join(told))
    return str(file)


def call(file, root, *more, config="quickstart"):
    return sweep.main([file, f"--config={config}", f"--workdir={root}", *more])


def calls(root, name):
    path = root / name / "calls"
    return path.read_text().split() if path.exists() else []


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("--config.seed=1 --config.model.width=8", "model.width=8,seed=1"),
        ("--config.model.width 8 --config.seed 1", "model.width=8,seed=1"),
        ("--config.deterministic", "deterministic"),
    ],
)
def test_folders_are_named_after_their_lines(line, name):
    assert sweep.name_of(line.split()) == name


def test_what_looks_the_same_has_two_names():
    one, other = (
        sweep.name_of([f"--config.name={text}"]) for text in ("8/255", "8_255")
    )
    assert one.startswith(f"{other}-")
    long = [sweep.name_of([f"--config.name={'x' * 200}{i}"]) for i in (1, 2)]
    assert long[0] != long[1]
    assert max(map(len, long)) < 120


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (["# none"], "has no run"),
        (["--config.seed=1", "", "--config.sed=2"], "line 3: .* mean 'seed'"),
        (["--config.seed=x"], "line 1: --config.seed must be a whole number"),
        (["--config.seed='1"], "line 1: No closing quotation"),
        (["--config.seed=1", "--config.seed=1  # again"], "line 2: line 1 is the same"),
        (["--config.seed=1", "#", "--config.seed=01"], "line 3: line 1 is the same"),
        (["--config.seed=1", "--config.seed 1"], "line 2: line 1 is the same"),
        (["seed=1"], "line 1: seed=1 is no flag; fields are --config.NAME=VALUE"),
        (["--config.seed=1", "--config.train.epochs=-3"], "line 2: .*train.epochs"),
        (["--config.objective.name=pgdd"], "line 1: .*'pgdd'.* Did you mean 'pgd'"),
        (["--workdir=x --config.seed=1"], "line 1: --workdir=x is for the command"),
    ],
)
def test_mistakes_are_told_before_anything_runs(told, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        sweep.read(lines(tmp_path, *told), "quickstart")


def test_jobs_see_one_device_each():
    assert sweep.slots("gpu", ["0", "1"], 1) == [{}]
    assert sweep.slots("cpu", ["0"], 2) == [{}, {}]
    visible = [slot["CUDA_VISIBLE_DEVICES"] for slot in sweep.slots("gpu", "45", 2)]
    assert visible == ["4", "5"]
    shared = sweep.slots("gpu", ["0", "1"], 3)
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in shared] == ["0", "1", "0"]
    assert {slot["XLA_PYTHON_CLIENT_MEM_FRACTION"] for slot in shared} == {"0.45"}
    assert sweep.slots("tpu", ["0", "1"], 2)[1]["TPU_VISIBLE_CHIPS"] == "1"
    with pytest.raises(ValueError, match="at most 1, the TPU chips here, got 2"):
        sweep.slots("tpu", ["0"], 2)


def test_devices_are_counted_by_another_process(monkeypatch):
    said = subprocess.CompletedProcess([], 0, "a line of a plugin's\ngpu 2\n", "")
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: said)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert sweep.find_devices() == ("gpu", ["0", "1"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, 7")
    assert sweep.find_devices() == ("gpu", ["5", "7"])


@pytest.mark.usefixtures("stub")
def test_a_failed_run_is_told_and_stops_no_other(tmp_path, capsys, monkeypatch):
    file = lines(tmp_path, "--config.seed=2", "--config.seed=1", "--config.seed=4")
    monkeypatch.setattr(sweep, "find_devices", lambda: ("gpu", ["0", "1"]))
    root = tmp_path / "root"
    assert call(file, root, "--jobs=2") == 1
    out, err = capsys.readouterr()
    assert "2 done" in out
    assert f"seed=2: failed: status 1, {root}/seed=2/sweep.log: ValueError: no" in err
    seen = {calls(root, f"seed={i}")[0] for i in (1, 2, 4)}
    assert seen <= {"0", "1"}
    assert call(file, root) == 1
    assert "2 finished before" in capsys.readouterr().out
    assert [len(calls(root, f"seed={i}")) for i in (2, 1, 4)] == [2, 1, 1]
    # Another evaluation is another run; so is what a new config says.
    assert call(file, root, "--config.eval.batch_size=7") == 1
    assert len(calls(root, "seed=1")) == 2


def until(condition):
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


def child(stub, *arguments):
    """Another process that runs a sweep with the stub in the program's place."""
    code = (
        "import sys; from jaxrobust import sweep; "
        f"sweep.PROGRAM = ({str(stub)!r},); sys.exit(sweep.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.full
def test_two_sweeps_share_a_folder_and_a_signal_reaches_the_run(stub, tmp_path, capsys):
    file = lines(tmp_path, "--config.seed=3", "--config.seed=1")
    root = tmp_path / "root"
    flags = [file, "--config=quickstart", f"--workdir={root}"]
    with child(stub, *flags) as other:
        until(lambda: calls(root, "seed=3"))
        assert call(file, root) == 0
        assert "1 elsewhere, 1 done" in capsys.readouterr().out
        other.send_signal(signal.SIGTERM)
        assert other.wait(60) == 128 + signal.SIGTERM
        assert other.stdout is not None
        assert "1 stopped, 1 finished before" in other.stdout.read()
    assert not (root / "seed=3" / sweep.FINISHED).exists()
    (root / "go").touch()
    assert call(file, root) == 0
    assert [len(calls(root, f"seed={i}")) for i in (3, 1)] == [2, 1]


@pytest.mark.full  # the program alone: tests/test_main.py
def test_a_real_training(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", cache)
    small = ["twin=", "model.width=4", "train.epochs=0.1", "attack.steps=1"]
    flags = ["--mode=train", *(f"--config.{field}" for field in small)]
    file, root = lines(tmp_path, "--config.seed=1"), tmp_path / "root"
    assert call(file, root, *flags, config="quickstart:quick") == 0
    folder = root / "seed=1"
    assert json.loads((folder / "config.json").read_text())["config"]["seed"] == 1
    assert list((folder / "checkpoints").glob("[0-9]*"))
    assert not (folder / "results.json").exists()
