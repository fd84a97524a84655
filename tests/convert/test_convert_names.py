"""Where the checkpoints of a folder go, whatever their files are called."""

import pathlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jaxrobust.convert import __main__ as convert
from jaxrobust.convert import _files
from jaxrobust.runtime import files

NAMES = st.text(min_size=1, max_size=80)


@given(st.lists(NAMES, min_size=1, max_size=3))
@example(["..", "..", "x"])
@example(["."])
@example(["../../etc"])
@example([" "])
@example(["lr=[0.1]*?"])
@example(["\udcff\n"])
@example(["~"])
def test_a_name_leads_nowhere_else(parts):
    path = files.safe_path("/w", parts)
    assert path.parts[:2] == ("/", "w")
    assert len(path.parts) == 2 + len(parts)
    assert not set(str(path)) & set("*?[\\\n")
    for part in path.parts[2:]:
        assert part.isprintable()
        assert not part.startswith((".", "~"))


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["a.pt", "b/a.pt"], ["a", "b/a"]),
        (["...npz", "..pt"], ["_..", "_."]),
        (["a.npz", "a.pt", "A.pth"], ["a", "a-2", "A-3"]),
        (["x[1].pt", "x(1).pt", "x_1_.pt"], ["x_1_", "x(1)", "x_1_-2"]),
        ([".hidden/..npz"], ["_.hidden/_."]),
    ],
)
def test_each_file_has_a_place_of_its_own(names, found, tmp_path):
    taken = set()
    places = [convert._target(tmp_path, pathlib.Path(n), taken) for n in names]
    assert [str(p.relative_to(tmp_path)) for p in places] == found
    assert not list(tmp_path.iterdir())


def test_a_link_inside_the_work_directory_is_not_followed(tmp_path):
    (tmp_path / "victim").mkdir()
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "a").symlink_to(tmp_path / "victim")
    for name in ("a/b.pt", "a.pt", "a/b/c.pt"):
        with pytest.raises(OSError, match="is a link"):
            convert._target(tmp_path / "w", pathlib.Path(name), set())


def test_hidden_files_are_left_alone(tmp_path):
    names = ["a.pt", "B.PTH", "c/...npz", "._a.pt", ".git/x.pt", "c/.d/e.pt"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = {str(path.relative_to(tmp_path)) for path in _files.find(tmp_path)}
    assert found == set(names[:3])
