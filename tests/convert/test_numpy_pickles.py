"""NumPy's values in pickles: plain numbers come out, nothing of NumPy's is called."""

import io
import pickle

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxrobust.convert import _numpy_pickles


class Reader(pickle.Unpickler):
    """Knows the stand-ins alone, as the reader of torch files does."""

    def find_class(self, module, name):
        known = {name: one for one, name in _numpy_pickles.stand_ins()}
        if f"{module}.{name}" == "_codecs.encode":  # of bytes, in this protocol
            return lambda text, kind: text.encode(kind)
        return known[f"{module}.{name}"]


def read(value):
    return Reader(io.BytesIO(pickle.dumps(value, protocol=2))).load()


@hypothesis.given(
    hnp.arrays(
        st.sampled_from(["f2", "f4", ">f4", "f8", "i1", "i8", "u2", "?", "c8"]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
    ),
    st.booleans(),
)
def test_plain_arrays_and_numbers(array, by_columns):
    found = read(np.array(array, order="F" if by_columns else "C"))
    assert (found.shape, found.dtype) == (array.shape, array.dtype)
    np.testing.assert_array_equal(np.asarray(found), array)
    for one in array.ravel()[:1]:
        np.testing.assert_equal(read(one), one.item())


@pytest.mark.parametrize(
    "value",
    [
        np.array([1, "a", None], object),
        np.zeros(3, [("a", "f4")]),
        np.array(["2020-01-01"], "M8[D]"),
        np.array(["text"]),
    ],
    ids=lambda value: str(value.dtype),
)
def test_no_other_kind_is_made(value):
    assert not hasattr(read(value), "shape")


class Crafted:
    """Pickles as an array whose bytes are said to be a pointer to an object."""

    def __init__(self, *state):
        self.state = state

    def __reduce__(self):
        """Says that it is an array of that state."""
        array = np.zeros(0)
        return (*array.__reduce__()[:2], self.state)


class Pointer:
    """Pickles as a kind of eight bytes that NumPy would take for a pointer."""

    def __reduce__(self):
        """Says that it is a kind with an object inside."""
        fields = {"a": (np.dtype("O"), 0)}
        return np.dtype, ("S8",), (3, "|", None, ("a",), fields, 8, 1, 63)


def test_bytes_never_become_pointers():
    found = read(Crafted(1, (1,), Pointer(), False, b"A" * 8))
    assert not hasattr(found, "shape")


@pytest.mark.parametrize("shape", [(-1,), (2**62, 4), (2,), ()])
def test_bytes_of_another_shape_are_told(shape):
    with pytest.raises(ValueError, match="bytes"):
        read(Crafted(1, shape, np.dtype("f8"), False, b"A" * 24))
