"""What people bring to `convert`: wrapped, prefixed, damaged, foreign."""

import argparse
import gzip
import io
import json
import pathlib
import struct
import warnings
import zipfile

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxrobust import convert, models
from jaxrobust.convert import __main__ as program
from jaxrobust.convert import _entries, _files
from jaxrobust.models import ssp

W = {"a.weight": np.ones((2, 3), np.float32), "a.bias": np.zeros(2, np.float32)}
V = {name: value + 1 for name, value in W.items()}
COUNT = np.asarray(3)


@pytest.mark.parametrize(
    ("loaded", "entry"),
    [
        (W, ""),
        ({**W, "step": 3, "nested": {"lr": 0.1}}, ""),
        *[
            ({name: W, "epoch": 3, "optimizer": {"state": {"m": V}}}, name)
            for name in ("state_dict", "model_state_dict", "net", "model", "weights")
        ],
        *[
            ({name: W, "epoch": 3}, name)
            for name in ("ema_state_dict", "ema", "params_ema", "model_ema", "teacher")
        ],
        ({"ema": V, "net": W}, "net"),
        ({"model_ema": V, "state_dict": W}, "state_dict"),
        ({"model": {"state_dict": W, "acc": 1}}, "model.state_dict"),
        ({"state": {"net": W}}, "state.net"),
        ({"anything": W, "epoch": COUNT}, "anything"),
        ({"state_dict": W, "best": COUNT}, "state_dict"),
    ],
)
def test_the_trained_network_is_found(loaded, entry):
    found = _entries.find(loaded)
    assert found.entry == entry
    assert {name: found.arrays[name] for name in W} == W
    if entry and "optimizer" in loaded:
        assert found.others == ("epoch", "optimizer")


def test_another_entry_can_be_named():
    loaded = {"net": W, "ema": {"shadow": V}}
    assert _entries.find(loaded, "ema.shadow").arrays == V
    with pytest.raises(ValueError, match=r"no entry 'ema'.*Did you mean 'net'|shadow"):
        _entries.find(loaded, "ema")


def loop():
    table = {"epoch": 3}
    table["self"] = table
    return table


def deep(levels=3000):
    table = W
    for _ in range(levels):
        table = {"x": table}
    return table


@pytest.mark.parametrize(
    ("loaded", "message"),
    [
        ([1], "holds list, not a dict of weights"),
        (None, "holds NoneType"),
        ({}, "holds no weights: its entries are nothing"),
        ({"epoch": 3, "optimizer": {"m": np.ones(3)}}, "entries are epoch, optimizer"),
        ({"left": W, "right": V}, "none by a usual name: left, right; say which"),
        (loop(), "holds no weights"),
        (deep(), "holds no weights"),
    ],
)
def test_what_holds_no_weights_is_told(loaded, message):
    with pytest.raises(ValueError, match=r".") as caught:
        _entries.find(loaded)
    assert message in str(caught.value)


def test_a_dict_that_holds_itself_and_weights():
    table = {**loop(), "net": W}
    table["self"] = table
    assert _entries.find(table).entry == "net"


FIELDS = {"integrator": "ssp2", "blocks": 1, "width": 2, "num_classes": 3}


@pytest.fixture(scope="module")
def weights():
    """A network's weights under torch's names."""
    model = models.create("ssp_cifar", **FIELDS)
    with pytest.raises(ValueError, match="missing") as caught:
        convert.from_torch(model, {})
    names = [line.split()[1] for line in str(caught.value).splitlines()[1:]]
    with pytest.raises(ValueError, match="wrong shape") as caught:
        convert.from_torch(model, {name: np.zeros(()) for name in names})
    found = dict.fromkeys(names, ())
    for line in str(caught.value).splitlines():
        if "wrong shape" in line:
            shape = line.split("expected ")[1]
            found[line.split()[2]] = tuple(map(int, shape.strip("(,)").split(",")))
    return {name: np.full(shape, 0.5, np.float32) for name, shape in found.items()}


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "net.",
        "model.",
        "attacker.model.",
        "backbone.",
        "module._orig_mod.",
        "model.net.module.",
        "module.model.",
        "basic_net.",
        "_fsdp_wrapped_module.",
        "1.",
        "module.1.module.",
        "algorithm.network.",
    ],
)
def test_prefixes_of_wrappers_are_taken_off(weights, prefix):
    model = models.create("ssp_cifar", **FIELDS)
    given = {f"{prefix}{name}": value for name, value in weights.items()}
    convert.from_torch(model, {**given, "n_averaged": COUNT})


@pytest.mark.parametrize("parts", [("0.", "1."), ("f.0.", "f.1."), ("norm.", "model.")])
def test_a_normalisation_in_front_is_taken(weights, parts):
    first, second = parts
    model = models.create("ssp_cifar", **FIELDS, mean=(0.1, 0.2, 0.3), std=(0.5,))
    given = {f"{second}{name}": value for name, value in weights.items()}
    mean = np.float32([0.1, 0.2, 0.3]).reshape(1, 3, 1, 1)
    given |= {f"{first}mean": mean, f"{first}std": np.float32([0.5])}
    convert.from_torch(model, given)
    with pytest.raises(ValueError, match="another normalisation: `mean`"):
        convert.from_torch(model, {**given, f"{first}mean": 2 * mean})


@pytest.mark.parametrize(
    ("buffers", "message"),
    [
        ({"noise.sigma": 0.25}, "unexpected: noise.sigma"),
        ({"head.mean": 0.5, "head.std": 0.5}, "unexpected: head.mean"),
        ({"sigma": 0.25}, "sigma stands alone"),
        ({"mu": 0.1, "mean": 0.5}, "both mu and mean may be the `mean`"),
        ({"norm.mean": 0.1, "0.mean": 0.1}, "both norm.mean and 0.mean may be"),
        (
            {"mean": np.zeros((3, 32, 32))},
            r"mean has the name .* of shape \(3, 32, 32\)",
        ),
        ({"mean": [1, 2, 3]}, r"mean has the name .* is int64 of shape \(3,\)"),
        ({"mean": 0.5, "std": 0.0}, "do not normalise images"),
        ({"mean": np.nan, "std": 1.0}, "do not normalise images"),
        ({"mean": 120.0, "std": 0.2}, "do not normalise images"),
        (
            {"mean": 51.0, "std": 51.0},
            r"images of 0 to 255.*create it with mean=\(0\.2,",
        ),
    ],
)
def test_what_is_no_normalisation_or_not_ours(weights, buffers, message):
    model = models.create("ssp_cifar", **FIELDS)
    given = {**weights, **{k: np.asarray(v) for k, v in buffers.items()}}
    with pytest.raises(ValueError, match=message):
        convert.from_torch(model, given)


def test_a_normalisation_of_bytes_that_the_model_has(weights):
    model = models.create("ssp_cifar", **FIELDS, mean=(0.2,), std=(0.4,))
    given = {**weights, "mean": np.asarray(51.0), "std": np.asarray(102.0)}
    convert.from_torch(model, given)


def test_a_variance_below_zero():
    model = models.create("preact_resnet", width=2)
    image = jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    ones = jax.tree.map(lambda s: jnp.ones(s.shape), shapes)
    given = convert.to_torch(model, ones)
    name = next(name for name in given if name.endswith("running_var"))
    with pytest.raises(ValueError, match=f"not a variance: {name} is -"):
        convert.from_torch(model, {**given, name: -given[name]})


def test_a_first_part_that_is_the_network_s_own_stays():
    block = ssp.Block(integrator="ssp2")
    with pytest.raises(ValueError, match="missing") as caught:
        convert.from_torch(block, {}, input_shape=(1, 4, 4, 2))
    names = [line.split()[1] for line in str(caught.value).splitlines()[1:]]
    assert {name.partition(".")[0] for name in names} == {"block"}
    given = {name: np.zeros(()) for name in names}
    with pytest.raises(ValueError, match="wrong shape") as caught:
        convert.from_torch(block, given, input_shape=(1, 4, 4, 2))
    assert "missing" not in str(caught.value)


def test_a_copy_for_attacks_is_the_same_network(weights):
    """As the package `robustness` saves it."""
    model = models.create("ssp_cifar", **FIELDS)
    given = {f"module.model.{k}": v for k, v in weights.items()}
    given |= {f"module.attacker.model.{k}": v for k, v in weights.items()}
    convert.from_torch(model, given)
    given[f"module.attacker.model.{next(iter(weights))}"] = np.float32(7)
    with pytest.raises(ValueError, match="given twice"):
        convert.from_torch(model, given)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, r"not finite: \S+ \(1 of \d+ values\)"),
        (np.inf, r"not finite: \S+ \(1 of \d+ values\)"),
        ("int8", r"not floating: \S+ is int8 \(quantised"),
        ("int64", r"not floating: \S+ is int64 \(quantised"),
        ("bool", r"not floating: \S+ is bool \(quantised"),
    ],
)
def test_values_that_are_no_weights_are_named(weights, value, message):
    name, array = next((k, v.copy()) for k, v in weights.items() if v.ndim > 1)
    if isinstance(value, str):
        array = array.astype(value)
    else:
        array.flat[0] = value
    model = models.create("ssp_cifar", **FIELDS)
    with pytest.raises(ValueError, match=message):
        convert.from_torch(model, {**weights, name: array})


def test_arrays_that_mark_weights_are_placed(weights):
    model = models.create("ssp_cifar", **FIELDS)
    marks = {k: np.full(v.shape, i) for i, (k, v) in enumerate(weights.items())}
    placed = jax.tree.leaves(convert.from_torch(model, marks))
    assert sorted(int(leaf.min()) for leaf in placed) == list(range(len(weights)))


def safetensors(entries, data=b"", length=None):
    header = json.dumps(entries).encode()
    size = len(header) if length is None else length
    return struct.pack("<Q", size) + header + data


def tensor(shape=(2,), kind="F32", offsets=(0, 8)):
    return {"dtype": kind, "shape": list(shape), "data_offsets": list(offsets)}


def npz(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def npy(shape="(2,)", descr="'<f4'", data=bytes(8)):
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode() + data


HUGE = "(99999999999,)"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.pt", b"", "(No data left in file)"),
        ("w.npz", b"", "(No data left in file)"),
        ("w.pt", LFS, "is a git-LFS pointer"),
        ("w.safetensors", LFS, "is a git-LFS pointer"),
        ("w.pth", b"<!DOCTYPE html><html>", "is a web page"),
        ("w.bin", b' {"weight_map": {}}', "is JSON text"),
        ("w.tar", gzip.compress(b"x"), "is a gzip archive"),
        ("w.npz", b"abc", "is not readable"),
        ("w.npz", npz(a=npy())[:60], "is not readable"),
        (
            "w.npz",
            npz(a=npy(shape=HUGE)),
            "a.npy is shorter than its shape (99999999999,)",
        ),
        ("w.npz", npz(a=npy(descr="'|O'")), "a.npy holds Python objects"),
        ("w.npz", npz(a=b"\x93NUMPY\1\0\xff\xff"), "is not readable"),
        ("w.npz", npz(a=npy(shape="(" * 500)), "is not readable"),
        ("w.npz", npz(), "holds no weights"),
        ("w.npz", npz(a=npy(shape="()", data=bytes(4))), "holds no weights"),
        ("w.safetensors", b"abc", "is cut short"),
        ("w.safetensors", safetensors({}, length=1 << 60), "says that its header has"),
        ("w.safetensors", safetensors([1]), "has a damaged header"),
        ("w.safetensors", b"\2\0\0\0\0\0\0\0{]", "has a damaged header"),
        ("w.safetensors", b"\0\x20\0\0\0\0\0\0" + b"[" * 8192, "has a damaged header"),
        ("w.safetensors", safetensors({"a": {"dtype": "F32"}}), "has a damaged header"),
        ("w.safetensors", safetensors({"a": tensor()}), "reaches beyond the end"),
        (
            "w.safetensors",
            safetensors({"a": tensor(), "b": tensor(offsets=(4, 12))}, bytes(12)),
            "b overlaps another",
        ),
        (
            "w.safetensors",
            safetensors({"a": tensor(shape=(10**15,))}, bytes(8)),
            "or is not as long as it says",
        ),
        (
            "w.safetensors",
            safetensors({"a": tensor(shape=(-2, -1))}, bytes(8)),
            "a has no shape and place",
        ),
        (
            "w.safetensors",
            safetensors({"a": tensor(kind="F8_X")}, bytes(8)),
            "a is of the kind 'F8_X'",
        ),
        ("w.txt", b"x", "must be one of .pt"),
    ],
)
def test_damaged_and_foreign_files_are_told_in_a_line(
    tmp_path, capsys, name, content, message
):
    (tmp_path / name).write_bytes(content)
    argv = [str(tmp_path / name), f"--workdir={tmp_path / 'run'}"]
    assert program.main(argv) == 1
    said = capsys.readouterr().err
    assert message in said
    assert str(tmp_path / name) in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_zip_of_torch_s_is_compared_with_its_checksums(tmp_path):
    whole = npz(a=bytes(range(200)))
    for content, message in (
        (whole.replace(whole[40:44], bytes(4)), "a.npy has another checksum|readable"),
        (whole[:-30], "it is cut short"),
    ):
        (tmp_path / "w.pt").write_bytes(content)
        with pytest.raises(ValueError, match=rf"w\.pt .*({message})") as told:
            _files.read(tmp_path / "w.pt")
        assert "\n" not in str(told.value)


def test_a_zip_that_unpacks_to_far_more_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(_files._formats, "_LARGE", 1 << 16)
    for name in ("bomb.npz", "bomb.pt"):
        path = tmp_path / name
        path.write_bytes(npz(a=npy(shape="(262144,)", data=bytes(1 << 20))))
        with pytest.raises(ValueError, match=f"{name}.*would unpack to"):
            _files.read(path)


def test_safetensors_of_every_float(tmp_path):
    path = tmp_path / "w.safetensors"
    values = np.array([1.5, -2], np.float32)
    half, brain = values.astype(np.float16), values.astype(ml_dtypes.bfloat16)
    entries = {"a": tensor(kind="F16", offsets=(0, 4))}
    entries["b"] = tensor(kind="BF16", offsets=(4, 8))
    entries["__metadata__"] = {"format": "pt"}
    path.write_bytes(safetensors(entries, half.tobytes() + brain.tobytes()))
    found = _files.read(path)
    for name in ("a", "b"):
        chex.assert_type(found.arrays[name], np.float32)
        chex.assert_trees_all_equal(found.arrays[name], values)
    assert "float16 weights became float32" in found.notes
    assert "bfloat16 weights became float32" in found.notes


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("flipped")


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=60)
@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_any_flipped_byte_is_read_or_told(place, kind, data):
    whole = npz(a=npy(), b=npy())
    if kind == "safetensors":
        whole = safetensors({"a": tensor(), "b": tensor(offsets=(8, 16))}, bytes(16))
    content = bytearray(whole)
    where = data.draw(st.integers(0, len(content) - 1))
    content[where] = data.draw(st.integers(0, 255))
    path = pathlib.Path(place / f"w.{kind}")
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    said = str(path)
    try:
        _files.read(path)
    except ValueError as error:
        said = str(error)
    assert str(path) in said
    assert "\n" not in said


def test_what_the_file_holds_is_listed_where_nothing_fits(tmp_path, weights, capsys):
    path = tmp_path / "w.npz"
    np.savez(path, **{f"layer{k}.w": np.ones((k, 2)) for k in range(1, 14)})
    for argv in ([], ["--model=ssp_cifar", "--field=blocks=1"]):
        assert program.main([str(path), f"--workdir={tmp_path / 'run'}", *argv]) == 1
        said = capsys.readouterr().err
        assert "the file holds layer1.w (1, 2), layer2.w (2, 2)" in said
        assert "and 3 more" in said
        assert len(said.splitlines()) < 30


class Network:
    """Stands for a whole module that was pickled."""


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".t7", ".tar", ".bin", ".th"])
def test_files_of_torch(tmp_path, weights, suffix, capsys):
    torch = pytest.importorskip("torch")
    tensors = {f"module.{k}": torch.tensor(v).half() for k, v in weights.items()}
    path = tmp_path / f"1blocks_ssp2{suffix}"
    beside = {"acc": np.float64(0.9), "args": argparse.Namespace(to=pathlib.Path("x"))}
    torch.save({"net": tensors, "ema": {}, "epoch": np.arange(3), **beside}, path)
    assert program.main([str(path), f"--workdir={tmp_path / 'run'}"]) in (0, 1)
    said = capsys.readouterr().out
    assert "took the entry 'net'" in said
    assert "float16 weights became float32" in said
    assert "left out ema, epoch, acc, args" in said


def test_files_of_torch_that_are_no_weights(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    itself = {"epoch": 3}
    itself["self"] = itself
    stretched = torch.zeros(1).expand(10**12)
    module = torch.nn.Linear(2, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they will go
        nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
        quantised = torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)
    for name, value, message in (
        ("itself", itself, "holds no weights: its entries are epoch, self"),
        ("stretched", {"a": stretched}, "says that a is (1000000000000,), more than"),
        ("module", module, "it holds torch.nn.modules.linear.Linear"),
        ("quantised", {"a": quantised}, "quantised weights (a)"),
        ("list", [1, 2], "holds list, not a dict"),
        ("meta", {"a": torch.ones(3, device="meta")}, "has no values in a"),
        ("sparse", {"a": torch.ones(3).to_sparse()}, "has no values in a"),
        ("nested", {"a": nested}, "holds no weights: its entries are a"),
    ):
        path = tmp_path / f"{name}.pt"
        torch.save(value, path)
        assert program.main([str(path), f"--workdir={tmp_path / 'run'}"]) == 1, name
        said = capsys.readouterr().err
        assert message in said
        assert str(path) in said
        assert len(said.strip().splitlines()) == 1
    cut = tmp_path / "cut.pt"
    cut.write_bytes((tmp_path / "list.pt").read_bytes()[:100])
    assert program.main([str(cut), f"--workdir={tmp_path / 'run'}"]) == 1
    assert "it is cut short" in capsys.readouterr().err
