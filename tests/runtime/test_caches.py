"""Where caches lie, and where there are none."""

import os
import pathlib

import pytest

from jaxrobust.runtime import caches


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


@pytest.mark.parametrize(("mode", "fine"), [(0o755, True), (0o757, False)])
def test_programs_are_not_taken_from_where_others_can_write(mode, fine, tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c").chmod(mode)
    assert (caches.problem(tmp_path / "c", private=True) is None) == fine
    assert caches.problem(tmp_path / "c", private=False) is None
