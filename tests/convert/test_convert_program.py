import ast

import jax
import numpy as np
import pytest

from jaxrobust import checkpoints, convert, models
from jaxrobust.convert import __main__ as program

FIELDS = {"integrator": "ssp2", "blocks": 1, "width": 4, "num_classes": 3}
ARGS = [f"--field={k}={v}" for k, v in FIELDS.items()]


@pytest.fixture(scope="module")
def state_dict():
    model = models.create("ssp_cifar", **FIELDS)
    with pytest.raises(ValueError, match="missing") as caught:
        convert.from_torch(model, {})
    names = [line.split()[1] for line in str(caught.value).splitlines()[1:]]
    empty = {name: np.zeros(()) for name in names}
    with pytest.raises(ValueError, match="wrong shape") as caught:
        convert.from_torch(model, empty)
    generator = np.random.default_rng(0)
    shapes = {
        line.split()[2]: ast.literal_eval(line.split("expected ")[1])
        for line in str(caught.value).splitlines()[1:]
    }
    return {k: generator.uniform(0.5, 1, v).astype("f") for k, v in shapes.items()}


def write(path, state_dict):
    if path.suffix == ".npz":
        np.savez(path, **state_dict)
    elif path.suffix == ".safetensors":
        pytest.importorskip("safetensors.numpy").save_file(state_dict, path)
    else:
        torch = pytest.importorskip("torch")
        tensors = {k: torch.tensor(v) for k, v in state_dict.items()}
        torch.save({"state_dict": tensors, "epoch": 3}, path)


@pytest.mark.parametrize("suffix", [".npz", ".pt", ".pth", ".safetensors"])
def test_file_to_checkpoint(tmp_path, state_dict, suffix):
    path = tmp_path / f"weights{suffix}"
    write(path, state_dict)
    workdir = tmp_path / "run"
    argv = [str(path), "--model=ssp_cifar", *ARGS, f"--workdir={workdir}"]
    assert program.main(argv) == 0
    model, variables, config = checkpoints.load(workdir, "last")
    assert model == models.create("ssp_cifar", **FIELDS)
    assert config["model"] == {"name": "ssp_cifar", **FIELDS}
    want = convert.from_torch(model, state_dict)
    for a, b in zip(*map(jax.tree.leaves, (variables, want)), strict=True):
        np.testing.assert_array_equal(a, b)


class Harmful:
    """Would touch a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):  # noqa: D105
        return open, (self.path, "w")


def test_pickled_code_does_not_run(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    path, touched = tmp_path / "weights.pt", tmp_path / "touched"
    torch.save({"state_dict": Harmful(str(touched))}, path)
    argv = [str(path), "--model=ssp_cifar", f"--workdir={tmp_path / 'run'}"]
    assert program.main(argv) == 1
    assert "no file of plain weights" in capsys.readouterr().err
    assert not touched.exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["weights.bin", "--model=ssp_cifar"], "must be one of .pt"),
        (["none.npz", "--model=ssp_cifar"], "there is no file"),
        (["none.npz", "--model=ssp_cifra"], "Did you mean 'ssp_cifar'"),
        (["none.npz", "--model=ssp_cifar", "--field=blocks"], "NAME=VALUE"),
        (["none.npz", "--model=ssp_cifar", "--field=bloks=1"], "'blocks'"),
    ],
)
def test_errors_are_one_line(tmp_path, capsys, argv, message):
    assert program.main([*argv, f"--workdir={tmp_path / 'run'}"]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
