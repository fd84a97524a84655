"""Files that were damaged, or made to do harm: a line that names them, never more."""

import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust.runtime import files, reading

MIB = reading.MIB


def npy(shape, *, dtype="<f4", body=b"", version=(1, 0)):
    """An array's file with any header over any body."""
    header = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode()
    header = header.ljust(128 - 11) + b"\n"
    magic = b"\x93NUMPY" + bytes(version)
    return magic + len(header).to_bytes(2, "little") + header + body


def npz(members, method=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


class Harm:
    """What pickle would run."""

    def __reduce__(self):
        """Ends the process."""
        return os._exit, (3,)


def saved(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


FINE = saved(a=np.arange(3), b=np.asarray("text"), c=np.zeros((0, 2), bool))
OBJECTS = pickle.dumps([Harm()])
ARRAYS = {
    "empty": b"",
    "text": b"no archive",
    "cut short": FINE[:-30],
    "a flipped byte": FINE.replace(np.arange(3).tobytes(), bytes(24)),
    "JSON": b"[1, 2]",
    "objects": npz({"a.npy": npy((1,), dtype="|O", body=OBJECTS)}),
    "a pickle": OBJECTS,
    "a pickle inside": npz({"a.npy": OBJECTS}),
    "records": saved(a=np.zeros(2, [("x", "<f4")])),
    "a shape of more": npz({"a.npy": npy((10**12,), body=bytes(8))}),
    "a negative shape": npz({"a.npy": npy((-1,), body=bytes(8))}),
    "a huge shape": npz({"a.npy": npy((2**62, 2**62), body=bytes(8))}),
    "no shape": npz({"a.npy": npy("x", body=bytes(8))}),
    "a bomb": npz({"a.npy": npy((40 * MIB,), dtype="|u1", body=bytes(40 * MIB))}),
    "a bomb of bzip2": npz({"a.npy": bytes(MIB)}, zipfile.ZIP_BZIP2),
    "an unknown version": npz({"a.npy": npy((1,), version=(9, 9), body=bytes(4))}),
    "many members": npz({f"{i}.npy": b"" for i in range(10_001)}),
    "more than its shape": npz({"a.npy": npy((1,), body=bytes(8))}),
    "no array inside": npz({"a.npy": b"hello"}),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_damaged_arrays(kind, tmp_path):
    file = tmp_path / "evaluation.npz"
    file.write_bytes(ARRAYS[kind])
    with pytest.raises(ValueError, match=r"evaluation\.npz is damaged \(.*\)") as told:
        reading.read_npz(file, 32 * MIB)
    assert "\n" not in str(told.value)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.integers(0, len(FINE)))
def test_any_bytes_for_arrays(tmp_path_factory, junk, place):
    file = tmp_path_factory.mktemp("any") / "a.npz"
    file.write_bytes(FINE[:place] + junk + FINE[place + len(junk) :])
    try:
        reading.read_npz(file, MIB)
    except ValueError as error:
        told = str(error)
    else:
        told = str(file)
    assert str(file) in told


def test_arrays_come_back(tmp_path):
    (tmp_path / "a.npz").write_bytes(FINE)
    found = reading.read_npz(tmp_path / "a.npz", MIB)
    assert {k: v.tolist() for k, v in found.items()} == {
        "a": [0, 1, 2],
        "b": "text",
        "c": [],
    }
    assert list(reading.read_npz(tmp_path / "a.npz", MIB, ["b", "z"])) == ["b"]


JSON = {
    "empty": b"",
    "no JSON": b"{",
    "no text": b"\xff\xfe\x00",
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "less deep": b'{"a":' * 150 + b"1" + b"}" * 150,
    "a long number": b"1" * 5000,
}


@pytest.mark.parametrize("kind", JSON)
def test_damaged_json(kind, tmp_path):
    file = tmp_path / "results.json"
    file.write_bytes(JSON[kind])
    with pytest.raises(ValueError, match=r"results\.json is damaged \(.*\)") as told:
        reading.read_json(file)
    assert "\n" not in str(told.value)


def test_what_is_no_number_or_text_is_replaced(tmp_path):
    file = tmp_path / "a.json"
    file.write_text('{"a": [NaN, 1e999, -Infinity, 1.5], "\\ud800": "\\udfff"}')
    assert reading.read_json(file) == {"a": [None, None, None, 1.5], "?": "?"}


def test_lines(tmp_path, caplog):
    file = tmp_path / "metrics.jsonl"
    rows = [b'{"step": 1}', b"[1]", b"\xff", b"{", b"", b"[" * 9999, b'{"step": 2}']
    file.write_bytes(b"\n".join(rows))
    assert list(reading.read_json_lines(file)) == [{"step": 1}, {"step": 2}]
    assert "metrics.jsonl: 4 damaged lines are left out" in caplog.text
    caplog.clear()
    file.write_bytes(b'{"step": 1}\n{"ste')  # what a crash leaves
    assert list(reading.read_json_lines(file)) == [{"step": 1}]
    assert not caplog.text
    file.write_bytes(b"x" * (17 * MIB))
    with pytest.raises(ValueError, match=r"metrics\.jsonl is damaged \(a line of more"):
        list(reading.read_json_lines(file))


READERS = {
    "bytes": lambda path: reading.read_bytes(path, MIB),
    "json": lambda path: reading.read_json(path, MIB),
    "lines": lambda path: list(reading.read_json_lines(path, MIB)),
    "npz": lambda path: reading.read_npz(path, MIB),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "kind", ["pipe", "folder", "device", "large", "loop", "nothing"]
)
def test_what_is_no_file(kind, reader, tmp_path):
    file = tmp_path / "file"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "device":
        file.symlink_to("/dev/zero")
    elif kind == "loop":
        file.symlink_to(file)
    elif kind == "large":
        with file.open("wb") as stream:
            stream.truncate(10**12)  # takes no room
    with pytest.raises((ValueError, OSError), match="file"):
        READERS[reader](file)


def test_what_is_written_is_read(tmp_path):
    value = {"a": [1, 2.5, None, "x"], "b": {"c": True}}
    files.write_json(tmp_path / "a.json", value)
    assert reading.read_json(tmp_path / "a.json") == value
    assert json.loads((tmp_path / "a.json").read_text()) == value
