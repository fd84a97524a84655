"""Metrics files survive a crash; non-finite values stop the run."""

import resource
import struct

import jax.numpy as jnp
import pytest
from tensorboardX.proto.event_pb2 import Event

from jaxrobust.results.files import read_metrics as read
from jaxrobust.training.metrics import fetch_mean
from jaxrobust.training.writers import Writers


def test_rows_beyond_the_checkpoint_and_half_a_line_are_dropped(tmp_path):
    with Writers(tmp_path, 0) as writer:
        for step in (1, 2, 3):
            writer.write(step, {"loss": 1 / step})
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 4, "lo')
    with Writers(tmp_path, 2) as writer:
        writer.write(3, {"loss": 0.5})
    assert [(r["step"], r["loss"]) for r in read(path)] == [
        (1, 1.0),
        (2, 0.5),
        (3, 0.5),
    ]
    assert list(tmp_path.glob("tensorboard/*tfevents*"))


@pytest.mark.parametrize(
    "garbage", [b'{"step": 2, "lo', b"\xff\xfe\x00{", b"[1]", b"{}"]
)
def test_garbage_costs_only_its_own_line(garbage, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "loss": 1.0}\n' + garbage + b'\n{"step": 3}\n')
    with Writers(tmp_path, 3) as writer:
        writer.write(4, {"loss": 0.5})
    assert [row["step"] for row in read(path)] == [1, 3, 4]
    assert garbage not in path.read_bytes()


def test_a_full_disk_is_an_error_and_leaves_the_rows_before(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = Writers(tmp_path, 0)
    writer.write(1, {"loss": 1.0})
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):  # noqa: PT012
            for step in range(2, 1000):
                writer.write(step, {"loss": 1.0})
        with pytest.raises(OSError, match="File too large"):
            writer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    steps = [row["step"] for row in read(tmp_path / "metrics.jsonl")]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) > 10


def test_events_reach_tensorboard(tmp_path):
    """The two files of a run that was started again are both there."""
    for step in (1, 2):
        with Writers(tmp_path, step - 1) as writer:
            writer.write(step, {"loss": 1 / step, "epoch": 0.5})
    folder = tmp_path / "tensorboard"
    files = sorted(folder.iterdir(), key=lambda file: file.suffixes[-2])  # their step
    found = []
    for file in files:
        content = file.read_bytes()
        while content:
            (size,) = struct.unpack("Q", content[:8])
            event = Event.FromString(content[12 : 12 + size])
            found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
            content = content[16 + size :]
    assert found == [(1, "loss", 1.0), (2, "loss", 0.5)]


def test_dropped_updates_are_left_out_of_the_means():
    history = [
        {"loss": jnp.float32(v), "skipped": jnp.int32(n)}
        for v, n in [(1.0, 0), (jnp.nan, 1), (5.0, 2), (3.0, 0)]
    ]
    assert fetch_mean(history, 4, skip=2) == {"loss": 2.0, "skipped": 2.0}
    assert fetch_mean(history[1:3], 3, skip=2) == {"skipped": 2.0}
    with pytest.raises(
        FloatingPointError, match="the update is not finite at step 3, "
    ):
        fetch_mean(history, 4, skip=1)


def test_means():
    history = [{"loss": jnp.float32(v)} for v in (1.0, 3.0)]
    assert fetch_mean(history, 2) == {"loss": 2.0}


def test_non_finite_values_name_the_step_and_the_metric():
    history = [{"loss": jnp.float32(v)} for v in (1.0, jnp.nan, 2.0)]
    with pytest.raises(FloatingPointError, match="'loss' is nan at step 9;"):
        fetch_mean(history, 10)
