"""One process per folder, on file systems with and without locks."""

import errno
import fcntl
import os
import socket
import subprocess
import sys

import pytest

from jaxrobust.runtime import lock

HOST = socket.gethostname()


@pytest.fixture(scope="module")
def dead():
    """The number of a process that is no more."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


@pytest.fixture
def no_flock(monkeypatch):
    def flock(file, operation):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)


def take(folder):
    with lock.held(folder):
        return (folder / ".lock").read_text()


@pytest.mark.parametrize("before", ["", "123"])
def test_the_process_is_named(before, tmp_path):
    (tmp_path / ".lock").write_text(before)
    assert take(tmp_path) == str(os.getpid())


def test_what_another_program_wrote_stays(tmp_path):
    (tmp_path / ".lock").write_text("of another program")
    assert take(tmp_path) == "of another program"


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe", "folder"])
def test_what_is_not_ours_is_refused(kind, tmp_path):
    victim, place = tmp_path / "victim", tmp_path / ".lock"
    victim.write_text("")
    if kind == "link":
        place.symlink_to(victim)
    elif kind == "hard link":
        os.link(victim, place)
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.mkdir()
    with pytest.raises(OSError, match=r"\.lock"):
        take(tmp_path)
    assert victim.read_text() == ""


def test_without_flock_a_file_names_the_process(tmp_path, no_flock, caplog):
    with lock.held(tmp_path):
        assert str(os.getpid()) in (tmp_path / ".lock-owner").read_text()
        with pytest.raises(BlockingIOError, match=rf"process {os.getpid()} on {HOST}"):
            take(tmp_path)
    assert "has no locks of the operating system" in caplog.text
    assert not (tmp_path / ".lock-owner").exists()


@pytest.mark.parametrize(
    ("owner", "free"),
    [
        (f"{HOST} DEAD 1", True),
        (f"{HOST} MINE 1", True),  # a number that was used again
        ("elsewhere DEAD 1", False),
        (f"{HOST} 1 ?", False),
        (f"{HOST} {10**30} 1", False),
        ("", False),
        ("\0 \x80", False),
    ],
)
def test_without_flock_a_dead_owner_is_taken_over(
    owner, free, tmp_path, no_flock, dead
):
    file = tmp_path / ".lock-owner"
    owner = owner.replace("DEAD", str(dead)).replace("MINE", str(os.getpid()))
    file.write_text(owner)
    if free:
        take(tmp_path)
        assert not file.exists()
    else:
        with pytest.raises(BlockingIOError, match=r"If it is no more, delete .*owner"):
            take(tmp_path)
        assert file.read_text() == owner


def test_without_flock_a_link_in_its_place_is_not_followed(tmp_path, no_flock, dead):
    (tmp_path / "victim").write_text(f"{HOST} {dead} 1")
    (tmp_path / ".lock-owner").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match=r"owner is a link"):
        take(tmp_path)
