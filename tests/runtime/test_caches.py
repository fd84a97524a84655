"""Where caches lie, and where there are none."""

import os
import pathlib

import pytest

from jaxrobust.runtime import caches

STAT = os.stat


@pytest.mark.parametrize(
    ("xdg", "home", "found"),
    [
        ("/x", "/h", "/x/jaxrobust/labels"),
        (None, "/h", "/h/.cache/jaxrobust/labels"),
        ("", "/h", "/h/.cache/jaxrobust/labels"),
        ("relative", "/h", "/h/.cache/jaxrobust/labels"),
        (None, "relative", None),
        (None, "", None),
    ],
)
def test_the_folder(xdg, home, found, monkeypatch):
    monkeypatch.setenv("HOME", home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if xdg is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", xdg)
    assert caches.folder("labels") == (found and pathlib.Path(found))


def test_a_user_without_home_and_passwd_entry_has_none(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert caches.folder() is None


def test_a_cache_without_a_home(tmp_path, monkeypatch):
    # Neither HOME nor a passwd entry; what is called ~ in this folder means nothing.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.chdir(tmp_path)
    folder = caches.folder("labels")
    assert folder == tmp_path / "xdg/jaxrobust/labels"
    assert caches.problem(folder, private=True) is None
    (tmp_path / "~").mkdir()
    asked = []
    monkeypatch.setattr(os, "stat", lambda p, **o: asked.append(str(p)) or STAT(p, **o))
    assert caches.problem(folder, private=True) is None
    assert "~" not in asked


@pytest.mark.parametrize(("mode", "fine"), [(0o755, True), (0o757, False)])
def test_programs_are_not_taken_from_where_others_can_write(mode, fine, tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c").chmod(mode)
    assert (caches.problem(tmp_path / "c", private=True) is None) == fine
    assert caches.problem(tmp_path / "c", private=False) is None
