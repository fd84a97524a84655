"""Each fault of docs/faults.md, injected into a small run."""

import collections
import itertools
import os
import signal
import subprocess
import sys
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import checkpoints, evaluation, named_models, parallel
from jaxrobust.evaluation import step as evaluation_step
from jaxrobust.results.files import read_metrics as read
from jaxrobust.runtime.out_of_memory import explained
from jaxrobust.training import config, loop, nonfinite, preemption, program
from tests.marks import full_but

STEPS = 6


def small(**train):
    """Two steps an epoch, three epochs, on a network of a few weights."""
    fields = config.base()
    config.shrink(fields)
    fields.model = {
        "name": "ssp_mnist",
        "integrator": "res",
        "blocks": 1,
        "width": 4,
        "norm": "b",
    }
    fields.objective.name = "standard"
    fields.train.update({"batch_size": 64, "epochs": 3.0, "save_every_steps": 1})
    fields.train.update(train)
    return fields.to_dict()


def update(state, batch, key):
    """Stands for a step, so that a test need not compile one."""
    amount = batch["label"].mean() / 100 + jax.random.uniform(key) * state.step
    params = jax.tree.map(lambda p: p + amount, state.params)
    loss = jax.tree.leaves(params)[0].mean()
    return state.replace(step=state.step + 1, params=params), {"loss": loss}


def injector(patch):
    """Returns `inject`, which makes runs of the loop quick and adds a fault to them."""
    build = loop.build

    def inject(fault=None, change=update, real=False):
        def built(*args, **kwargs):
            run = build(*args, **kwargs)
            if not real:
                run.step = jax.jit(change, donate_argnums=0)
                run.validate = lambda variables: {"accuracy": 0.5, "loss": 1.0}
            step, numbers = run.step, itertools.count(int(run.state.step) + 1)

            def faulty_step(state, batch, key):
                result = step(state, batch, key)
                return fault(next(numbers), *result) if fault else result

            run.step = faulty_step
            return run

        patch.setattr(loop, "build", built)

    return inject


@pytest.fixture
def faulty(monkeypatch):
    return injector(monkeypatch)


def train(folder, fields=None, devices=1):
    loop.train(fields or small(), folder, parallel.make_mesh(devices))


def saved_steps(folder):
    names = (p.name for p in (folder / "checkpoints").iterdir())
    return sorted(int(name) for name in names if name.isdigit())


def final(folder):
    """The last checkpoint's variables; its step says that the run went to the end."""
    assert saved_steps(folder)[-1] == STEPS
    return jax.device_get(checkpoints.load(folder, "last")[1])


def assert_same(folder, whole, rtol=0.0):
    """Two runs end in the same parameters, and neither misses a row."""
    chex.assert_trees_all_close(final(folder), final(whole), rtol=rtol, strict=True)
    for path in (folder, whole):
        rows = read(path / "metrics.jsonl")
        measured = [row["step"] for row in rows if "validation/accuracy" in row]
        assert measured == [2, 4, 6]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A quick run without a fault."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        injector(patch)()
        train(folder)
    return folder


def sigterm_at(step, times=1, sent=signal.SIGTERM):
    def fault(number, state, metrics):
        for _ in range(times * (number == step)):
            os.kill(os.getpid(), sent)
        return state, metrics

    return fault


@pytest.mark.full  # test_main.py kills and stops the whole program
def test_sigterm_saves_and_the_resumed_run_is_bit_identical(tmp_path, faulty):
    """With the real step; a second signal changes nothing."""
    before = signal.getsignal(signal.SIGTERM)
    folder, fields = tmp_path / "stopped", small(save_every_steps=100)
    faulty(sigterm_at(3, times=2), real=True)
    with pytest.raises(preemption.Stopped, match="at step 3 of 6; saved; the same com"):
        train(folder, fields)
    assert signal.getsignal(signal.SIGTERM) == before
    assert saved_steps(folder) == [2, 3]
    faulty(real=True)
    train(folder, fields)
    train(tmp_path / "whole", fields)
    assert_same(folder, tmp_path / "whole")


def test_sigusr1_saves_like_sigterm(tmp_path, faulty):
    """SLURM's `--signal=USR1@120`."""
    before = signal.getsignal(signal.SIGUSR1)
    faulty(sigterm_at(3, sent=signal.SIGUSR1))
    with pytest.raises(preemption.Stopped, match="by SIGUSR1 at step 3 of 6; saved; "):
        train(tmp_path, small(save_every_steps=100))
    assert signal.getsignal(signal.SIGUSR1) == before
    assert saved_steps(tmp_path) == [2, 3]


def test_sigusr1_where_nothing_is_to_be_saved_is_told():
    """Its default is a death without a word, as in an evaluation."""
    before = signal.getsignal(signal.SIGUSR1)
    preemption.end_in_words()
    try:
        with pytest.raises(preemption.Ended, match="stopped by SIGUSR1; the same"):
            signal.raise_signal(signal.SIGUSR1)
        with preemption.catching() as stop:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert stop.reached(1)
            stop.asked = False
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.full
def test_sigterm_at_the_last_step_ends_before_the_evaluation(tmp_path, faulty):
    faulty(sigterm_at(STEPS))
    with pytest.raises(preemption.Stopped, match="at step 6 of 6"):
        train(tmp_path)
    train(tmp_path)  # nothing is left to do
    final(tmp_path)


def test_a_signal_too_late_for_a_step_is_passed_on():
    caught = []
    before = signal.signal(signal.SIGTERM, lambda *_: caught.append(1))
    try:
        with preemption.catching() as stop:
            assert not stop.reached(1)
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.reached(2)
            assert not caught
        assert caught == [1]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_ctrl_c_keeps_what_is_saved(tmp_path, faulty, whole):
    def fault(number, state, metrics):
        if number == 4:
            raise KeyboardInterrupt
        return state, metrics

    faulty(fault)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path)
    assert saved_steps(tmp_path)[-1] == 3
    faulty()
    train(tmp_path)
    assert_same(tmp_path, whole)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_inside_a_finaliser_is_not_lost(tmp_path, faulty, monkeypatch):
    """Python prints an exception that is raised there and goes on."""
    lost = []
    monkeypatch.setattr(sys, "unraisablehook", lambda told: lost.append(told.exc_type))

    class Finalised:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    def fault(number, state, metrics):
        if number == 4:
            Finalised()
        return state, metrics

    faulty(fault)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path)
    assert lost == [KeyboardInterrupt]


@pytest.fixture
def disk(tmp_path):
    """A small disk at `checkpoints` of a work directory."""
    folder = tmp_path / "disk" / "checkpoints"
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(folder):
    with open(folder / "filler", "wb", buffering=0) as file:
        pages = map(file.write, itertools.repeat(bytes(4096)))
        with pytest.raises(OSError, match="No space left"):
            collections.deque(pages, maxlen=0)


def set_mode(folder, mode):
    subprocess.run(["mount", "-o", f"remount,{mode}", str(folder)], check=True)


# Orbax leaves tasks behind that failed to write; their complaint is not ours to raise.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", full_but(["full", "read-only"], ["full"]))
def test_a_disk_that_stops_taking_checkpoints(kind, disk, faulty, whole):
    """A background save fails; the run ends, and goes on from the one before."""

    def fault(number, state, metrics):
        if number == 4:
            while not (disk / "2").exists():  # written while training goes on
                time.sleep(0.01)
            fill(disk) if kind == "full" else set_mode(disk, "ro")
        return state, metrics

    fields = small(save_every_steps=100)
    faulty(fault)
    reason = "No space left" if kind == "full" else "Read-only file system"
    with pytest.raises(OSError, match=f"checkpoint 4 could not be .*{reason}") as told:
        train(disk.parent, fields)
    assert "goes on from the checkpoint before" in str(told.value)
    assert len(str(told.value).splitlines()) == 1
    (disk / "filler").unlink() if kind == "full" else set_mode(disk, "rw")
    assert saved_steps(disk.parent) == [2]
    faulty()
    train(disk.parent, fields)
    assert_same(disk.parent, whole)
    assert not list(disk.glob("*tmp*"))


def poisoned(step):
    """Parameters overflow in the update of `step`, whose metrics are still finite."""

    def change(state, batch, key):
        after, metrics = update(state, batch, key)
        metrics = {"loss": jax.tree.leaves(state.params)[0].mean()}
        bad = jnp.where(state.step == step - 1, jnp.nan, 1.0)
        params = jax.tree.map(lambda p: p * bad, after.params)
        return after.replace(params=params), metrics

    return change


@pytest.mark.parametrize(
    ("every", "message", "kept"),
    [
        (1, r"params/model/.* is not finite after step 3; start again", [1, 2]),
        (100, r"metric 'loss' is nan at step 4; start again .*learning_rate", [2]),
    ],
)
def test_a_nan_ends_the_run_and_is_never_saved(every, message, kept, tmp_path, faulty):
    faulty(change=poisoned(3))
    with pytest.raises(FloatingPointError, match=message):
        train(tmp_path, small(save_every_steps=every))
    assert saved_steps(tmp_path) == kept
    _, variables, _ = checkpoints.load(tmp_path, "last")
    chex.assert_tree_all_finite(variables)


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_a_nan_is_told_at_its_step_not_at_the_next_row(name, tmp_path, faulty):
    """Two steps ahead at most; neither a row nor a validation is due before."""
    taken = []

    def fault(number, state, metrics):
        taken.append(number)
        bad = {name: jnp.float32(jnp.nan)} if number == 7 else {}
        return state, {**metrics, **bad}

    faulty(fault)
    fields = small(epochs=100.0, log_every_steps=100, validate_every_epochs=100.0)
    fields["train"]["save_every_steps"] = 100
    with pytest.raises(FloatingPointError, match=f"metric '{name}' is nan at step 7;"):
        train(tmp_path, fields)
    assert taken[-1] <= 9


def test_a_nan_at_a_validation_is_told_at_its_step(tmp_path, faulty, monkeypatch):
    def validate(*args, **kwargs):
        raise AssertionError("validated a broken network")

    monkeypatch.setattr(evaluation, "run_eval_step", validate)
    faulty(lambda n, s, m: (s, {**m, "loss": jnp.float32(jnp.inf)}), real=True)
    with pytest.raises(FloatingPointError, match="metric 'loss' is inf at step 1;"):
        train(tmp_path, small(validate_every_epochs=0.1))


def bad_losses(*steps):
    def change(state, batch, key):
        after, metrics = update(state, batch, key)
        bad = jnp.isin(after.step, jnp.array(steps))
        params = jax.tree.map(lambda p: jnp.where(bad, jnp.inf, p), after.params)
        return after.replace(params=params), {
            "loss": jnp.where(bad, jnp.nan, metrics["loss"])
        }

    return nonfinite.dropping(change)


def test_logits_of_a_validation_that_overflow_are_told_with_the_step(
    tmp_path, faulty, monkeypatch
):
    """Finite weights may be so large, at a rate that is far too high."""

    def validate(*args, **kwargs):
        evaluation_step.check_finite(np.asarray([[0.0], [np.inf]]))

    monkeypatch.setattr(evaluation, "run_eval_step", validate)
    faulty(lambda n, s, m: (s, m), real=True)
    with pytest.raises(
        FloatingPointError, match=r"after step 1 the logits of 1 of 2 .*learning_rate"
    ):
        train(tmp_path, small(validate_every_epochs=0.1))


def test_dropped_updates_are_counted(tmp_path, faulty):
    faulty(change=bad_losses(2, 3, 5))
    train(tmp_path, small(skip_nonfinite=2, log_every_steps=1))
    rows = read(tmp_path / "metrics.jsonl")
    assert [row["skipped"] for row in rows] == [0, 1, 1, 0, 1, 0]
    assert [row["step"] for row in rows if "loss" in row] == [1, 4, 6]
    chex.assert_tree_all_finite(final(tmp_path))


def test_too_many_in_a_row_end_the_run_also_across_a_restart(tmp_path, faulty):
    change = bad_losses(2, 3, 4)

    def stopping(number, state, metrics):
        return sigterm_at(3)(number, state, metrics)

    fields = small(skip_nonfinite=2)
    faulty(stopping, change)
    with pytest.raises(preemption.Stopped):
        train(tmp_path, fields)
    faulty(change=change)
    with pytest.raises(FloatingPointError, match="nan at step 4, number 3 in a row"):
        train(tmp_path, fields)
    assert saved_steps(tmp_path)[-1] == 3


def out_of_memory(*args, **kwargs):
    raise jax.errors.JaxRuntimeError(
        "RESOURCE_EXHAUSTED: Out of memory allocating 8589934592 bytes."
    )


def test_out_of_memory_in_a_step_names_what_to_try(tmp_path, faulty):
    faulty(lambda n, *result: result if n < 3 else out_of_memory())
    with pytest.raises(MemoryError) as told:
        train(tmp_path, devices=2)
    for part in (
        "train.batch_size=64; try --config.train.batch_size=32",
        "--config.train.accumulate=2 (each",
    ):
        assert part in str(told.value)
    assert len(str(told.value).splitlines()) == 1
    assert saved_steps(tmp_path) == [1, 2]


def test_out_of_memory_in_a_validation(tmp_path, faulty, monkeypatch):
    monkeypatch.setattr(evaluation, "run_eval_step", out_of_memory)
    faulty(real=True)
    with pytest.raises(
        MemoryError, match=r"validation\.batch_size=64; try .*size=32\."
    ):
        train(tmp_path, small(save_every_steps=1))
    assert saved_steps(tmp_path) == [1]


def test_out_of_memory_in_an_evaluation(tmp_path, monkeypatch):
    fields = small()
    model = named_models.create_model(fields)
    key, x = jax.random.key(0), jnp.zeros((1, 8, 8, 1))
    shapes = jax.eval_shape(lambda: model.init(key, x, train=False))
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    checkpoints.save_variables(tmp_path, variables, fields)
    monkeypatch.setattr(evaluation, "evaluate", out_of_memory)
    mesh = parallel.make_mesh(1)
    with pytest.raises(MemoryError, match=r"eval\.batch_size=64; try --config\.eval"):
        program.evaluate_checkpoint(fields, str(tmp_path), "last", mesh, "")


@pytest.mark.parametrize(("size", "devices", "half"), [(250, 4, 124), (6, 4, None)])
def test_half_a_batch_is_a_multiple_of_the_devices(size, devices, half):
    with (
        pytest.raises(MemoryError, match=f"size={half}" if half else "smaller network"),
        explained("--size", size, devices),
    ):
        out_of_memory()


def test_other_errors_of_the_runtime_stay_what_they_are():
    with (
        pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"),
        explained("--size", 4, 1),
    ):
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")


@pytest.mark.full
def test_another_layout_is_told(tmp_path, faulty, caplog, whole):
    faulty(sigterm_at(3))
    with pytest.raises(preemption.Stopped):
        train(tmp_path, devices=1)
    faulty()
    train(tmp_path, devices=2)
    assert "at step 3 of 6; it was saved by 1 process with 1 device, this is 1 " in (
        caplog.text
    )
    assert "with 2 devices: the batches are the same" in caplog.text
    assert_same(tmp_path, whole, rtol=1e-6)


def test_layouts_in_words():
    here = {"processes": 1, "devices": 2, "feed": "resident"}
    assert loop.layout_change(here, here) == ""
    assert loop.layout_change({}, here) == ""  # a checkpoint from before it was written
    there = {"processes": 2, "devices": 4, "feed": "stream"}
    assert loop.layout_change(there, here) == (
        "; it was saved by 2 processes with 4 devices (stream data), this is 1 process "
        "with 2 devices (resident data): the batches are the same, parameters agree to "
        "rounding"
    )
