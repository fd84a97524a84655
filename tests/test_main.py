"""The program as a user runs it: train, kill, resume, evaluate, report."""

import errno
import importlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import chex
import jax
import pytest
from absl.testing import flagsaver

from jaxrobust import checkpoints
from jaxrobust.results.files import read_metrics as read
from jaxrobust.runtime import caches

ROOT = pathlib.Path(__file__).parents[1]
# Small enough for seconds: one epoch is 16 steps. The whole quickstart, with every
# analysis, is run by .ci/run.
SMALL = [
    "--config=configs/quickstart.py:quick",
    "--config.twin=",
    "--config.model.width=4",
    "--config.model.integrator=res",
    "--config.train.batch_size=32",
    "--config.train.save_every_steps=4",
    "--config.train.log_every_steps=1",
    "--config.data.train_examples=700",
    "--config.attack.steps=2",
    "--config.eval.curve.eps=0,0.1",
    "--config.eval.analysis.enabled=False",
    "--config.eval.growth.enabled=False",
    "--config.eval.diagnostics.enabled=False",
]


def command(*flags):
    return [sys.executable, "-m", "jaxrobust.main", *flags]


def environment():
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    # Compiling is what takes the time: it is done once, and quickly.
    env["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    env.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax_cache"))
    return env


def run(*flags, **kwargs):
    return subprocess.run(
        command(*flags),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        **kwargs,
    )


def final_state(folder):
    _, variables, _ = checkpoints.load(folder, "last")
    return jax.device_get(variables)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A work directory trained without interruption, evaluated and reported."""
    folder = tmp_path_factory.mktemp("run") / "whole"
    done = run(*SMALL, f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


def test_a_run_leaves_what_the_contract_promises(trained):
    for name in ("config.json", "metrics.jsonl", "results.json", "report.html"):
        assert (trained / name).stat().st_size > 0, name
    assert list((trained / "tensorboard").iterdir())
    rows = read(trained / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert {"epoch", "loss", "validation/robust_accuracy"} <= rows[-1].keys()
    results = json.loads((trained / "results.json").read_text())
    assert results["clean"]["n"] == 64
    for attack in results["attacks"]:
        low, high = attack["ci95"]
        assert 0 <= low <= attack["robust_accuracy"] <= high <= 1
        assert attack["n"] == 64
    worst = results["worst_case"]["robust_accuracy"]
    assert worst <= min(a["robust_accuracy"] for a in results["attacks"])
    assert results["environment"]["precision"]


def test_kill_and_resume_is_bit_identical(trained, tmp_path):
    """Killed with SIGKILL in the middle, run again: the same parameters to the bit."""
    folder = tmp_path / "killed"
    flags = [*SMALL, f"--workdir={folder}", "--mode=train"]
    child = subprocess.Popen(
        command(*flags), cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL
    )
    metrics = folder / "metrics.jsonl"
    with child:
        while child.poll() is None:
            rows = metrics.read_text().count("\n") if metrics.exists() else 0
            if rows >= 6 and (folder / "checkpoints" / "4").is_dir():
                break
            time.sleep(0.01)
        assert child.poll() is None, "ended before it could be killed"
        child.send_signal(signal.SIGKILL)
    names = (p.name for p in (folder / "checkpoints").iterdir())
    killed_at = max(int(name) for name in names if name.isdigit())
    steps = len(read(trained / "metrics.jsonl"))
    assert 0 < killed_at < steps
    done = run(*flags)
    assert done.returncode == 0, done.stderr
    assert f"at step {killed_at} of {steps}" in done.stderr
    for a, b in zip(
        jax.tree.leaves(final_state(folder)),
        jax.tree.leaves(final_state(trained)),
        strict=True,
    ):
        chex.assert_trees_all_equal(a, b)
    assert [row["step"] for row in read(metrics)] == list(range(1, steps + 1))


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("sent", "status", "line"),
    [
        (signal.SIGTERM, 143, "stopped by SIGTERM at step "),
        pytest.param(
            signal.SIGINT,
            130,
            "interrupted; the same command goes on from the last",
            marks=pytest.mark.full,  # in one process: tests/training/test_faults.py
        ),
    ],
)
def test_a_signal_ends_the_program_with_a_line(sent, status, line, tmp_path):
    """SIGTERM is sent twice in a row, as an impatient scheduler does."""
    flags = [*SMALL, f"--workdir={tmp_path}", "--mode=train"]
    flags.append("--config.train.epochs=500")
    child = subprocess.Popen(
        command(*flags),
        cwd=ROOT,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = tmp_path / "metrics.jsonl"
    with child:
        while child.poll() is None:
            if metrics.exists() and metrics.read_text().count("\n") >= 6:
                break
            time.sleep(0.01)
        child.send_signal(sent)
        if sent == signal.SIGTERM:
            child.send_signal(sent)
        assert child.stderr is not None
        told = child.stderr.read()
    assert child.returncode == status, told
    assert line in told
    assert "Traceback" not in told
    saved = max(int(p.name) for p in (tmp_path / "checkpoints").glob("[0-9]*"))
    if sent == signal.SIGTERM:
        assert f"at step {saved} of 8500; saved; the same command goes" in told
    assert not list((tmp_path / "checkpoints").glob("*tmp*"))


def test_evaluation_of_a_checkpoint_by_path_and_report_alone(trained, tmp_path):
    """`--mode=eval --checkpoint PATH` needs no config; `--mode=report` no model.

    Fields of `eval` are set in the config that the checkpoint has.
    """
    step = max((trained / "checkpoints").glob("[0-9]*"), key=lambda p: int(p.name))
    folder = tmp_path / "other"
    flags = ["--config.eval.examples=32", "--config.eval.growth.enabled=False"]
    done = run("--mode=eval", f"--checkpoint={step}", f"--workdir={folder}", *flags)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^time: evaluation \d+ s$", done.stdout, re.MULTILINE)
    assert "32 test images are classified correctly" in done.stdout
    first = json.loads((folder / "results.json").read_text())
    assert first["clean"]["n"] == 32
    assert "growth" not in first
    (folder / "report.html").unlink()
    done = run("--mode=report", f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    assert (folder / "report.html").exists()


@pytest.fixture
def told(monkeypatch, capsys):
    """Calls the program in this process; returns its status and what it said."""
    main = importlib.import_module("jaxrobust.main")
    monkeypatch.setattr(caches, "keep_programs", lambda where: None)
    monkeypatch.chdir(ROOT)

    def call(*argv):
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as ended:
            main.main(main._parse(["jaxrobust.main", *argv]))
        said = capsys.readouterr().err
        code = ended.value.code
        return (1, code) if isinstance(code, str) else (code, said)

    return call


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--config.attack.epz=1"],
            "config has no field 'attack.epz'. Did you mean 'attack.eps'?",
        ),
        (["--config.model.num_classes=5"], "the network has 5 classes, but digits has"),
        (["--config.eval.attacks.pgd20.eps=8/0"], "`eps` must be a number"),
        (["--config.eval.curve.eps=0,8/0"], "`eval.curve.eps` must be a"),
        (["--config.eval.attacks=fgsm"], "--attack NAME:option=value"),
        (["--config.train.epochs=x"], "--config.train.epochs must be a number"),
        (["--config.precision=hi"], "`precision` must be one of"),
        (["--config.data.validation_examples=0"], "`data.validation_examples` must be"),
        (["--checkpoint=best_robst"], "--checkpoint must be one of best_robust"),
        (["--config.attack.eps=8/0"], "`attack.eps` must be a number"),
        (["--config.data.name=cifr10"], "cifar10"),
        (["--config.model.name=ssp_cifr"], "ssp_cifar"),
        (["--config.objective.name=pdg"], "Did you mean 'pgd'"),
        (["--config.train.batch_size=100000"], "`train.batch_size` 100000 is larger"),
        (["--config=configs/quickstrt.py"], "Did you mean configs/quickstart.py"),
        (["--config=configs/quickstart.py:quik"], "Did you mean 'quick'"),
        (["--mode=evl"], "value should be one of"),
        (["--wrokdir=x"], "Unknown command line flag 'wrokdir'"),
        (["--workdir"], "Missing value for flag --workdir"),
        (["eval"], "unknown arguments eval; flags start with --"),
        (["--mode=eval", "--checkpoint=/no/where"], "/no/where"),
        (["--mode=eval", "--checkpoint=best_robsut"], "Did you mean 'best_robust'"),
        (["--mode=eval", "--checkpoint="], "--checkpoint is empty"),
        (["--workdir="], "--workdir is empty"),
        (["--workdir=README.md"], "README.md is there and is no folder"),
        (["--attack=pdg"], "Did you mean 'pgd'"),
        (["--attack=pgd:step=3"], "pgd has no option 'step'. Did you mean 'steps'"),
        (["--attack=pgd", "--mode=train"], "--attack is for evaluations"),
        (
            ["--attack=pgd", "--config.eval.suite=autoattack"],
            "give --attack or --config.eval.suite, not both",
        ),
    ],
)
def test_mistakes_are_told_in_a_line(flags, message, tmp_path, told):
    status, said = told(*SMALL, f"--workdir={tmp_path}", *flags)
    assert status in (1, 2)
    assert message in said
    assert len(said.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--config is needed to train"),
        (["--mode=eval"], "without --config, --workdir is needed"),
        (["--mode=eval", "--workdir=/nowhere", "--config.seed=1"], "needs --config"),
        (["--config=/nowhere/x.py"], "No such file or directory"),
        (["--flagfile=/nowhere"], "/nowhere"),
    ],
)
def test_what_is_missing_is_told_in_a_line(flags, message, told):
    status, said = told(*flags)
    assert status in (1, 2)
    assert message in said
    assert len(said.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.train.epochs=2"], "takes fields of `eval` alone"),
        (["--config.eval.certfy.norm=l2"], "Did you mean 'eval.certify.norm'"),
        (["--config.eval.certify.norm=l7"], "must be one of '', linf, l2, l1"),
        (["--config.eval.own_analyses.mine=os:getcwd"], "needs --config, its file"),
        (
            ["--config.eval.suite=adaptive", "--attack=pgd"],
            "give --attack or --config.eval.suite, not both",
        ),
    ],
)
def test_a_field_of_what_is_trained_is_checked(flags, message, trained, told):
    status, said = told("--mode=eval", f"--workdir={trained}", *flags)
    assert status == 1
    assert message in said
    assert len(said.strip().splitlines()) == 1


def test_an_evaluation_of_nothing_leaves_nothing(tmp_path, told):
    folder = tmp_path / "none"
    status, said = told(*SMALL, f"--workdir={folder}", "--mode=eval")
    assert status == 1
    assert f"no checkpoints in {folder}; train there first." in said
    assert not folder.exists()


def test_a_work_directory_that_is_a_file(tmp_path, told):
    (tmp_path / "file").write_text("precious")
    status, said = told(*SMALL, f"--workdir={tmp_path / 'file'}")
    assert status == 1
    assert str(tmp_path / "file") in said
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("config", [True, False])
def test_attacks_of_the_command_line_replace_those_of_the_config(
    config, tmp_path, monkeypatch
):
    """Also where the config is the checkpoint's; the first radius is the default."""
    main = importlib.import_module("jaxrobust.main")
    monkeypatch.setattr(caches, "keep_programs", lambda where: None)
    monkeypatch.chdir(ROOT)
    seen = []
    monkeypatch.setattr(
        main.program, "evaluate_checkpoint", lambda *args: seen.append(args)
    )
    monkeypatch.setattr(main.report, "write", lambda folder, own: folder)
    monkeypatch.setattr(main.report, "summary", lambda folder: "")
    (tmp_path / "checkpoints").mkdir()
    flags = ["--mode=eval", f"--workdir={tmp_path}", "--attack=pgd:steps=3"]
    flags += ["--attack=square:queries=5", *(SMALL if config else ())]
    with flagsaver.flagsaver():
        main.main(main._parse(["jaxrobust.main", *flags]))
    [(used, *_, attacks)] = [(args[0], args[5:6]) for args in seen]
    if not config:
        used = {"data": {"name": "digits"}, "eval": {"suite": "fpd2020"}}
        used["eval"]["attacks"] = {"a": {"name": "fgsm", "eps": "0.1"}}
        used = main.program.with_attacks(used, *attacks)
    found = used["eval"]["attacks"]
    assert list(found) == ["pgd", "square"]
    assert {f["eps"] for f in found.values()} == {"0.1"}
    assert used["eval"]["suite"] == ""


@pytest.mark.full
def test_a_checkpoint_of_another_architecture_is_refused(trained):
    flags = [*SMALL, "--mode=eval", f"--workdir={trained}", "--config.model.width=8"]
    done = run(*flags)
    assert done.returncode != 0
    assert "model.width is 4 there, 8 in the config" in done.stderr


def test_data_that_are_not_there_take_three_lines(tmp_path):
    flags = ["--config=configs/ssp_cifar10.py:quick", f"--workdir={tmp_path / 'w'}"]
    env = {**environment(), "TFDS_DATA_DIR": str(tmp_path)}
    done = subprocess.run(
        command(*flags), cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "jaxrobust.data.prepare cifar10" in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 4


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "Make room there; the same command goes on"),
        (errno.EROFS, "Make it writable, or choose another --workdir"),
        (errno.ELOOP, "It is a link that leads to itself: remove it"),
        (errno.EACCES, "Make it writable, or choose another --workdir"),
    ],
)
def test_errors_of_a_disk_say_what_to_do(number, advice):
    main = importlib.import_module("jaxrobust.main")
    assert advice in main._hint(OSError(number, os.strerror(number), "file"))
    assert main._hint(ValueError("a mistake")) == ""
