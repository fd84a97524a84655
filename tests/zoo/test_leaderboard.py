"""RobustBench's networks: the table, and weights from files."""

import math
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import checkpoints, convert, models, zoo
from jaxrobust.zoo import leaderboard, networks

PLACES = [
    *(("cifar10", threat) for threat in ("Linf", "L2", "corruptions")),
    *((dataset, t) for dataset in ("cifar100", "imagenet") for t in ("Linf",)),
    *((dataset, "corruptions") for dataset in ("cifar100", "imagenet")),
]
ENTRIES = [
    zoo.robustbench_entry(name, *place)
    for place in PLACES
    for missing in (False, True)
    for name in zoo.robustbench_names(*place, missing=missing)
]
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
SMALL = {"name": "resnet", "stem": "cifar", "width": 2, "num_classes": 10}


def state_dict(fields):
    """Random weights under torch's names."""
    fields = dict(fields)
    model = models.create(fields.pop("name"), **fields)
    shapes = jax.eval_shape(
        lambda key, x: model.init(key, x), jax.random.key(0), jnp.ones((1, 32, 32, 3))
    )
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype("f"), shapes
    )
    return convert.to_torch(model, variables), variables


@pytest.fixture
def small(monkeypatch):
    """Makes every network of the table a narrow ResNet."""
    monkeypatch.setattr(networks, "describe", lambda network, classes: dict(SMALL))
    arrays, variables = state_dict(SMALL)
    # In the names of the code that RobustBench has.
    renamed = {
        k.replace("downsample", "shortcut").replace("fc.", "linear."): v
        for k, v in arrays.items()
    }
    return renamed, variables


def test_every_row_is_a_network_or_says_why_not():
    assert len(ENTRIES) == 206
    for entry in ENTRIES:
        told = entry.missing or entry.source
        assert told, entry
        if entry.missing:
            continue
        fields = dict(entry.model)
        fields["mean"], fields["std"] = fields["mean"] or None, fields["std"] or None
        model = models.create(fields.pop("name"), **fields)
        assert model.num_classes == leaderboard.DATASETS[entry.dataset]
        assert bool(entry.images) == (entry.dataset == "imagenet")
        assert (entry.mean is None) == (entry.std is None)
        for values in (entry.mean, entry.std):
            assert not values or len(values) == 3


def test_some_rows():
    carmon = zoo.robustbench_entry("Carmon2019Unlabeled")
    assert carmon.model == {
        **{"name": "wide_resnet", "depth": 28, "width": 10, "num_classes": 10},
        **{"mean": None, "std": None},
    }
    wang = zoo.robustbench_entry("Wang2023Better_WRN-70-16", "cifar100")
    assert (wang.model["depth"], wang.model["width"]) == (70, 16)
    assert wang.model["same_padding"]
    assert wang.mean == (0.5071, 0.4865, 0.4409)
    salman = zoo.robustbench_entry("Salman2020Do_50_2", "imagenet")
    assert salman.model["widening"] == 2
    assert salman.images == "Res256Crop224"
    mimir = zoo.robustbench_entry("Xu2024MIMIR_Swin-L", "imagenet")
    assert (mimir.model["window"], mimir.model["epsilon"]) == (14, 1e-6)
    andriushchenko = zoo.robustbench_entry("Andriushchenko2020Understanding")
    assert andriushchenko.state_dict == "last"


# As the originals have them: torchvision, timm, RobustWRN.
COUNTS = {
    "wrn-28-10": 36_479_194,
    "wrn-34-r": 68_116_698,
    "dm-wrn-70-16": 266_796_506,
    "dm-prn-18": 12_548_426,
    "ra-wrn-70-16": 268_097_152,
    "wrn-50-2": 68_883_240,
    "resnet50": 25_557_032,
    "convnext-b": 88_591_464,
    "convnext-t-cvst": 28_627_432,
    "convnext-b-cvst": 88_753_416,
    "vit-b": 86_567_656,
    "vit-s-cvst": 22_777_576,
    "swin-b": 87_768_224,
    "swin-l": 196_532_476,
    "xcit-s12": 26_253_304,
    "xcit-m12": 46_401_160,
    "xcit-l12": 103_792_648,
}


def write(path, arrays):
    np.savez(path, **arrays)
    return path


def test_a_file_of_weights(small, tmp_path):
    arrays, variables = small
    file = write(tmp_path / "w.npz", {f"module.{k}": v for k, v in arrays.items()})
    model, found, entry = zoo.robustbench("Sehwag2021Proxy_R18", file, threat="L2")
    chex.assert_trees_all_equal(found, variables)
    assert model == models.create(**SMALL)
    assert len(entry.sha256) == 64


def test_one_as_a_checkpoint(small, tmp_path):
    arrays, variables = small
    file = write(tmp_path / "w.npz", arrays)
    model, found, entry = zoo.robustbench("Addepalli2021Towards_RN18", file)
    checkpoints.save_variables(tmp_path / "run", found, {"model": entry.model})
    again, same, _ = checkpoints.load(tmp_path / "run", "last")
    assert again == model
    chex.assert_trees_all_equal(same, variables)


def test_the_normalisation_of_the_file(small, tmp_path):
    arrays, _ = small
    values = {"mu": np.full((1, 3, 1, 1), 0.5, "f")}
    values["sigma"] = np.full((1, 3, 1, 1), 0.25, "f")
    file = write(tmp_path / "w.npz", arrays | values)
    model, _, entry = zoo.robustbench(
        "Modas2021PRIMEResNet18", file, threat="corruptions"
    )
    assert model.mean == entry.mean == (0.5,) * 3
    assert model.std == entry.std == (0.25,) * 3
    with pytest.raises(ValueError, match=r"(?s)w.npz is not 'Engstrom.*another norm"):
        zoo.robustbench("Engstrom2019Robustness", file)


def test_the_folder_of_robustbench(small, tmp_path):
    torch = pytest.importorskip("torch")
    arrays, variables = small
    file = tmp_path / "cifar10" / "Linf" / "Andriushchenko2020Understanding.pt"
    file.parent.mkdir(parents=True)
    tensors = {k: torch.tensor(v) for k, v in arrays.items()}
    torch.save({"best": {k: v + 1 for k, v in tensors.items()}, "last": tensors}, file)
    _, found, _ = zoo.robustbench("Andriushchenko2020Understanding", tmp_path)
    chex.assert_trees_all_equal(found, variables)


@pytest.mark.parametrize(
    ("args", "error", "told"),
    [
        (("Carmon2019Unlabeled",), ValueError, "`path`.*Google Drive.*gdown 15tUx"),
        (("Carmon2019Unlabelled",), ValueError, "Did you mean 'Carmon2019Unlabeled'"),
        (("Salman2020Do_R50",), ValueError, "it is one of imagenet, Linf: say"),
        (("Kang2021Stable",), ValueError, "is a neural ODE .* with RobustBench itself"),
        (("Standard", None, "cifar100", "L2"), ValueError, "no networks for L2 on"),
        (("Standard", None, "mnist"), ValueError, "`dataset` must be one of cifar10"),
        (("Standard", None, "cifar10", "L1"), ValueError, "`threat` must be one of"),
        (("Standard", "nothing.pt"), FileNotFoundError, "no file nothing.pt: it is"),
        (("Standard", "."), FileNotFoundError, r"\. has no cifar10/Linf/Standard.pt"),
    ],
)
def test_errors_say_what_to_do(args, error, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=told):
        zoo.robustbench(*args)


def test_another_digest_is_refused(tmp_path):
    file = write(tmp_path / "w.npz", {"a": np.ones(2)})
    with pytest.raises(ValueError, match=r"SHA-256 starts with .* not 0676ba61"):
        zoo.robustbench("Standard_R50", file, "imagenet", "corruptions")


@pytest.mark.full
@pytest.mark.parametrize("network", COUNTS)
def test_parameter_counts(network):
    side = 32 if network.startswith(("wrn-28", "wrn-34", "dm")) else 224
    classes = 10 if side == 32 else 1000
    fields = networks.describe(network, classes)
    model = models.create(fields.pop("name"), **fields)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, side, side, 3)))
    leaves = jax.tree.leaves(shapes["params"])
    assert sum(math.prod(leaf.shape) for leaf in leaves) == COUNTS[network]


def test_the_table_comes_with_the_package():
    file = pathlib.Path(leaderboard.__file__).with_name("robustbench.tsv")
    assert file.stat().st_size < 40_000
