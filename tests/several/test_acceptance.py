"""The program in several processes on CIFAR-10: minutes each, hence `-m full`."""

import json
import os
import pathlib
import signal
import time

import chex
import jax
import numpy as np
import pytest

from jaxrobust import checkpoints
from launch import local_processes

pytestmark = pytest.mark.full
ROOT = pathlib.Path(__file__).parents[2]
CONFIG = "configs/ssp_cifar10.py:block=res,n=1,attack="
COMMON = (
    "--config.data.validation_examples=64",
    "--config.validation.batch_size=64",
    "--config.validation.attack.steps=1",
    "--config.train.batch_size=16",
    "--config.train.log_every_steps=1",
    "--config.train.epochs=1",
    "--config.attack.steps=3",
    "--config.eval.examples=48",
    "--config.eval.batch_size=16",
    "--config.eval.curve.examples=16",
    "--config.eval.growth.enabled=False",
    "--config.eval.analysis.enabled=False",
    "--config.eval.diagnostics.enabled=False",
)


def start(workdir, count, *flags, attack="pgd", devices=2, **env):
    argv = ["--config", CONFIG + attack, "--workdir", str(workdir), *COMMON, *flags]
    return local_processes.start(
        count,
        devices,
        argv,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        log_dir=f"{workdir}-logs",
    )


def logs(workdir):
    folder = pathlib.Path(f"{workdir}-logs")
    return {p.name: p.read_text()[-3000:] for p in folder.iterdir()}


def run(workdir, count, *flags, **options):
    status = start(workdir, count, *flags, **options).wait()
    assert status == 0, logs(workdir)
    return workdir


def steps(number):
    """A training set of so many steps."""
    return f"--config.data.train_examples={64 + 16 * number}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("several")


@pytest.fixture(scope="module")
def one(folder):
    """Runs by one process with one device, made when asked for."""
    made = {}

    def make(name, *flags, **options):
        if name not in made:
            made[name] = run(folder / name, 1, *flags, devices=1, **options)
        return made[name]

    return make


DOUBLE = ("--mode=train", "--config.train.compute_dtype=float64", steps(20))


def variables(workdir):
    with jax.enable_x64(True):
        _, found, _ = checkpoints.load(workdir, "last")
        return jax.tree.map(np.asarray, found)


@pytest.mark.parametrize("count", [2, 4])
def test_twenty_steps_in_float64(folder, one, count):
    expected = variables(one("double", *DOUBLE, JAX_ENABLE_X64="1"))
    found = variables(
        run(folder / f"double{count}", count, *DOUBLE, JAX_ENABLE_X64="1")
    )
    difference = max(
        float(np.abs(a - b).max())
        for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True)
    )
    print(f"{count} processes: largest difference {difference:.3g}")
    assert difference <= 1e-9


def first_loss(workdir):
    with open(workdir / "metrics.jsonl") as file:
        return json.loads(file.readline())["loss"]


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize(("attack", "limit"), [("none", 1e-5), ("pgd", 1e-3)])
def test_one_step_in_float32(folder, one, count, attack, limit):
    flags = ("--mode=train", steps(1))
    expected = first_loss(one(f"single-{attack}", *flags, attack=attack))
    workdir = run(folder / f"single-{attack}{count}", count, *flags, attack=attack)
    difference = abs(first_loss(workdir) - expected)
    print(f"{count} processes, {attack}: loss differs by {difference:.3g}")
    assert difference <= limit


EVALUATED = ("--config.eval.suite=autoattack", "--config.eval.slots=16")


@pytest.mark.parametrize("count", [2, 4])
def test_an_evaluation_gives_the_same_flags(folder, one, count):
    trained = one("trained", steps(60), *EVALUATED, attack="none")
    workdir = run(
        folder / f"evaluated{count}",
        count,
        steps(60),
        *EVALUATED,
        "--mode=eval",
        f"--checkpoint={trained}",
        attack="none",
    )
    with (
        np.load(trained / "evaluation.npz") as expected,
        np.load(workdir / "evaluation.npz") as found,
    ):
        names = [n for n in expected if n.startswith(("robust", "predicted"))]
        assert len(names) > 5
        print(f"{count} processes: {names}, clean {expected['predicted_clean']}")
        for name in names:
            chex.assert_trees_all_equal(found[name], expected[name])


def wait_for_rows(workdir, count):
    path = workdir / "metrics.jsonl"
    for _ in range(3000):
        if path.exists() and path.read_text().count("\n") >= count:
            return
        time.sleep(0.1)
    raise AssertionError(logs(workdir))


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_all_and_the_run_goes_on_elsewhere(folder, one, victim):
    flags = (*DOUBLE, "--config.train.save_every_steps=2")
    workdir = folder / f"killed{victim}"
    group = start(workdir, 2, *flags, JAX_ENABLE_X64="1")
    wait_for_rows(workdir, 6)
    begin = time.monotonic()
    os.kill(group.pids[victim], signal.SIGKILL)
    assert group.wait(patience=120) == 128 + signal.SIGKILL
    print(f"process {victim} killed: all ended within {time.monotonic() - begin:.0f} s")
    said = logs(workdir)[f"process-{1 - victim}.log"]
    assert f"process {victim} of 2" in said, said
    run(workdir, 1, *flags, devices=2, JAX_ENABLE_X64="1")
    said = logs(workdir)["process-0.log"]
    assert "saved by 2 processes with 4 devices, this is 1 process with 2" in said
    expected = jax.tree.leaves(variables(one("double", *DOUBLE, JAX_ENABLE_X64="1")))
    for a, b in zip(expected, jax.tree.leaves(variables(workdir)), strict=True):
        chex.assert_trees_all_close(a, b, rtol=0, atol=1e-9)


def test_sigterm_to_one_process_saves_and_ends_all(folder, one):
    flags = (*DOUBLE, "--config.train.save_every_steps=1000")
    workdir = folder / "terminated"
    group = start(workdir, 2, *flags, JAX_ENABLE_X64="1")
    wait_for_rows(workdir, 4)
    os.kill(group.pids[1], signal.SIGTERM)
    assert group.wait(patience=120) == 128 + signal.SIGTERM, logs(workdir)
    assert all(p.returncode == 128 + signal.SIGTERM for p in group.processes)
    assert "stopped by SIGTERM at step" in logs(workdir)["process-0.log"]
    run(workdir, 2, *flags, JAX_ENABLE_X64="1")
    assert "resuming" in logs(workdir)["process-0.log"]
    expected = jax.tree.leaves(variables(one("double", *DOUBLE, JAX_ENABLE_X64="1")))
    for a, b in zip(expected, jax.tree.leaves(variables(workdir)), strict=True):
        chex.assert_trees_all_close(a, b, rtol=0, atol=1e-9)
