"""Wide and PreAct ResNets in the names of RobustBench's zoo."""

import importlib.util
import json
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import checkpoints, convert, models
from jaxrobust.convert import __main__ as program
from tests.marks import full_but

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "robustbench"
NORMALIZATION = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2471, 0.2435, 0.2616)}
DEEPMIND = {"activation": "swish", "same_padding": True}
ROBUST_ARCH = {"channels": (8, 12, 16), "layers": (1, 2, 1), "stem": 12}
ROBUST_ARCH["squeeze"] = 0.25
NARROW = {"depth": 10, "channels": (8, 16, 32)}
CASES = {
    "kuangliu": ("resnet", {"stem": "cifar", "width": 4}),
    "wide_resnet50": ("resnet", {"depth": 50, "width": 2, "widening": 2}),
    "robust_wrn": ("wide_resnet", {"depth": 10, "channels": (8, 16, 12)}),
    "pssilu": ("wide_resnet", {**NARROW, "activation": "pssilu"}),
    "boosting": ("wide_resnet", {**NARROW, "unit_head": True, "per_image": True}),
    "mean_sparse": ("wide_resnet", {**NARROW, "mean_sparse": True, **DEEPMIND}),
    "ra_wrn": ("wide_resnet", {**ROBUST_ARCH, "mean_sparse": True, **DEEPMIND}),
    "wide": ("wide_resnet", {"depth": 10, "width": 1, **NORMALIZATION}),
    "preact": (
        "preact_resnet",
        {"width": 4, "final_norm": False, "shortcut_on_input": True},
    ),
    "preact_norm": ("preact_resnet", {"width": 4}),
    "deepmind_wide": ("wide_resnet", {"depth": 10, "width": 1, **DEEPMIND}),
    "deepmind_preact": (
        "preact_resnet",
        {"width": 4, "shortcut_on_input": True, "shortcut_kernel": 3, **DEEPMIND},
    ),
}
OTHER_NAMES = ("kuangliu", "robust_wrn")
# The weights do not hold it; a converted file gets DeepMind's own.
TOLD = [case for case in CASES if case not in ("boosting", "ra_wrn")]
UNTOLD = {"mean_sparse": NORMALIZATION}
UNTOLD |= {"deepmind_wide": NORMALIZATION, "deepmind_preact": NORMALIZATION}


def read(case):
    """Returns the network, its state dict, images and the original's logits."""
    with np.load(GOLDEN / f"{case}.npz") as data:
        state = {k[3:]: data[k].astype("f") for k in data.files if k[:3] == "sd/"}
        x, logits = data["x"].transpose(0, 2, 3, 1).astype("f"), data["logits"]
    name, fields = CASES[case]
    return models.create(name, **fields), state, x, logits


def assert_equal_logits(model, variables, x, want):
    quickly = {"xla_backend_optimization_level": 0}
    with jax.default_matmul_precision("highest"):
        apply = jax.jit(model.apply, compiler_options=quickly)
        got = apply(variables, jnp.asarray(x)).logits
    chex.assert_trees_all_close(got, want, rtol=0, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_to_the_original(case):
    model, state, x, want = read(case)
    assert_equal_logits(model, convert.from_torch(model, state), x, want)


@pytest.mark.parametrize("case", CASES)
def test_random_weights_in_torch(case):
    """The same in the torch at hand, whose state dict has counters and prefixes."""
    torch = pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location(
        "make_robustbench", GOLDEN / "make.py"
    )
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    torch.manual_seed(1)
    net, x = make.fill(make.NETS[case]()), torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        want = net(x).numpy()
    model, state, *_ = read(case)
    theirs = net.state_dict()
    assert {k for k, v in theirs.items() if v.is_floating_point()} == set(state)
    prefixed = {f"module.model.{k}": v for k, v in theirs.items()}
    variables = convert.from_torch(model, prefixed)
    assert_equal_logits(model, variables, x.numpy().transpose(0, 2, 3, 1), want)


# In the first names of their parts; those of the others are translated.
@pytest.mark.parametrize("case", [c for c in CASES if c not in OTHER_NAMES])
def test_every_entry_is_used_and_missed(case):
    model, state, *_ = read(case)
    runs = {k for k in state if not k.startswith("sub_block1")}
    runs -= {"mu", "sigma"}
    runs = {k for k in runs if not k.endswith("batch_num")}
    leaves = jax.tree.leaves(convert.from_torch(model, state))
    assert sum(leaf.size for leaf in leaves) == sum(state[k].size for k in runs)
    with pytest.raises(ValueError, match="does not fit") as caught:
        convert.from_torch(model, {k: v for k, v in state.items() if k not in runs})
    lines = str(caught.value).splitlines()[1:]
    assert {line.split()[1] for line in lines} == runs
    assert all(line.startswith("  missing: ") for line in lines)


def test_a_stage_that_never_runs_may_be_there_or_not():
    model, state, *_ = read("wide")
    without = {k: v for k, v in state.items() if not k.startswith("sub_block1")}
    assert len(without) < len(state)
    found = [convert.from_torch(model, s) for s in (state, without)]
    chex.assert_trees_all_equal(*found)


@pytest.mark.parametrize(
    "names",
    [("mu", "sigma"), ("mean", "std"), ("normalizer.new_mean", "normalizer.new_std")],
)
def test_another_normalisation_is_refused_with_the_fix(names):
    model, state, *_ = read("preact_norm")
    buffers = {
        name: np.asarray(values, "f").reshape(1, 3, 1, 1)
        for name, values in zip(names, NORMALIZATION.values(), strict=True)
    }
    with pytest.raises(ValueError, match="another normalisation") as caught:
        convert.from_torch(model, {**state, **buffers})
    for text in (
        "`mean` is (0.4914, 0.4822, 0.4465) there, None in the model",
        "create it with std=(0.2471, 0.2435, 0.2616)",
    ):
        assert text in str(caught.value)
    same = models.create("preact_resnet", width=4, **NORMALIZATION)
    convert.from_torch(same, {**state, **buffers})
    nothing = {names[0]: np.zeros(3), names[1]: np.ones(3)}
    convert.from_torch(model, {**state, **nothing})


def test_names_of_the_other_form_are_refused():
    model, *_ = read("wide")
    _, state, *_ = read("deepmind_wide")
    with pytest.raises(ValueError, match=r"missing: block1\.layer\.0\.bn1") as caught:
        convert.from_torch(model, state)
    assert "unexpected: layer.0.block.0.batchnorm_0.weight" in str(caught.value)


@pytest.mark.parametrize(
    "case", full_but(TOLD, ["preact", "kuangliu", "mean_sparse", "robust_wrn"])
)
def test_a_file_tells_the_whole_network(case, tmp_path):
    _, state, *_ = read(case)
    name, fields = CASES[case]
    np.savez(tmp_path / "w.npz", **{f"model.{k}": v for k, v in state.items()})
    argv = [str(tmp_path / "w.npz"), f"--workdir={tmp_path / 'run'}"]
    assert program.main(argv) == 0
    told = json.loads((tmp_path / "run/config.json").read_text())["config"]["model"]
    model, variables, _ = checkpoints.load(tmp_path / "run", "last")
    assert told["name"] == name
    assert model == models.create(name, **fields, **UNTOLD.get(case, {}))
    want = convert.from_torch(models.create(name, **fields), state)
    chex.assert_trees_all_equal(variables, want)


def test_second_names_of_a_network_s_first_parts_are_left_alone():
    model, state, *_ = read("preact_norm")
    more = {f"model_preact_hl1.{n}.weight": np.ones(4) for n in (0, 1)}
    want = convert.from_torch(model, state)
    chex.assert_trees_all_equal(convert.from_torch(model, state | more), want)


@pytest.mark.parametrize("name", ["wide_resnet", "preact_resnet"])
def test_unknown_activation(name):
    with pytest.raises(ValueError, match=r"`activation` must be .* 'gelu'"):
        models.create(name, activation="gelu")
    if name == "preact_resnet":
        with pytest.raises(ValueError, match=r"`shortcut_kernel` must be 1 or 3, .* 2"):
            models.create(name, shortcut_kernel=2)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"channels": (16, 32)}, r"`channels` must be those of three stages, got \(16"),
        (
            {"layers": (1, 1, 0)},
            r"`layers\[2\]` must be an integer of at least 1, got 0",
        ),
        ({"stem": 0}, "`stem` must be an integer of at least 1, got 0"),
        ({"squeeze": 2.0}, r"`squeeze` must lie in \[0, 1\], got 2.0"),
    ],
)
def test_impossible_wide_resnets(fields, told):
    with pytest.raises(ValueError, match=told):
        models.create("wide_resnet", **fields)
