"""PCL's published form: `.pth.tar`, names under `module.`, optimisers beside it."""

import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import checkpoints, convert, models
from jaxrobust.convert import __main__ as program

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "pcl_resnet_basic.npz"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as data:
        arrays = dict(data)
    return arrays, {k[3:]: v for k, v in arrays.items() if k.startswith("sd/")}


def test_published_form(tmp_path, golden):
    torch = pytest.importorskip("torch")
    arrays, state_dict = golden
    weights = {f"module.{k}": torch.tensor(v) for k, v in state_dict.items()}
    optimiser = torch.optim.SGD([torch.zeros(2)], 0.01, momentum=0.9).state_dict()
    path = tmp_path / "Models_PCL" / "CIFAR10_PCL.pth.tar"
    path.parent.mkdir()
    torch.save(
        {"epoch": 400, "state_dict": weights, "optimizer_model": optimiser}, path
    )
    assert program.main([str(path), f"--workdir={tmp_path / 'run'}"]) == 0
    model, variables, _ = checkpoints.load(tmp_path / "run", "last")
    assert model.depth == 14
    # The golden images are normalised already; the checkpoint's network normalises.
    mean, std = (jnp.asarray(v)[None, None, None] for v in (model.mean, model.std))
    x = jnp.asarray(arrays["x"].transpose(0, 2, 3, 1)) * std + mean
    logits = jax.jit(models.logits_fn(model, variables))(x)
    want = arrays["eval/y"]
    chex.assert_trees_all_close(logits, want, rtol=0, atol=1e-4 * np.abs(want).max())


def test_what_does_not_fit_is_named(golden):
    _, state_dict = golden
    wrong = dict(state_dict)
    del wrong["layer2.0.downsample.0.weight"]
    wrong["fc.weight"] = wrong["fc.weight"].T
    wrong["fc2.weight"] = wrong["fcf.weight"]
    with pytest.raises(ValueError, match="does not fit PCLResNet") as caught:
        convert.from_torch(models.create("pcl_resnet", depth=14), wrong)
    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == 3
    for line, words in zip(
        sorted(lines),
        (
            ("missing", "layer2.0.downsample.0.weight", "stage2_block0/shortcut/conv"),
            ("unexpected", "fc2.weight", ""),
            ("wrong shape", "fc.weight", "(1024, 64)"),
        ),
        strict=True,
    ):
        assert all(word in line for word in words)


def test_another_depth_is_refused(golden):
    _, state_dict = golden
    with pytest.raises(ValueError, match=r"missing: layer1\.2\.conv1\.weight"):
        convert.from_torch(models.create("pcl_resnet", depth=20), state_dict)
