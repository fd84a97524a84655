"""The way back: our weights under torch's names, for every network that has them."""

import functools
import itertools
import pathlib

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import checkpoints, convert, models
from jaxrobust.convert import __main__ as program
from jaxrobust.convert import _families
from jaxrobust.models import ssp
from tests.marks import full_but

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
SMALL = {"blocks": 1, "layers": (1, 1, 1, 1), "heads": 2, "head_size": 2}
SMALL |= {"width": 4, "cardinality": 2, "window": 1}
DEPTHS = {
    **{"pcl_resnet": 8, "resnet_cifar": 8, "wide_resnet": 10},
    **{"vgg": 11, "resnet": 18, "preact_resnet": 18},
}
OTHERS = {
    "ark": ("ssp_cifar", {"integrator": "ark,res,ssp2"}),
    "bottleneck": ("resnet", {"depth": 50}),
    "deepmind preact": ("preact_resnet", {"same_padding": True}),
    "deepmind wide": ("wide_resnet", {"same_padding": True}),
    "convolutions before ConvNeXt": ("convnext", {"stem": "conv3"}),
    "convolutions before ViT": ("vit", {"stem": "conv"}),
    "MeanSparse of ConvNeXt": ("convnext", {"mean_sparse": True}),
    "MeanSparse of Swin": ("swin", {"mean_sparse": True}),
    "undefended": ("fpd_resnet", {"restoration": False}),
}
CASES = {**{name: (name, {}) for name in models.names()}, **OTHERS}
PARTS = {"block": ssp.Block("ark"), "transition": ssp.Transition(8)}


def small(case):
    """A network of few weights, of which every kind of part is left."""
    name, fields = CASES[case]
    fields = {"depth": DEPTHS[name], **fields} if name in DEPTHS else dict(fields)
    for field, value in SMALL.items():
        try:
            models.create(name, **{**fields, field: value})
        except (TypeError, ValueError):
            continue
        fields[field] = value
    return models.create(name, **fields)


def counted(model, shape):
    """Variables in which every number is another one."""
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    shapes = jax.eval_shape(
        functools.partial(model.init, train=False), jax.random.key(0), images
    )
    numbers = itertools.count(1)
    return jax.tree.map(
        lambda leaf: (
            next(numbers)
            + np.arange(leaf.size, dtype="f").reshape(leaf.shape) / leaf.size
        ),
        dict(shapes),
    )


QUICK = ["preact_resnet", "fpd_resnet", "MeanSparse of Swin"]


@pytest.mark.parametrize("case", full_but([*CASES, *PARTS], QUICK))
def test_there_and_back(case):
    model = PARTS.get(case) or small(case)
    shape = _families.of(model).input_shape
    if callable(shape):
        shape = shape(model, {})
    shape = shape or (1, 8, 8, 8)
    variables = counted(model, shape)
    state = convert.to_torch(model, variables, input_shape=shape)
    assert all(isinstance(value, np.ndarray) for value in state.values())
    back = convert.from_torch(model, state, input_shape=shape)
    chex.assert_trees_all_equal(back, variables, strict=True)


def test_the_state_dict_of_the_original_comes_back_whole():
    """With the names of layers that the original registers twice."""
    with np.load(GOLDEN / "ssp_block_res.npz") as data:
        state = {k[3:]: data[k] for k in data.files if k.startswith("sd/")}
    model, shape = ssp.Block("res"), (1, 8, 8, 16)
    variables = convert.from_torch(model, state, input_shape=shape)
    got = convert.to_torch(model, variables, input_shape=shape)
    assert any(name.startswith("residual.") for name in got)
    for name, value in got.items():
        np.testing.assert_array_equal(value, state[name].astype(np.float32))
    lost = set(state) - set(got)
    assert all(name.endswith("num_batches_tracked") for name in lost)


def test_what_does_not_fit_is_named():
    model = small("resnet_cifar")
    variables = counted(model, (1, 32, 32, 3))
    variables["extra"] = {"centers": np.ones(3)}  # a defence's own
    params = variables["params"]
    params["classifier"]["bias"] = np.zeros(3, np.float32)
    params["head"] = {"kernel": np.zeros((2, 2), np.float32)}
    del params["stem"]
    with pytest.raises(ValueError, match="do not fit ResNetCifar") as caught:
        convert.to_torch(model, variables)
    for told in (
        "unexpected: params/head/kernel",
        "missing: params/stem/conv/kernel",
        "wrong shape: params/classifier/bias is (3,), expected (10,)",
    ):
        assert told in str(caught.value)
    with pytest.raises(TypeError, match="no conversion from torch for Dense"):
        convert.to_torch(nn.Dense(3), {})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose network is a small one."""
    fields = {"name": "ssp_mnist", "blocks": 1, "width": 4}
    model = models.create(**fields)
    variables = counted(model, (1, 28, 28, 1))
    folder = tmp_path_factory.mktemp("run")
    checkpoints.save_variables(folder, variables, {"model": fields})
    return folder, model, variables


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt"])
def test_program(run, tmp_path, suffix):
    """What it writes, the program reads."""
    if suffix == ".pt":
        pytest.importorskip("torch")
    folder, model, variables = run
    file = tmp_path / f"weights{suffix}"
    assert program.main([str(folder), f"--to-torch={file}"]) == 0
    argv = [str(file), "--model=ssp_mnist", "--field=blocks=1", "--field=width=4"]
    assert program.main([*argv, f"--workdir={tmp_path / 'back'}"]) == 0
    other, back, _ = checkpoints.load(tmp_path / "back")
    assert other == model
    chex.assert_trees_all_equal(back, variables)
    if suffix == ".safetensors":
        theirs = pytest.importorskip("safetensors.numpy").load_file(file)
        chex.assert_trees_all_equal(theirs, convert.to_torch(model, variables))


def test_program_refuses(run, tmp_path, capsys):
    folder, *_ = run
    assert program.main([str(folder), f"--to-torch={tmp_path / 'weights.h5'}"]) == 1
    assert "must end in one of .npz, .safetensors, .pt" in capsys.readouterr().err
    assert program.main([str(tmp_path), f"--to-torch={tmp_path / 'w.npz'}"]) == 1
    assert "no checkpoint" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        program.main([str(folder)])
