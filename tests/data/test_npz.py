"""Arrays as people have them: every file is read rightly or refused in a line."""

import io
import pickle
import zipfile

import numpy as np
import pytest

from jaxrobust import data
from jaxrobust.data import _names

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (20, 4, 4, 3), np.uint8)
LABELS = np.arange(20) % 4


def save(path, **arrays):
    np.savez(path, **{"images": IMAGES, "labels": LABELS, **arrays})
    return path


LABEL_KINDS = {
    "beyond int32": (LABELS + 2**32, r"below 100,000, got 4294967299"),
    "int64 that a cast wraps": (LABELS * 0 + 2**32 + 3, r"got 4294967299"),
    "uint64": (LABELS.astype(np.uint64) + np.uint64(2**63), r"got 9223372036854775811"),
    "one of 10^8": (np.where(LABELS == 3, 10**8, LABELS), r"got 100000000"),
    "negative": (LABELS - 1, "must be class indices from 0, got -1"),
    "from 1": (
        LABELS + 1,
        r"labels run from 1 to 4; .*: subtract 1, or give",
    ),
    "floats": (LABELS.astype(float), r"integers \[N\].*float64.*labels.astype\(int\)"),
    "nan": (np.full(20, np.nan), "must be integers"),
    "one-hot": (np.eye(4)[LABELS], r"got float64 \(20, 4\); one-hot .*argmax\(1\)"),
    "one-hot integers": (np.eye(4, dtype=int)[LABELS], "argmax"),
    "text": (np.array(["a", "b"] * 10), r"got <U1 \(20,\); names .* return_inverse"),
    "booleans": (LABELS > 1, "must be integers"),
    "a number": (np.array(3), r"must be integers \[N\]"),
    "a row": (LABELS[None], r"got int64 \(1, 20\); it is flat with labels.reshape"),
    "objects": (LABELS.astype(object), "labels.npy holds Python objects, .* save it"),
    "fewer than images": (LABELS[:-1], r"labels must have shape \(20,\), one per"),
    "more than images": (np.append(LABELS, 0), r"labels must have shape \(20,\)"),
}


@pytest.mark.parametrize("kind", LABEL_KINDS)
def test_labels_refused(kind, tmp_path):
    labels, message = LABEL_KINDS[kind]
    save(tmp_path / "a.npz", labels=labels)
    with pytest.raises(ValueError, match=message) as error:
        data.load(f"npz:{tmp_path}/a.npz")
    assert "\n" not in str(error.value)
    assert "a.npz" in str(error.value)


@pytest.mark.parametrize("dtype", ["i1", "u1", "<i2", ">i4", "<i8", ">u8", "u4"])
def test_labels_of_any_integer_kind(dtype, tmp_path):
    save(tmp_path / "a.npz", labels=LABELS.astype(dtype))
    whole = [data.load(f"npz:{tmp_path}/a.npz", s).labels for s in ("train", "test")]
    assert np.bincount(np.concatenate(whole)).tolist() == [5] * 4


IMAGE_KINDS = {
    "channels first": (
        IMAGES.transpose(0, 3, 1, 2),
        r"transpose it with \(0, 2",
    ),
    "floats to 255": (
        IMAGES.astype(np.float32),
        r"in \[0, 1\], got 0 to 255; images of 0 to 255 .*images.astype\(np.uint8\)",
    ),
    "floats from -1": (IMAGES / 127.5 - 1, r"in \[0, 1\], got .*\(images \+ 1\) / 2"),
    "normalised": (IMAGES / 50.0 - 2, r"in \[0, 1\], got .*undo the normalisation"),
    "nan": (np.full((20, 4, 4, 1), np.nan), r"must be finite and in \[0, 1\], got nan"),
    "int64": (IMAGES.astype(np.int64), r"must be uint8, .*astype\(np.uint8\)"),
    "uint16": (IMAGES.astype(np.uint16), "must be uint8"),
    "complex": (IMAGES.astype(complex), "must be uint8"),
    "booleans": (IMAGES > 9, r"must be uint8, .*images \* np.uint8\(255\)"),
    "text": (IMAGES.astype(str), "must be uint8"),
    "flat": (IMAGES.reshape(20, -1), r"\[N, H, W, C\] or"),
    "rank 5": (IMAGES[None], r"\[N, H, W, C\] or"),
    "no height": (IMAGES[:, :0], "with 1 to 32 channels"),
    "hundreds of channels": (
        np.zeros((20, 4, 4, 99), np.uint8),
        "with 1 to 32 channels",
    ),
    "infinite": (np.full((20, 4, 4, 1), np.inf), "must be finite"),
    "none": (IMAGES[:0], "labels must have shape"),
}


@pytest.mark.parametrize("kind", IMAGE_KINDS)
def test_images_refused(kind, tmp_path):
    images, message = IMAGE_KINDS[kind]
    save(tmp_path / "a.npz", images=images)
    with pytest.raises(ValueError, match=message) as error:
        data.load(f"npz:{tmp_path}/a.npz")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floating_images_round_to_the_nearest_level(dtype, tmp_path):
    save(tmp_path / "a.npz", images=(IMAGES / 255).astype(dtype))
    whole = [data.load(f"npz:{tmp_path}/a.npz", s).images for s in ("train", "test")]
    both = np.concatenate(whole).reshape(20, -1)
    assert {row.tobytes() for row in both} == {image.tobytes() for image in IMAGES}


def test_rounding_about_0_and_1_is_no_mistake(tmp_path):
    images = (IMAGES / 255).astype(np.float32)
    save(tmp_path / "exact.npz", images=images)
    save(tmp_path / "near.npz", images=images * np.float32(1 + 5e-7) - np.float32(3e-7))
    exact, near = (
        data.load(f"npz:{tmp_path}/{n}.npz").images for n in ("exact", "near")
    )
    np.testing.assert_array_equal(near, exact)


@pytest.mark.parametrize("images", [IMAGES > 99, IMAGES * 0, IMAGES / 255 / 255])
def test_black_images_are_told(images, tmp_path, caplog):
    kept = images.astype(np.uint8) if images.dtype == bool else images
    save(tmp_path / "a.npz", images=kept)
    data.load(f"npz:{tmp_path}/a.npz")
    assert "images has no value above 1 of 255, so all is black" in caplog.text


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (0, 1, "labels of y_test run from 1 to 4, those of y_train from 0 to 3"),
        (1, 0, "labels of y_train run from 1 to 4, those of y_test from 0 to 3"),
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_splits_numbered_differently(train, test, message, split, tmp_path):
    arrays = {"x_train": IMAGES, "x_test": IMAGES}
    arrays |= {"y_train": LABELS + train, "y_test": LABELS + test}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        data.load(f"npz:{tmp_path}/a.npz", split)


def test_classes_of_the_test_split_alone_are_told(tmp_path, caplog):
    arrays = {"x_train": IMAGES, "x_test": IMAGES}
    np.savez(tmp_path / "a.npz", **arrays, y_train=LABELS, y_test=LABELS + 2)
    data.load(f"npz:{tmp_path}/a.npz", "test")
    assert "no training images of 2 classes of its test split (4, 5)" in caplog.text


def test_classes_of_one_image_are_told(tmp_path, caplog):
    images = np.zeros((20, 4, 4, 1), np.uint8)
    images[0] = 9
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(20))
    data.load(f"npz:{tmp_path}/a.npz", "train")
    assert "4 classes are in the test split alone, of so few images" in caplog.text


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "images has no images"),
        (
            {"images": IMAGES[:4], "labels": LABELS[:4]},
            "must be at least 5 for a fifth of them",
        ),
    ],
)
def test_sets_too_small_for_a_test_split(arrays, message, tmp_path):
    save(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        data.load(f"npz:{tmp_path}/a.npz", "test")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "b", "c"], r"between 0 and 2 \(one of class_names each\), got 0 to 3"),
        (["a", "b", "c", "c"], "classes 2 and 3 are both called 'c'"),
        (["a", "", "c", "d"], "name of class 1 is empty"),
        ([[1, 2], [3, 4]], r"class_names must be text \[K\], got int64 \(2, 2\)"),
        ([1.5, 2.5, 3.5, 4.5], "class_names must be text"),
    ],
)
def test_class_names_refused(names, message, tmp_path):
    save(tmp_path / "a.npz", class_names=np.array(names))
    with pytest.raises(ValueError, match=message):
        data.load(f"npz:{tmp_path}/a.npz")


def test_labels_from_1_with_names(tmp_path):
    save(tmp_path / "a.npz", labels=LABELS + 1, class_names=np.array(list("abcd")))
    with pytest.raises(ValueError, match=r"labels run from 1 to 4; .*: subtract 1"):
        data.load(f"npz:{tmp_path}/a.npz")
    save(tmp_path / "a.npz", labels=LABELS + 1, class_names=np.array(list("abcdef")))
    assert data.load(f"npz:{tmp_path}/a.npz").num_classes == 6


def test_class_names_are_one_line_of_text(tmp_path):
    given = np.array([b"a\nb", b"\xff", b" c ", "日本".encode()])
    save(tmp_path / "a.npz", class_names=given)
    found = data.load(f"npz:{tmp_path}/a.npz").class_names
    assert found == (r"a\nb", r"\udcff", r"\x20c\x20", "日本")
    save(tmp_path / "a.npz", class_names=np.array([7, 8, 9, 10]))
    assert data.load(f"npz:{tmp_path}/a.npz").class_names == ("7", "8", "9", "10")


@pytest.mark.parametrize(
    ("arrays", "line"),
    [
        ({"labels": LABELS * 0}, "has one class only"),
        ({"labels": LABELS * 2}, "has no images of 3 of its 7 classes (1, 3, 5)"),
        (
            {"labels": LABELS * 0, "class_names": np.array(["a", "b"])},
            "has no images of 1 of its 2 classes (1)",
        ),
    ],
)
def test_classes_without_images_are_told(arrays, line, tmp_path, caplog):
    save(tmp_path / "a.npz", **arrays)
    data.load(f"npz:{tmp_path}/a.npz")
    assert line in caplog.text


def written(path, members, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def npy(array):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def header(shape, descr="'|u1'"):
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (63 - (len(text) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def encrypted(path):
    save(path)
    content = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.find(mark)
        while at >= 0:
            content[at + offset] |= 1
            at = content.find(mark, at + 1)
    path.write_bytes(bytes(content))


def flipped(path):
    save(path)
    content = bytearray(path.read_bytes())
    content[300] ^= 255  # among the pixels: a checksum tells
    path.write_bytes(bytes(content))


def method_99(path):
    save(path)
    content = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = content.find(mark)
        while at >= 0:
            content[at + offset] = 99
            at = content.find(mark, at + 1)
    path.write_bytes(bytes(content))


class Evil:
    def __reduce__(self):  # noqa: D105
        return eval, ("1/0",)


def objects():
    made = np.empty(20, object)
    made[:] = [Evil()] * 20
    return made


GOOD = {"images.npy": npy(IMAGES), "labels.npy": npy(LABELS)}
FILES = {
    "a single array": (
        lambda p: p.write_bytes(npy(IMAGES)),
        r"a single array \(.npy\); save all of them with np.savez",
    ),
    "a pickle": (lambda p: p.write_bytes(pickle.dumps({"a": 1})), "is no .npz file"),
    "text": (lambda p: p.write_text("images"), "is no .npz file"),
    "empty": (lambda p: p.touch(), "is no .npz file"),
    "cut short": (
        lambda p: p.write_bytes(save(p).read_bytes()[:900]),
        "is damaged",
    ),
    "a flipped bit": (flipped, "damaged"),
    "encrypted": (encrypted, r"damaged .*(encrypted|password)"),
    "Python objects": (
        lambda p: written(p, {**GOOD, "labels.npy": npy(objects())}),
        "damaged|pickle|object",
    ),
    "no magic": (lambda p: written(p, {**GOOD, "labels.npy": b"no array"}), "damaged"),
    "an unknown compression": (method_99, "damaged"),
    "fewer bytes than its shape": (
        lambda p: written(p, {**GOOD, "images.npy": header("(20, 4, 4, 3)") + b"x"}),
        "shorter than its shape",
    ),
    "a shape beyond all memory": (
        lambda p: written(p, {**GOOD, "images.npy": header(f"({2**62}, 4, 4, 3)")}),
        "shorter than its shape",
    ),
    "a negative shape": (
        lambda p: written(p, {**GOOD, "images.npy": header("(-1, 4, 4, 3)")}),
        "damaged",
    ),
    "deep brackets in a header": (
        lambda p: written(p, {**GOOD, "images.npy": header("(" * 5000)}),
        "damaged",
    ),
    "records": (
        lambda p: written(p, {**GOOD, "labels.npy": npy(np.zeros(20, "i4,i4"))}),
        "plain|integers",
    ),
    "labels missing": (
        lambda p: written(p, {"images.npy": npy(IMAGES), "y\n.npy": npy(LABELS)}),
        r"no array 'x_train'; it has images, y\\n\. An .npz holds",
    ),
    "other names": (
        lambda p: written(p, {"../images.npy": npy(IMAGES), "readme": b"x"}),
        r"no array 'x_train'; it has \.\./images, readme",
    ),
    "no members": (lambda p: written(p, {}), "it has none"),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_refused(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.npz"
    make, message = FILES[kind]
    make(path)
    with pytest.raises(ValueError, match=message) as error:
        data.load(f"npz:{path}")
    assert "\n" not in str(error.value)
    assert "a.npz" in str(error.value)
    assert list(tmp_path.iterdir()) == [path]


def test_names_of_many_blanks_are_read_at_once():
    """A pattern for blanks at the end takes the square of those inside."""
    name = f" a{' ' * 10**6}b  "
    assert _names.printable(name) == rf"\x20a{' ' * 10**6}b\x20\x20"


def test_a_bomb_is_known_by_what_it_announces(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.npy", npy(LABELS))
        with archive.open("images.npy", "w") as stream:
            stream.write(header(f"({300 << 20}, 1, 1, 1)"))
            for _ in range(300):
                stream.write(bytes(1 << 20))
    with pytest.raises(ValueError, match=r"a.npz of 2.. KiB announces 300 MiB, more"):
        data.load(f"npz:{path}")
