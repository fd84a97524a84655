"""One run per work directory, one config per work directory."""

import json
import subprocess
import sys

import pytest

from jaxrobust.runtime import workdir
from jaxrobust.training import program


def test_a_second_run_is_refused_and_a_dead_one_is_not_in_the_way(tmp_path):
    code = (
        "import sys, time; from jaxrobust.runtime import workdir\n"
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


def begin(folder):
    """Makes a folder look as if a run had saved there."""
    (folder / "checkpoints" / "4").mkdir(parents=True)


def test_another_config_is_refused_by_field(tmp_path):
    begin(tmp_path)
    workdir.write_config(tmp_path, {"seed": 0, "train": {"epochs": 1.0}}, "command")
    again = {"seed": 0, "train": {"epochs": 1.0}, "eval": {"examples": 5}}
    workdir.write_config(tmp_path, {**again, "data": {"feed": "stream"}}, "again")
    workdir.write_config(tmp_path, {**again, "name": "a title"}, "again")
    workdir.write_config(tmp_path, again, "again")  # the feed may change too
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved == {"config": again, "command": "command"}
    with pytest.raises(ValueError, match=r"seed \(0 there, 1 now\)"):
        workdir.write_config(tmp_path, {"seed": 1, "train": {"epochs": 1.0}}, "x")


def test_the_evaluation_of_the_results_stays_until_there_are_others(tmp_path):
    """Killed before it is evaluated again, a run has results of the old fields."""
    before = {"seed": 0, "eval": {"examples": 10}, "train": {"epochs": 1.0}}
    after = {**before, "eval": {"examples": 20}}
    workdir.write_config(tmp_path, before, "command", to_train=True)
    for results, told in ((False, 20), (True, 20)):
        if results:
            (tmp_path / "results.json").write_text("{}")
            after = {**after, "eval": {"examples": 30}}
        workdir.write_config(tmp_path, after, "command", to_train=True)
        found = json.loads((tmp_path / "config.json").read_text())["config"]
        assert found["eval"]["examples"] == told
    workdir.write_config(tmp_path, after, "command")
    found = json.loads((tmp_path / "config.json").read_text())["config"]
    assert found["eval"]["examples"] == 30


def test_a_start_that_came_to_nothing_refuses_nothing(tmp_path):
    workdir.write_config(tmp_path, {"seed": 0}, "first")
    workdir.write_config(tmp_path, {"seed": 1}, "second")
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved == {"config": {"seed": 1}, "command": "second"}
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(ValueError, match="seed"):
        workdir.write_config(tmp_path, {"seed": 0}, "third")


def run_of(epochs=2.0, rate=0.1, decay=5e-4):
    return {
        "train": {"epochs": epochs},
        "optimizer": {"learning_rate": rate, "weight_decay": decay},
    }


@pytest.mark.parametrize(
    ("now", "extend", "said"),
    [
        (
            run_of(3.0),
            False,
            r"train\.epochs \(2\.0 there, 3\.0 now\).*train\.extend=T",
        ),
        (run_of(rate=0.2), False, r"learning_rate.*--config\.train\.extend=True"),
        (run_of(3.0, decay=0.0), True, r"weight_decay .*another --workdir"),
        (run_of(1.0), True, r"`train\.epochs` can only grow .* 1\.0 after 2\.0"),
        (run_of(3.0, 0.2), True, None),
    ],
)
def test_a_run_is_extended_when_asked(now, extend, said, tmp_path):
    begin(tmp_path)
    workdir.write_config(tmp_path, run_of(), "command")
    if said is None:
        workdir.write_config(tmp_path, now, "again", extend=extend)
        assert json.loads((tmp_path / "config.json").read_text())["config"] == now
        return
    with pytest.raises(ValueError, match=said):
        workdir.write_config(tmp_path, now, "again", extend=extend)


def test_nothing_is_extended_where_nothing_is(tmp_path):
    with pytest.raises(ValueError, match=r"`train\.extend` goes on .* holds none"):
        workdir.write_config(tmp_path, run_of(), "command", extend=True)


def test_a_field_that_is_newer_than_the_run_has_its_default(tmp_path):
    begin(tmp_path)
    old = {"train": {"epochs": 1.0}}
    workdir.write_config(tmp_path, old, "command")
    new = {"train": {"epochs": 1.0, "skip_nonfinite": 0, "remat": True}}
    defaults = {"train": {"skip_nonfinite": 0, "batch_size": 8}}
    workdir.write_config(tmp_path, new, "command", defaults=defaults)
    new["train"]["skip_nonfinite"] = 1
    with pytest.raises(ValueError, match=r"skip_nonfinite \(0 there, 1 now\)"):
        workdir.write_config(tmp_path, new, "command", defaults=defaults)


@pytest.mark.parametrize("content", ['{"config": {"se', "[]", "null", "{}", "[" * 9999])
def test_a_damaged_config_is_told(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json is damaged .*; delete that"):
        workdir.write_config(tmp_path, {"seed": 0}, "command")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OSError, match="file is there and is no folder"),
        workdir.locked(tmp_path / "file" / "run"),
    ):
        pass


def test_what_may_change_from_run_to_run_keeps_the_work_directory():
    """A validation that ran out of memory goes on with a smaller batch."""
    path = "configs/quickstart.py:quick"
    usual = program.default_workdir(path, {})
    for field in (
        "validation.batch_size",
        "data.feed",
        "data.test_examples",
        "eval.suite",
        "train.remat",
    ):
        assert program.default_workdir(path, {field: 1}) == usual
    assert program.default_workdir(path, {"train.batch_size": 1}) != usual
