"""The writer of files, with whatever others put at the names it uses."""

import contextlib
import json
import os
import stat
import time

import numpy as np
import pytest

from jaxrobust import checkpoints, report
from jaxrobust.runtime import files
from jaxrobust.training.writers import Writers

PRECIOUS = "precious"


@pytest.fixture
def victim(tmp_path):
    """A file of the user's outside the folder that is written."""
    file = tmp_path / "victim"
    file.write_text(PRECIOUS)
    yield file
    assert file.read_text() == PRECIOUS


def put(kind, place, victim):
    """Puts something at a name before it is written."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if kind == "file":
        place.write_text("old")
    elif kind == "link":
        place.symlink_to(victim)
    elif kind == "dangling link":
        place.symlink_to(victim.with_name("nowhere"))
    elif kind == "hard link":
        os.link(victim, place)
    elif kind == "folder":
        place.mkdir()
    elif kind == "pipe":
        os.mkfifo(place)


def left(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize(
    "kind", ["nothing", "file", "link", "dangling link", "hard link"]
)
def test_the_target_is_replaced_and_not_followed(kind, tmp_path, victim):
    target = tmp_path / "run" / "results.json"
    put(kind, target, victim)
    files.write_json(target, {"x": np.float32(np.nan), "y": np.arange(2)})
    assert json.loads(target.read_text()) == {"x": None, "y": [0, 1]}
    assert not target.is_symlink()
    assert target.stat().st_nlink == 1
    assert left(target.parent) == ["results.json"]
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_told(kind, tmp_path, victim):
    target = tmp_path / "run" / "results.json"
    put(kind, target, victim)
    with pytest.raises(OSError, match=r"run/results\.json is a .*: move it away"):
        files.write_text(target, "new")
    assert left(target.parent) == ["results.json"]


def test_nothing_changes_where_the_block_fails(tmp_path):
    target = tmp_path / "a.npz"
    target.write_text("old")
    with pytest.raises(TypeError), files.writing(target) as file:
        file.write("neither half nor whole")
    assert target.read_text() == "old"
    assert left(tmp_path) == ["a.npz"]


def test_the_umask_counts(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_text(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_what_a_killed_writer_left_is_swept_later(tmp_path):
    old, new = (tmp_path / f".{digit * 32}.partial" for digit in "ab")
    other = tmp_path / ".mine.partial"
    for file in (old, new, other):
        file.write_text("")
    past = time.time() - 7200
    os.utime(old, (past, past))
    os.utime(other, (past, past))
    files.sweep(tmp_path)
    assert left(tmp_path) == sorted([new.name, other.name])


@pytest.mark.parametrize("kind", ["file", "link", "dangling link", "pipe"])
def test_a_folder_of_ours_is_a_folder(kind, tmp_path, victim):
    target = tmp_path / "run" / "checkpoints"
    put(kind, target, victim)
    with pytest.raises(OSError, match=r"run/checkpoints is .*(a link|no folder)"):
        files.own_folder(target)


@pytest.mark.parametrize(
    "kind", ["link", "dangling link", "hard link", "pipe", "folder"]
)
def test_nothing_of_others_is_appended_to(kind, tmp_path, victim):
    target = tmp_path / "run" / "metrics.jsonl"
    put(kind, target, victim)
    with pytest.raises(OSError, match=r"metrics\.jsonl is a .*: move it away"):
        files.append_to(target)


def _metrics(folder):
    with Writers(folder, 0) as writer:
        writer.write(1, {"loss": 0.5})


def _report(folder):
    if not (folder / "config.json").exists():
        folder.mkdir(exist_ok=True)
        files.write_json(folder / "config.json", {"config": {}, "command": ""})
    report.write(folder)


def _weights(folder):
    checkpoints.save_variables(folder, {"params": {"w": np.zeros(2)}}, {"model": {}})


WRITERS = {
    "metrics.jsonl": _metrics,
    "report.html": _report,
    "config.json": _weights,
}


@pytest.mark.parametrize("kind", ["link", "dangling link", "hard link"])
@pytest.mark.parametrize("name", WRITERS)
def test_files_of_a_work_directory_are_never_written_through(
    kind, name, tmp_path, victim
):
    put(kind, tmp_path / "run" / name, victim)
    with contextlib.suppress(FileExistsError):  # weights refuse what is there
        WRITERS[name](tmp_path / "run")
        assert not (tmp_path / "run" / name).is_symlink()
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("text", "home", "found"),
    [
        ("~/a", "/home/u", "/home/u/a"),
        ("a/~", "/home/u", "a/~"),
        ("gs://~/a", "/home/u", "gs://~/a"),
        ("~", "/home/u", "/home/u"),
    ],
)
def test_the_home_folder_in_paths(text, home, found, monkeypatch):
    monkeypatch.setenv("HOME", home)
    assert os.fspath(files.expand(text)) == found


def test_another_scheme_is_told():
    with pytest.raises(ValueError, match=r"xx://a/b: .* bucket: gs://, s3://"):
        files.expand("xx://a/b")


@pytest.mark.parametrize(
    ("make", "path", "found"),
    [
        (lambda p: p.touch(), "a", "a"),
        (lambda p: p.touch(), "a/b/c", "a"),
        (os.mkfifo, "a", "a"),
        (lambda p: p.symlink_to("nowhere"), "a", "a"),
        (lambda p: p.symlink_to("a"), "a/b", "a"),
        (lambda p: p.mkdir(), "a/b", None),
        (lambda p: p.symlink_to("."), "a/b", None),
        (lambda p: None, "a/b", None),
    ],
)
def test_a_folder_that_cannot_be_made_is_told_first(make, path, found, tmp_path):
    make(tmp_path / "a")
    if found is None:
        files.require_folder(tmp_path / path, "x")
        return
    with pytest.raises(NotADirectoryError, match=r"a is there and is no folder: x\."):
        files.require_folder(tmp_path / path, "x")
    assert not files.require_folder("gs://a/b", "x")


def test_an_empty_path_is_not_the_current_folder():
    with pytest.raises(ValueError, match="a path is empty"):
        files.expand("")


def test_no_home_folder_is_told(monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(ValueError, match="~/a: no home folder is known"):
        files.expand("~/a")


def test_a_user_that_is_not_there_is_no_folder():
    with pytest.raises(
        ValueError, match=r"no user 'no_such_user'; .* give \./~no_such"
    ):
        files.expand("~no_such_user/x")
    assert os.fspath(files.expand("./~no_such_user/x")) == "~no_such_user/x"
