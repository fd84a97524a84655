import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import convert, models
from jaxrobust.models import ssp

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


@pytest.fixture
def block():
    """The bare block whose file also has the second names."""
    with np.load(GOLDEN / "ssp_block_res.npz") as data:
        return {k[3:]: data[k] for k in data.files if k.startswith("sd/")}


def convert_block(state_dict):
    return convert.from_torch(ssp.Block("res"), state_dict, input_shape=(1, 8, 8, 16))


def torch_names(module):
    return {k: v.detach().numpy() for k, v in module.state_dict().items()}


def test_second_names_may_be_there_or_not(block):
    assert any(k.startswith("residual.") for k in block)
    without = {k: v for k, v in block.items() if not k.startswith("residual.")}
    some = {k: v for k, v in block.items() if not k.startswith("residual.0")}
    for other in (without, some):
        for a, b in zip(
            *map(jax.tree.leaves, (convert_block(block), convert_block(other))),
            strict=True,
        ):
            chex.assert_trees_all_equal(a, b)


def test_prefixes_and_counters_do_not_matter(block):
    prefixed = {f"module.{k}": v for k, v in block.items()}
    bare = {k: v for k, v in block.items() if not k.endswith("num_batches_tracked")}
    for other in (prefixed, bare):
        chex.assert_trees_all_equal(
            convert_block(other)["params"]["conv1"]["kernel"],
            block["conv1.weight"].transpose(2, 3, 1, 0),
        )


def test_every_problem_is_named(block):
    block["conv1.weight"] = block["conv1.weight"][:, :, :2]
    block["n1.weight"] = block["n1.weight"][:-1]
    del block["n2.running_var"], block["conv2.bias"]
    block["extra.weight"] = np.ones(3)
    block["extra.num_batches_tracked"] = np.ones(())
    block["residual.3.bias"] = block["residual.3.bias"] + 1
    block["residual.9.bias"] = np.ones(3)
    block["lonely"] = np.ones(3)
    with pytest.raises(ValueError, match="does not fit Block") as caught:
        convert_block(block)
    text = str(caught.value)
    for line in (
        "wrong shape: conv1.weight is (16, 16, 2, 3), expected (16, 16, 3, 3)",
        "wrong shape: n1.weight is (15,), expected (16,)",
        "missing: n2.running_var (for batch_stats/norm2/var)",
        "missing: conv2.bias (for params/conv2/bias)",
        "unexpected: extra.weight",
        "unexpected: extra.num_batches_tracked",
        "differs from n2.bias, of which it is a name: residual.3.bias",
        "unexpected: residual.9.bias",
        "unexpected: lonely",
    ):
        assert line in text
    assert "num_batches_tracked" not in text.replace("extra.num_batches_tracked", "")


def test_given_twice(block):
    block["module.conv1.bias"] = block["conv1.bias"]
    with pytest.raises(ValueError, match=r"given twice.*conv1\.bias"):
        convert_block(block)


def test_wrong_arguments(block):
    with pytest.raises(TypeError, match=r"`state_dict` must map names.*list"):
        convert_block([1])
    with pytest.raises(TypeError, match=r"'state_dict' is itself a mapping"):
        convert_block({"state_dict": block})
    with pytest.raises(ValueError, match="`input_shape` must be given for Block"):
        convert.from_torch(ssp.Block(), block)
    with pytest.raises(TypeError, match=r"no conversion .* SSPNet"):
        convert.from_torch(models.layers.BatchNorm(), block)


def test_another_architecture(block):
    model = models.create("ssp_cifar", integrator="ssp2", blocks=1)
    with pytest.raises(ValueError, match=r"missing: block1\.0\.block\.n1\.weight"):
        convert.from_torch(model, block)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("ssp_cifar", {"blocks": 1, "width": 8, "norm": "i", "num_classes": 3}),
        ("ssp_cifar", {"blocks": 3, "integrator": "midrk2,ark,ssp3"}),
        ("ssp_mnist", {"blocks": 1, "norm": "b", "integrator": "rk4"}),
        ("ssp_tinyimagenet", {"blocks": 2, "integrator": "ark"}),
        ("preact_resnet", {"width": 4}),
        ("wide_resnet", {"depth": 10, "width": 2}),
    ],
)
def test_every_leaf_finds_its_entry(name, fields):
    """A state dict made from the error about an empty one is the whole of it."""
    model = models.create(name, **fields)
    with pytest.raises(ValueError, match="missing") as caught:
        convert.from_torch(model, {})
    keys = [
        line.split()[1] for line in str(caught.value).splitlines() if "missing" in line
    ]
    assert len(keys) == len(set(keys))
    shape = (1, 28, 28, 1) if name == "ssp_mnist" else (1, 32, 32, 3)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.ones(shape))
    assert len(keys) == len(jax.tree.leaves(shapes))


def wide_resnet_10_1(torch):
    """A WRN-10-1 in torch, in the names of its publications; forward and weights."""
    nn = torch.nn

    def block(inputs, outputs, stride):
        layers = {
            "bn1": nn.BatchNorm2d(inputs),
            "conv1": nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            "bn2": nn.BatchNorm2d(outputs),
            "conv2": nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
        }
        if inputs != outputs:
            layers["convShortcut"] = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        return nn.ModuleDict(layers)

    sizes = [(16, 16, 1), (16, 32, 2), (32, 64, 2)]
    net = nn.ModuleDict({"conv1": nn.Conv2d(3, 16, 3, 1, 1, bias=False)})
    for k, size in enumerate(sizes, 1):
        net[f"block{k}"] = nn.ModuleDict({"layer": nn.ModuleList([block(*size)])})
    net["bn1"], net["fc"] = nn.BatchNorm2d(64), nn.Linear(64, 10)

    def forward(x):
        x = net["conv1"](x)
        for k in (1, 2, 3):
            b = net[f"block{k}"]["layer"][0]
            h = torch.relu(b["bn1"](x))
            short = b["convShortcut"](h) if "convShortcut" in b else x
            x = b["conv2"](torch.relu(b["bn2"](b["conv1"](h)))) + short
        return net["fc"](torch.relu(net["bn1"](x)).mean((2, 3)))

    return net, forward


def test_wide_resnet_against_torch():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net, forward = wide_resnet_10_1(torch)
    x = torch.rand(4, 3, 16, 16)
    forward(x)  # moves the running statistics
    net.eval()
    with torch.no_grad():
        want = forward(x).numpy()
    model = models.create("wide_resnet", depth=10, width=1)
    variables = convert.from_torch(model, net.state_dict())
    images = jnp.asarray(x.numpy().transpose(0, 2, 3, 1))
    got = models.logits_fn(model, variables)(images)
    chex.assert_trees_all_close(got, want, rtol=0, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("shape", [(28, 28, 1), (1, 1, 28, 28), (0, 28, 28, 1), "x"])
def test_a_shape_that_is_none_of_images_is_told(shape):
    with pytest.raises(ValueError, match=r"`input_shape` .*\(B, H, W, C\)"):
        convert.from_torch(models.create("lenet5"), {}, input_shape=shape)
