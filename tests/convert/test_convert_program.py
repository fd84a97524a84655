import argparse
import ast
import json

import chex
import jax
import numpy as np
import pytest

from jaxrobust import checkpoints, convert, models
from jaxrobust.convert import __main__ as program
from tests.marks import full_but

FIELDS = {"integrator": "ssp2", "blocks": 1, "width": 4, "num_classes": 3}
ARGS = [f"--field={k}={v}" for k, v in FIELDS.items()]


def torch_weights(model):
    """Random weights under torch's names, which the errors of a conversion tell."""
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
        if "wrong shape" in line
    }
    return {k: generator.uniform(0.5, 1, shapes.get(k, ())).astype("f") for k in names}


@pytest.fixture(scope="module")
def state_dict():
    return torch_weights(models.create("ssp_cifar", **FIELDS))


def write(path, state_dict):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        np.savez(path, **state_dict)
    elif path.suffix == ".safetensors":
        pytest.importorskip("safetensors.numpy").save_file(state_dict, path)
    else:
        torch = pytest.importorskip("torch")
        tensors = {k: torch.tensor(v) for k, v in state_dict.items()}
        torch.save({"state_dict": tensors, "epoch": 3}, path)


@pytest.mark.parametrize(
    "suffix", [".npz", ".pt", ".pth", ".pth.tar", ".pkl", ".safetensors"]
)
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
        chex.assert_trees_all_equal(a, b)


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
        (["weights.txt", "--model=ssp_cifar"], "must be one of .pt"),
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


def convert_all(folder, workdir, *argv):
    """Runs the program on a folder; returns its status and network by checkpoint."""
    status = program.main([str(folder), f"--workdir={workdir}", *argv])
    found = {}
    for file in workdir.rglob("config.json"):
        name = file.parent.relative_to(workdir).as_posix()
        found[name] = json.loads(file.read_text())["config"]["model"]
    return status, found


SSP = {"blocks": 2, "norm": "b", "width": 4, "num_classes": 3}
SIC = {"mean": [0.4914, 0.4822, 0.2265], "std": [0.2023, 0.1994, 0.2010]}


@pytest.mark.parametrize(
    "integrator", full_but(["res", "midrk2", "ssp2", "ssp3", "ark"], ["ssp2", "ark"])
)
def test_sspnet_folders_say_blocks_and_integrator(tmp_path, integrator):
    stages = "ark,res,ssp2" if integrator == "ark" else integrator
    model = models.create("ssp_cifar", integrator=stages, **SSP)
    weights = {f"module.{k}": v for k, v in torch_weights(model).items()}
    place = f"cifar10/2blocks_7iters/{integrator}"
    for which in ("acc", "loss"):
        file = tmp_path / f"pretrained_models/{place}/model_{which}.npz"
        write(file, weights)
    (file.parent / "logs-ssp2.txt").write_text("no checkpoint")
    status, found = convert_all(tmp_path / "pretrained_models", tmp_path / "runs")
    expected = {"name": "ssp_cifar", "integrator": stages, **SSP, **SIC}
    assert (status, found) == (
        0,
        {f"{place}/model_{which}": expected for which in ("acc", "loss")},
    )
    loaded, variables, _ = checkpoints.load(
        tmp_path / f"runs/{place}/model_acc", "last"
    )
    want = convert.from_torch(model, weights)
    for a, b in zip(*map(jax.tree.leaves, (variables, want)), strict=True):
        chex.assert_trees_all_equal(a, b)
    assert loaded.integrator == stages


@pytest.mark.parametrize(
    ("name", "fields", "place"),
    [
        ("ssp_tinyimagenet", {"integrator": "ssp3", "blocks": 1}, "tiny/ssp3/a"),
        ("ssp_mnist", {"integrator": "ark", "blocks": 1, "norm": "b"}, "ark/model_acc"),
        ("pcl_resnet", {"depth": 8}, "Models_PCL/CIFAR10_PCL"),
        ("wide_resnet", {"depth": 10, "width": 2, "num_classes": 4}, "wide"),
        ("vgg", {"depth": 13, "width": 4, "num_classes": 7}, "vgg13_model_CE"),
        ("lenet5", {}, "lenet5_PC_loss"),
        pytest.param("cnn3", {}, "cnn3", marks=pytest.mark.full),
        ("resnet_cifar", {"depth": 14, "width": 4}, "resnet14"),
        pytest.param(
            "lenet_sigmoid", {}, "adv_train_LeNet_mnist", marks=pytest.mark.full
        ),
        pytest.param(
            "resnet",
            {"depth": 18, "num_classes": 100, "width": 8},
            "resnet18",
            marks=pytest.mark.full,
        ),
        ("preact_resnet", {}, "preact18"),
        ("fpd_resnet", {"layers": (1, 2, 1, 1), "width": 4}, "ResNet-50/MNIST/a"),
        (
            "fpd_resnet",
            {"layers": (1, 1, 1, 1), "width": 4, "variant": "caltech256"},
            "b",
        ),
        pytest.param(
            "fpd_resnet",
            {"depth": 50, "width": 4, "defended": False},
            "c_resnet",
            marks=pytest.mark.full,
        ),
        ("fpd_resnext", {"depth": 50, "width": 8, "cardinality": 4}, "ResNeXt-50/d"),
    ],
)
def test_arrays_tell_family_and_sizes(tmp_path, name, fields, place):
    model = models.create(name, **fields)
    write(tmp_path / f"in/{place}.npz", torch_weights(model))
    status, found = convert_all(tmp_path / "in", tmp_path / "out")
    assert status == 0
    told = found[place]
    assert told["name"] == name
    assert {k: told[k] for k in fields} == json.loads(json.dumps(fields))
    # Whatever else was told is what the network would have had, but for mean and std.
    rest = {k: v for k, v in told.items() if k not in ("name", "mean", "std")}
    assert models.create(name, **rest) == model


def test_what_cannot_be_placed_is_listed_and_the_rest_converted(
    tmp_path, state_dict, capsys
):
    folder = tmp_path / "in"
    write(folder / "1blocks_7iters/ssp2/good.npz", state_dict)
    write(folder / "exp/nothing_says_so.npz", state_dict)
    write(folder / "1blocks_7iters/ark/other.npz", state_dict)
    write(folder / "9blocks/ssp3/deeper.npz", state_dict)
    write(folder / "1blocks_7iters/ssp2/strange.npz", {"w": np.ones(3)})
    write(folder / "1blocks_7iters/ssp2/cut.npz", dict([*state_dict.items()][:-1]))
    (folder / "empty.npz").write_bytes(b"")
    (folder / "cut.safetensors").write_bytes(b"abc")
    status, found = convert_all(folder, tmp_path / "out")
    assert (status, list(found)) == (1, ["1blocks_7iters/ssp2/good"])
    output = capsys.readouterr()
    assert "1 of 8 checkpoints converted" in output.out
    for file, reason in (
        ("exp/nothing_says_so.npz", "say which integrator"),
        ("ark/other.npz", "it is called ark, but the blocks of block1 are of the kind"),
        ("ssp3/deeper.npz", "its folder says 9 blocks, its arrays are of 1; give"),
        ("ssp2/strange.npz", "of no network known here; give --model"),
        ("ssp2/cut.npz", "missing: "),
        ("empty.npz", "is not readable (No data left in file)"),
    ):
        [text] = [x for x in output.err.split("left out ") if f"{file}: " in x]
        assert reason in text


def test_fields_given_by_hand_come_first(tmp_path, state_dict):
    write(tmp_path / "in/9blocks/ssp3/deeper.npz", state_dict)
    argv = ["--field=blocks=1", "--field=integrator=ssp2", "--field=mean=(.5,.5,.5)"]
    status, found = convert_all(tmp_path / "in", tmp_path / "out", *argv)
    [model] = found.values()
    assert status == 0
    assert (model["blocks"], model["integrator"]) == (1, "ssp2")
    assert (model["mean"], model["std"]) == ([0.5] * 3, SIC["std"])


def test_sspnet_files_bring_their_arguments(tmp_path, state_dict):
    """As its trainer saves them: weights and a Namespace with a device in it."""
    torch = pytest.importorskip("torch")
    args = argparse.Namespace(model="ssp3", block=1, device=torch.device("cpu"))
    tensors = {k: torch.tensor(v) for k, v in state_dict.items()}
    for name, new in (("zip", True), ("legacy", False)):
        torch.save(
            {"state_dict": tensors, "args": args},
            tmp_path / f"{name}.pt",
            _use_new_zipfile_serialization=new,
        )
        out = tmp_path / f"out_{name}"
        assert program.main([str(tmp_path / f"{name}.pt"), f"--workdir={out}"]) == 0
        model = json.loads((out / "config.json").read_text())["config"]["model"]
        assert model["integrator"] == "ssp3"


def test_a_folder_without_checkpoints(tmp_path, capsys):
    assert program.main([str(tmp_path), f"--workdir={tmp_path / 'out'}"]) == 1
    assert "no .pt, .pth" in capsys.readouterr().err
