"""Folders as people have them: what is read, what is told, what is refused."""

import io
import os
import socket
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxrobust import data
from jaxrobust.data import _images, _names, _reading

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (4, 4, 3), np.uint8)
GREY = RNG.integers(0, 256, (4, 4), np.uint8)


def save(path, image: Any = COLOUR, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    image.save(path, **options)


@pytest.fixture
def root(tmp_path):
    """Two classes, two images each, of one size."""
    for split in ("train", "test"):
        for name in ("a", "b"):
            for index in range(2):
                save(tmp_path / f"set/{split}/{name}/{index}.png")
    return tmp_path / "set"


def load(root, split="train", **fields):
    return data.load(f"folder:{root}", split, **fields)


# What lies about, and does not change what is read.
CLUTTER = {
    "hidden folder": lambda r: (r / "train/.ipynb_checkpoints").mkdir(),
    "hidden folder with images": lambda r: save(r / "train/.git/x.png"),
    "hidden folder in a class": lambda r: save(r / "train/a/.ipynb_checkpoints/0.png"),
    "resource fork": lambda r: (r / "train/a/._0.png").write_bytes(b"\0\5\x16\7"),
    "folder of a mac's archive": lambda r: save(r / "train/__MACOSX/a/0.png"),
    "files of systems": lambda r: [
        (r / f"train/a/{name}").write_bytes(b"x")
        for name in (".DS_Store", "Thumbs.db", "desktop.ini")
    ],
    "thumbnails of a store": lambda r: save(r / "train/@eaDir/0.png"),
}


@pytest.mark.parametrize("clutter", CLUTTER)
def test_what_is_hidden_is_neither_class_nor_image(clutter, root, caplog):
    CLUTTER[clutter](root)
    found = load(root)
    assert found.class_names == ("a", "b")
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert not caplog.records


ENCODED = [
    ("ppm", "PPM", COLOUR),
    ("pgm", "PPM", GREY),
    ("pnm", "PPM", COLOUR),
    ("TIF", "TIFF", COLOUR),
    ("tiff", "TIFF", COLOUR),
    ("bmp", "BMP", COLOUR),
    ("Gif", "GIF", GREY),
    ("tga", "TGA", COLOUR),
    ("PNG", "PNG", COLOUR),
]


@pytest.mark.parametrize(("suffix", "kind", "pixels"), ENCODED)
def test_formats(suffix, kind, pixels, root, caplog):
    for name in "ab":
        for file in (root / "train" / name).iterdir():
            file.unlink()
        save(root / f"train/{name}/1.{suffix}", pixels, format=kind)
    found = load(root, channels=3)
    expected = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, -1)
    np.testing.assert_array_equal(found.images, [expected] * 2)
    assert not caplog.records


def test_black_and_white(root):
    pixels = RNG.random((4, 4)) > 0.5
    for suffix in ("pbm", "png"):
        save(root / f"train/a/9.{suffix}", Image.fromarray(pixels))
    found = load(root).take([2, 3]).images
    np.testing.assert_array_equal(found[..., 0], [pixels * 255] * 2)


def turned(path, orientation, image=COLOUR):
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(path, image, exif=exif)


@pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_rotation_is_applied(suffix, orientation, root):
    # Stored lying; all are upright at 4 x 5 once turned.
    times = {1: 0, 3: 2, 6: 1, 8: 3}[orientation]
    upright = RNG.integers(0, 256, (5, 4, 3), np.uint8)
    stored = np.rot90(upright, times)
    for split in ("train", "test"):
        for name in "ab":
            for index in range(2):
                save(root / f"{split}/{name}/{index}.png", upright)
    options = {"lossless": True} if suffix == "webp" else {}
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(root / f"train/a/2.{suffix}", stored, exif=exif, **options)
    found = load(root)
    assert found.shape == (5, 4, 3)
    np.testing.assert_array_equal(found.images[2], upright)


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/'
    b'02/22-rdf-syntax-ns#"><rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/"'
    b' tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_rotation_told_in_xmp_is_applied(suffix, root):
    for file in (*root.rglob("*.png"),):
        save(file, RNG.integers(0, 256, (5, 4, 3), np.uint8))
    save(root / f"train/a/2.{suffix}", np.zeros((4, 5, 3), np.uint8), xmp=XMP)
    assert load(root).shape == (5, 4, 3)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
@pytest.mark.parametrize("exif", [b"garbage garbage", b"MM\0*", b"MM\0*\0\0\0\xff\0"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_damaged_exif_says_nothing(exif, suffix, root):
    save(root / f"train/a/2.{suffix}", exif=b"Exif\0\0" + exif)
    assert len(load(root)) == 5


def png16(colour):
    """A PNG of 4 x 4 pixels with 16 bits per channel."""
    channels = 3 if colour else 1
    rows = b"".join(b"\0" + bytes(8 * channels) for _ in range(4))

    def chunk(name, content):
        sum_ = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + sum_

    head = struct.pack(">IIBBBBB", 4, 4, 16, 2 if colour else 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def encoded(image, kind):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


DEEP = {
    "grey.png": png16(False),
    "colour.png": png16(True),
    "grey.tiff": encoded(np.zeros((4, 4), np.uint16), "TIFF"),
    "integers.tiff": encoded(np.zeros((4, 4), np.int32), "TIFF"),
    "floats.tiff": encoded(np.zeros((4, 4), np.float32), "TIFF"),
    "grey.pgm": b"P5 4 4 65535\n" + bytes(32),
    "colour.ppm": b"P6 4 4 1023\n" + bytes(96),
    "plain.ppm": b"P3 4 4 300\n" + b"1 " * 48,
    "floats.pfm": b"Pf 4 4\n-1.0\n" + bytes(64),
}


@pytest.mark.parametrize("file", DEEP)
def test_more_than_eight_bits_are_refused_alike(file, root):
    (root / "train/a" / file).write_bytes(DEEP[file])
    with pytest.raises(ValueError, match=rf"{file}: more than 8 bits per channel"):
        load(root)
    with pytest.raises(ValueError, match="more than 8 bits per channel"):
        _images.decode(DEEP[file], 3)


def animated(path):
    frames = [Image.fromarray(p) for p in (GREY, 255 - GREY)]
    save(path, frames[0], save_all=True, append_images=frames[1:])


# What is done, and one line that says so.
TOLD = {
    "other files": (
        lambda r: [
            (r / f"train/a/{n}").write_text("x") for n in ("1.txt", "2.txt", "R")
        ],
        "3 files of the train folders left out, no images (.txt 2, no suffix 1)",
    ),
    "one file": (
        lambda r: (r / "train/b/l.CSV").write_text("x"),
        "1 file of the train folders left out, no images (.csv 1)",
    ),
    "nested": (
        lambda r: save(r / "train/a/deep/er/5.png"),
        "1 image of train in folders below a class folder taken for that class's",
    ),
    "some grey": (
        lambda r: save(r / "train/a/5.png", GREY),
        "1 of 5 images are grey and are copied to three channels",
    ),
    "alpha": (
        lambda r: save(r / "train/a/5.png", np.zeros((4, 4, 4), np.uint8)),
        "1 of 5 images have transparency, which is dropped",
    ),
    "animation": (
        lambda r: animated(r / "train/a/5.gif"),
        "1 of 5 images are animated or have pages: the first is taken",
    ),
    "numbers": (
        lambda r: (
            [save(r / f"train/{n}/0.png") for n in ("1", "2", "10")]
            and [[f.unlink() for f in (r / "train" / n).iterdir()] for n in "ab"]
            and [(r / "train" / n).rmdir() for n in "ab"]
        ),
        "'10' comes before '2'",
    ),
    "one class": (
        lambda r: (
            [f.unlink() for f in (r / "train/b").iterdir()] and (r / "train/b").rmdir()
        ),
        "one class only, 'a'",
    ),
    "image beside class folders": (
        lambda r: save(r / "train/loose.png"),
        "1 image beside the class folders of train left out",
    ),
}


@pytest.mark.parametrize("what", TOLD)
def test_what_is_told(what, root, caplog):
    change, line = TOLD[what]
    change(root)
    load(root)
    told = [record.getMessage() for record in caplog.records]
    assert any(line in one for one in told), told
    assert all(one.startswith("folder:") and "\n" not in one for one in told)


def test_mixed_kinds_become_colour(root):
    save(root / "train/a/5.png", GREY)
    palette = Image.fromarray(COLOUR).quantize(4)
    save(root / "train/a/6.png", palette)
    save(root / "train/a/7.tiff", Image.fromarray(COLOUR).convert("CMYK"))
    found = load(root).images
    np.testing.assert_array_equal(found[2], np.repeat(GREY[..., None], 3, -1))
    np.testing.assert_array_equal(found[3], np.asarray(palette.convert("RGB")))
    np.testing.assert_array_equal(found[4], COLOUR)


def test_transparency_is_dropped(root):
    palette = Image.fromarray(COLOUR).quantize(4)
    save(root / "train/a/5.png", palette, transparency=bytes([0, 255, 9, 1]))
    rgba = np.concatenate([COLOUR, GREY[..., None]], -1)
    save(root / "train/a/6.png", rgba)
    found = load(root).images
    np.testing.assert_array_equal(found[2], np.asarray(palette.convert("RGB")))
    np.testing.assert_array_equal(found[3], COLOUR)


def fifo(path):
    os.mkfifo(path)


def bound(path):
    here = os.getcwd()
    os.chdir(path.parent)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)
    os.chdir(here)


REFUSED = {
    "empty class": (
        lambda r: (r / "train/c").mkdir(),
        "train",
        r"no images of 1 of 3 classes: 'c' in .*fill these folders or remove them",
    ),
    "class of other files only": (
        lambda r: (r / "train/c").mkdir() or (r / "train/c/x.txt").write_text("x"),
        "train",
        "no images of 1 of 3 classes: 'c'",
    ),
    "class of test alone": (
        lambda r: save(r / "test/z/0.png"),
        "test",
        r"test has a class 'z' that is not in train, which has 'a', 'b'",
    ),
    "pipe": (lambda r: fifo(r / "train/a/5.png"), "train", r"a/5.png is a named pipe"),
    "socket": (
        lambda r: bound(r / "train/a/5.png"),
        "train",
        r"a/5.png.*cannot be read",
    ),
    "device": (
        lambda r: (r / "train/a/5.png").symlink_to("/dev/zero"),
        "train",
        r"a/5.png is a device",
    ),
    "link to nothing": (
        lambda r: (r / "train/a/5.png").symlink_to("nowhere"),
        "train",
        r"a/5.png: cannot be read: No such file",
    ),
    "link to itself": (
        lambda r: (r / "train/a/5.png").symlink_to("5.png"),
        "train",
        r"a/5.png: cannot be read: Too many levels",
    ),
    "class that is a link to nothing": (
        lambda r: (r / "train/c").symlink_to("nowhere"),
        "train",
        r"train/c is a link that leads nowhere",
    ),
    "class that is a link to itself": (
        lambda r: (r / "test/a2").symlink_to("a2"),
        "test",
        r"test/a2 is a link that leads nowhere",
    ),
    "loop of folders": (
        lambda r: (r / "train/a/again").symlink_to(r / "train/a"),
        "train",
        r"a/again is the folder .*train/a again \(a link\)",
    ),
    "loop over the root": (
        lambda r: (r / "train/a/again").symlink_to(r),
        "train",
        r"is the folder .* again \(a link\)",
    ),
    "two classes in one": (
        lambda r: (r / "train/c").symlink_to(r / "train/a"),
        "train",
        r"train/c is the folder .*train/a again",
    ),
    "no image": (
        lambda r: (r / "train/a/5.png").write_bytes(b"no"),
        "train",
        r"a/5.png: not a readable image: in no known format",
    ),
    "empty file": (
        lambda r: (r / "train/a/5.jpg").touch(),
        "train",
        r"a/5.jpg: not a readable image",
    ),
    "cut short": (
        lambda r: (r / "train/a/5.png").write_bytes(encoded(COLOUR, "PNG")[:60]),
        "train",
        r"a/5.png: not a readable image",
    ),
    "postscript, which runs a program": (
        lambda r: (r / "train/a/5.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n"),
        "train",
        r"a/5.png: not a readable image: in no known format",
    ),
    "bomb": (
        lambda r: (r / "train/a/5.ppm").write_bytes(b"P6 60000 60000 255\n"),
        "train",
        r"a/5.ppm: too many pixels|a/5.ppm: 60000x60000 pixels are too many",
    ),
    "smaller bomb": (
        lambda r: (r / "train/a/5.ppm").write_bytes(b"P6 9000 9999 255\n"),
        "train",
        r"a/5.ppm: (too many pixels|9000x9999 pixels are too many)",
    ),
    "other size": (
        lambda r: save(r / "train/b/5.png", COLOUR[:2]),
        "train",
        r"5.png is \(2, 4, 3\), .*0.png \(4, 4, 3\); pass image_size to resize",
    ),
    "name with a line break": (
        lambda r: (r / "train/a/5\n.png").write_bytes(b"no"),
        "train",
        r"a/5\\n.png: not a readable image",
    ),
    "two trains": (
        lambda r: save(r / "Train/a/1.png"),
        "train",
        r"has the folders 'Train', 'train'; which is the train split\?",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_in_a_line(what, root):
    change, split, message = REFUSED[what]
    change(root)
    with pytest.raises(ValueError, match=message) as error:
        load(root, split)
    assert "\n" not in str(error.value)


def test_links_to_images_are_read(root, tmp_path):
    save(tmp_path / "elsewhere/x.png", 255 - COLOUR)
    (root / "train/a/5.png").symlink_to(tmp_path / "elsewhere/x.png")
    (root / "train/c").symlink_to(tmp_path / "elsewhere")
    found = load(root)
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 2]
    np.testing.assert_array_equal(found.images[[2, 5]], [255 - COLOUR] * 2)


@pytest.mark.parametrize(
    ("train", "test"),
    [("train", "val"), ("Train", "Validation"), ("training", "testing")],
)
def test_other_names_of_the_splits(train, test, root, caplog):
    (root / "train").rename(root / train)
    (root / "test").rename(root / test)
    assert len(load(root)) == len(load(root, "test")) == 4
    told = [record.getMessage() for record in caplog.records]
    assert any(f"'{test}' is its test split" in one for one in told)


def test_val_counts_where_there_is_no_test(root, caplog):
    save(root / "val/a/0.png")
    assert len(load(root, "test")) == 4
    assert not caplog.records


def test_a_class_called_train(tmp_path):
    for name in ("boat", "train"):
        for index in range(5):
            save(tmp_path / f"{name}/{index}.png")
    assert load(tmp_path).class_names == ("boat", "train")
    assert len(load(tmp_path, "test")) == 2


def test_no_test_split(root):
    (root / "test").rename(root / "extra")
    with pytest.raises(ValueError, match=r"no 'test' split: .* has 'train', but no"):
        load(root, "test")


@pytest.mark.parametrize("splits", [("train",), ("train", "test"), ("test", "val")])
def test_splits_without_class_folders(splits, tmp_path):
    for split in splits:
        save(tmp_path / split / "0.png")
    with pytest.raises(ValueError, match=r"without class folders in them"):
        load(tmp_path)


def test_a_folder_around_the_set(root):
    with pytest.raises(ValueError, match=rf"one folder .* give folder:{root}"):
        load(root.parent)


def test_a_class_missing_from_test_is_told(root, caplog):
    for file in (root / "test/b").iterdir():
        file.unlink()
    assert load(root, "test").labels.tolist() == [0, 0]
    assert load(root, "test").class_names == ("a", "b")
    assert "no images of 1 of 2 classes: 'b' in its test split" in caplog.text


def test_only_headers_are_read_to_open(root, monkeypatch):
    def refuse(*args):
        raise AssertionError("an image was read")

    with monkeypatch.context() as patched:
        patched.setattr(_reading, "read_file", refuse)
        patched.setattr(_images, "decode", refuse)
        source = data.open_source(f"folder:{root}")
        assert source.shape == (4, 4, 3)
        assert source.labels.tolist() == [0, 0, 1, 1]
    assert source.read([3]).shape == (1, 4, 4, 3)


def test_a_file_that_changes_after_it_was_listed(root):
    source = data.open_source(f"folder:{root}")
    (root / "train/a/1.png").unlink()
    with pytest.raises(ValueError, match=r"a/1.png: cannot be read: No such file"):
        source.read([1])
    fifo(root / "train/a/1.png")
    with pytest.raises(ValueError, match=r"a/1.png is a named pipe"):
        source.load()


def test_folders_and_files_without_permission(root, monkeypatch):
    def denied(path, *args):
        raise PermissionError(13, "Permission denied", path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", denied)
        with pytest.raises(ValueError, match=r"set: cannot be read: Permission denied"):
            load(root)
    source = data.open_source(f"folder:{root}")
    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(ValueError, match=r"0.png: cannot be read: Permission denied"):
        source.read([0])


NAMES = {
    "a\nb": r"a\nb",
    "tab\there": r"tab\there",
    "$\\frac$": "$\\frac$",
    "<b>&": "<b>&",
    " blank ": r"\x20blank\x20",
    "日本": "日本",
    b"\xff\xfe": r"\udcff\udcfe",
    "cafe\u0301": "café",
}


def test_class_names_are_one_line_of_text(tmp_path):
    for name in NAMES:
        place = os.path.join(os.fsencode(tmp_path), b"train", os.fsencode(name))
        os.makedirs(place)
        with open(os.path.join(place, b"0.png"), "wb") as file:
            file.write(encoded(GREY, "PNG"))
    found = load(tmp_path).class_names
    assert sorted(found) == sorted(NAMES.values())
    assert "\n".join(found).splitlines() == list(found)
    for name in found:
        name.encode()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (["a", ""], "name of class 1 is empty"),
        (["a", "b", "a"], "classes 0 and 2 are both called 'a'"),
        (["caf\u00e9", "cafe\u0301"], "classes 0 and 1 are both called 'café'"),
        (["x" * 300], "has 300 characters"),
    ],
)
def test_class_names_refused(raw, message):
    with pytest.raises(ValueError, match=message):
        _names.class_names(raw, "file")


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("folder:", ValueError, "names no folder: write folder:PATH"),
        ("npz:", ValueError, "names no file: write npz:PATH"),
        ("folder:{file}", ValueError, "is a file, not a folder; a file is npz:PATH"),
        ("npz:{root}", ValueError, "is a folder, not a file; a folder is folder:PATH"),
        ("npz:{fifo}", ValueError, "fifo is a named pipe, not a file"),
        ("folder:{root}/nowhere", FileNotFoundError, "no such folder as"),
        ("folder:{root}/a\0b", FileNotFoundError, "no such folder as"),
    ],
)
def test_paths_refused(name, error, message, root, tmp_path):
    (tmp_path / "file").touch()
    fifo(tmp_path / "fifo")
    name = name.format(root=root, file=tmp_path / "file", fifo=tmp_path / "fifo")
    with pytest.raises(error, match=message):
        data.load(name)


@pytest.mark.parametrize("path", ["~/my set", "~/my set/", "{home}/my set//"])
def test_paths_read(path, root, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    root.rename(tmp_path / "my set")
    assert len(load(path.format(home=tmp_path))) == 4


def test_more_pixels_than_memory(root):
    source = data.open_source(f"folder:{root}", image_size=100_000)
    assert source.nbytes == 4 * 3 * 10**10
    with pytest.raises(ValueError, match=r"GiB of pixels.*image_size"):
        source.load()


def test_too_many_pixels_are_one_error_and_no_warning():
    stream = io.BytesIO(b"P6 9000 9999 255\n")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(ValueError, match="too many"):
            _images.header(stream)
    assert not caught
