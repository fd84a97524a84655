"""One run per work directory, one config per work directory."""

import json
import subprocess
import sys

import pytest

from jaxrobust.training import program, workdir


def test_a_second_run_is_refused_and_a_dead_one_is_not_in_the_way(tmp_path):
    code = (
        "import sys, time; from jaxrobust.training import workdir\n"
        f"with workdir.locked({str(tmp_path)!r}):\n"
        "    print('held', flush=True); time.sleep(600)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    with holder:
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(BlockingIOError, match=rf"process {holder.pid}\) uses"),
            workdir.locked(tmp_path),
        ):
            pass
        holder.kill()
    with workdir.locked(tmp_path):
        pass


def test_another_config_is_refused_by_field(tmp_path):
    workdir.write_config(tmp_path, {"seed": 0, "train": {"epochs": 1.0}}, "command")
    again = {"seed": 0, "train": {"epochs": 1.0}, "eval": {"examples": 5}}
    workdir.write_config(tmp_path, {**again, "data": {"feed": "stream"}}, "again")
    workdir.write_config(tmp_path, again, "again")  # the feed may change too
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved == {"config": again, "command": "command"}
    with pytest.raises(ValueError, match=r"train\.epochs \(1\.0 there, 2\.0 now\)"):
        workdir.write_config(tmp_path, {"seed": 0, "train": {"epochs": 2.0}}, "x")


def test_a_field_that_is_newer_than_the_run_has_its_default(tmp_path):
    old = {"train": {"epochs": 1.0}}
    workdir.write_config(tmp_path, old, "command")
    new = {"train": {"epochs": 1.0, "skip_nonfinite": 0, "remat": True}}
    workdir.write_config(tmp_path, new, "command")
    new["train"]["skip_nonfinite"] = 1
    with pytest.raises(ValueError, match=r"skip_nonfinite \(0 there, 1 now\)"):
        workdir.write_config(tmp_path, new, "command")


def test_a_damaged_config_is_told(tmp_path):
    (tmp_path / "config.json").write_bytes(b'{"config": {"se')
    with pytest.raises(ValueError, match=r"config\.json is damaged .*; delete that"):
        workdir.write_config(tmp_path, {"seed": 0}, "command")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OSError, match="Not a directory"),
        workdir.locked(tmp_path / "file" / "run"),
    ):
        pass


def test_what_may_change_from_run_to_run_keeps_the_work_directory():
    """A validation that ran out of memory goes on with a smaller batch."""
    path = "configs/quickstart.py:quick"
    usual = program.default_workdir(path, {})
    for field in ("validation.batch_size", "data.feed", "eval.suite", "train.remat"):
        assert program.default_workdir(path, {field: 1}) == usual
    assert program.default_workdir(path, {"train.batch_size": 1}) != usual
