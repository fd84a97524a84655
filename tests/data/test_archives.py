"""Archives and folders that others made are read, or refused in a line."""

import gzip
import io
import os
import re
import tarfile
import zipfile
from typing import Any

import numpy as np
import pytest
import scipy.io as scipy_io
from PIL import Image

from jaxrobust import data
from jaxrobust.data import _archives, _formats, _reading, prepare

RNG = np.random.default_rng(0)


def png(size=4):
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (size, size, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def zipped(path, members, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def set_in_zip(path, offset_local, offset_central, value):
    """Changes a byte of every header of a member."""
    content = bytearray(zipped(path, {"train/a/1.png": png()}).read_bytes())
    for mark, offset in (
        (b"PK\x03\x04", offset_local),
        (b"PK\x01\x02", offset_central),
    ):
        at = content.find(mark)
        while at >= 0:
            content[at + offset] = value
            at = content.find(mark, at + 1)
    path.write_bytes(bytes(content))


def flipped(path):
    content = bytearray(zipped(path, {"train/a/1.png": png()}).read_bytes())
    content[60] ^= 255
    path.write_bytes(bytes(content))


def of_zeros(path, size):
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("train/a/1.bmp", "w") as stream,
    ):
        for _ in range(size >> 20):
            stream.write(bytes(1 << 20))


def tar_member(name, kind=tarfile.REGTYPE, size=0, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, link
    return info


def tarred(path, members, mode: Any = "w"):
    with tarfile.open(path, mode) as archive:
        for info, content in members:
            info.size = len(content) or info.size
            archive.addfile(info, io.BytesIO(content) if content else None)
    return path


def announcing(path, size, kind=tarfile.REGTYPE):
    """A compressed tar whose only member says that it has `size` bytes."""
    block = tar_member("train/a/1.png", kind, size).tobuf()
    path.write_bytes(gzip.compress(block + bytes(1 << 16)))


REFUSED = {
    "encrypted zip": (
        "a.zip",
        lambda p: set_in_zip(p, 6, 8, 1),
        "1.png .* encrypted",
    ),
    "unknown method": (
        "a.zip",
        lambda p: set_in_zip(p, 8, 10, 97),
        "1.png in .* packed by method 97",
    ),
    "zip of another kind": (
        "a.zip",
        lambda p: p.write_bytes(b"Rar!"),
        "not a complete",
    ),
    "zip cut short": (
        "a.zip",
        lambda p: p.write_bytes(zipped(p, {"a": b"x" * 999}).read_bytes()[:500]),
        "not a complete archive",
    ),
    "zip bomb": (
        "a.zip",
        lambda p: of_zeros(p, 300 << 20),
        "announces 300 MiB, more than 500 times as much",
    ),
    "tar of another kind": (
        "a.tar",
        lambda p: p.write_bytes(b"Rar!"),
        "not a complete",
    ),
    "empty tar.gz": ("a.tar.gz", lambda p: p.touch(), "not a complete archive"),
    "tar.gz cut short": (
        "a.tar.gz",
        lambda p: p.write_bytes(
            tarred(p, [(tar_member("x"), os.urandom(9999))], "w:gz").read_bytes()[:5000]
        ),
        "not a complete archive",
    ),
    "tar bomb": (
        "a.tar.gz",
        lambda p: announcing(p, 100 << 30),
        "1.png in .* announces 100.0 GiB, more than the 4.0 GiB",
    ),
    "tar of zeros": (
        "a.tar.gz",
        lambda p: announcing(p, 300 << 20),
        "announces 300 MiB, more than 500 times as much",
    ),
    "tar with a name without end": (
        "a.tar.gz",
        lambda p: announcing(p, 300 << 20, tarfile.GNUTYPE_LONGNAME),
        "announces 300 MiB in one piece",
    ),
    "tar without its content": (
        "a.tar.gz",
        lambda p: announcing(p, 1 << 20),
        "not a complete archive",
    ),
    "pipe": ("a.zip", lambda p: os.mkfifo(p), "is a named pipe"),
    "another suffix": ("a.rar", lambda p: p.touch(), "neither a folder nor an archive"),
    "loop of folders": (
        "a",
        lambda p: p.mkdir() or (p / "b").symlink_to(p),
        r"a/b is the folder .*/a again \(a link\)",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_in_a_line(what, tmp_path):
    name, make, message = REFUSED[what]
    make(tmp_path / name)
    with pytest.raises(ValueError, match=message) as error:
        _archives.open_members(tmp_path / name)
    assert "\n" not in str(error.value)
    assert name in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_flipped_bits_are_told_when_a_member_is_read(tmp_path):
    flipped(tmp_path / "a.zip")
    [read] = _archives.open_members(tmp_path / "a.zip").values()
    with pytest.raises(ValueError, match=r"1.png in .*a.zip is damaged: "):
        read()


def test_a_tar_larger_than_half_of_the_memory(tmp_path, monkeypatch):
    path = tarred(tmp_path / "a.tar", [(tar_member(n), b"x" * 600) for n in "ab"])
    assert set(_archives.open_members(path)) == {"a", "b"}
    monkeypatch.setattr(_archives, "memory", lambda: 2000)
    with pytest.raises(ValueError, match=r"more than 1000 bytes, half of the memory"):
        _archives.open_members(path)


def test_links_devices_and_paths_of_a_tar_lead_nowhere(tmp_path):
    members = [
        (tar_member("train/a/1.png"), png()),
        (tar_member("train/a/2.png", tarfile.SYMTYPE, link="/etc/passwd"), b""),
        (tar_member("train/a/3.png", tarfile.LNKTYPE, link="../../x"), b""),
        (tar_member("train/a/4.png", tarfile.FIFOTYPE), b""),
        (tar_member("train/a/5.png", tarfile.CHRTYPE), b""),
        (tar_member("../../outside.png"), png()),
        (tar_member("/absolute.png"), png()),
    ]
    path = tarred(tmp_path / "a.tar", members)
    found = _archives.open_members(path)
    assert set(found) == {"train/a/1.png", "../../outside.png", "/absolute.png"}
    assert [file.name for file in tmp_path.iterdir()] == ["a.tar"]


def test_pipes_in_a_folder_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "1.png")
    [read] = _archives.open_members(tmp_path).values()
    with pytest.raises(ValueError, match=r"1.png is a named pipe"):
        read()


IDX = b"\0\0\x08\x01\0\0\0\x02ab"
FORMATS = {
    "gzip bomb": (
        lambda: _formats._parse_idx(gzip.compress(bytes(2 << 20)), "x.gz"),
        "x.gz unpacks to more than 1 MiB",
    ),
    "gzip cut short": (
        lambda: _formats._parse_idx(gzip.compress(IDX)[:-9], "x.gz"),
        "x.gz is damaged",
    ),
    "sizes whose product overflows": (
        lambda: _formats._parse_idx(b"\0\0\x08\x02" + b"\x80\0\0\0" * 2, "x"),
        "x announces",
    ),
    "labels that are no text": (
        lambda: _reading.text_of(b"\xff", "names.txt"),
        "names.txt is no text",
    ),
}


@pytest.mark.parametrize("what", FORMATS)
def test_formats_refused(what, monkeypatch):
    monkeypatch.setattr(_formats, "_MOST_IDX", 1 << 20)
    call, message = FORMATS[what]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no matlab", "train_32x32.mat is no file of SVHN"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8)}, "is no file of SVHN: KeyError"),
        (
            {"X": np.zeros((32, 32, 3, 2)), "y": np.ones((2, 1))},
            "holds images float64",
        ),
        (
            {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.ones((3, 1))},
            "and 3 labels",
        ),
    ],
)
def test_svhn_refused(content, message):
    if not isinstance(content, bytes):
        buffer = io.BytesIO()
        scipy_io.savemat(buffer, content)
        content = buffer.getvalue()
    members = {f"{s}_32x32.mat": (lambda: content) for s in ("train", "test")}
    source = _formats.read_svhn(members)
    assert source is not None
    with pytest.raises(ValueError, match=message):
        list(source.splits["train"]())


def folder_of(root, names, split="train"):
    for name in names:
        place = os.path.join(os.fsencode(root), split.encode(), os.fsencode(name))
        os.makedirs(place)
        for index in range(2):
            with open(os.path.join(place, b"%d.png" % index), "wb") as file:
                file.write(png())


def test_prepared_names_come_back_as_they_were(tmp_path):
    names = ("a\nb", " c ", "d\te", b"\xff", "$\\frac$", "cafe\u0301")
    folder_of(tmp_path / "in", names)
    folder_of(tmp_path / "in", ("a\nb", "caf\u00e9"), "test")
    prepare.prepare("mine", data_dir=tmp_path / "out", source=tmp_path / "in")
    found = data.load("tfds:mine", data_dir=tmp_path / "out")
    shown = {r"a\nb", r"\x20c\x20", r"d\te", r"\udcff", "$\\frac$", "caf\u00e9"}
    assert set(found.class_names) == shown
    assert np.bincount(found.labels).tolist() == [2] * 6
    test = data.load("tfds:mine", "test", data_dir=tmp_path / "out")
    assert {test.class_names[label] for label in test.labels} == {r"a\nb", "caf\u00e9"}


def test_prepared_images_are_upright(tmp_path):
    pixels = RNG.integers(0, 256, (5, 4, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in "ab":
        (tmp_path / "in/train" / name).mkdir(parents=True)
        place = tmp_path / f"in/train/{name}/1.png"
        Image.fromarray(np.rot90(pixels)).save(place, exif=exif)
    prepare.prepare("mine", data_dir=tmp_path / "out", source=tmp_path / "in")
    found = data.load("tfds:mine", data_dir=tmp_path / "out")
    np.testing.assert_array_equal(found.images, [pixels] * 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda r: folder_of(r, "z", "test"), "test split has classes .* not: z"),
        (lambda r: (r / "train/a/1.png").write_bytes(b"x"), "train/a/1.png: not a"),
        (
            lambda r: (r / "train/a/3.ppm").write_bytes(b"P6 60000 60000 255\n"),
            "pixels",
        ),
    ],
)
def test_prepare_refuses_in_a_line(make, message, tmp_path, capsys):
    folder_of(tmp_path / "in", "ab")
    make(tmp_path / "in")
    argv = ["mine", "--data_dir", str(tmp_path / "out"), "--from", str(tmp_path / "in")]
    assert prepare.main(argv) == 1
    [line] = [
        s for s in capsys.readouterr().err.splitlines() if s.startswith("error: ")
    ]
    assert re.search(message, line), line


def test_an_empty_path_is_not_the_current_folder(capsys):
    assert prepare.main(["mine", "--from", ""]) == 1
    assert "error: the archive or folder to read has an empty path" in (
        capsys.readouterr().err
    )
