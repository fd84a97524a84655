"""The SSP networks against what the original code computed (tests/golden/ssp_*)."""

import functools
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import analysis, attacks, convert, models
from jaxrobust.models import ssp
from tests.marks import full_but

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
SIC = {"mean": (0.4914, 0.4822, 0.2265), "std": (0.2023, 0.1994, 0.2010)}

BLOCKS = {
    "ark_default_block": ssp.Block("ark"),
    "ark_default_net": ssp.Block("ark"),
    "ark_other": ssp.Block("ark"),
    "midrk2": ssp.Block("midrk2"),
    "res": ssp.Block("res"),
    "res_coef": ssp.Block("res", coef=0.7),
    "ssp2": ssp.Block("ssp2"),
    "ssp2_norm_g": ssp.Block("ssp2", ssp.Parts("g")),
    "ssp2_norm_i": ssp.Block("ssp2", ssp.Parts("i")),
    "ssp2_norm_l": ssp.Block("ssp2", ssp.Parts("l")),
    "ssp3": ssp.Block("ssp3"),
    "sub": ssp.Transition(32),
}
NETS = {
    "ark": ("ssp_cifar", {"integrator": "ark", "blocks": 2}),
    "groupnorm": ("ssp_cifar", {"integrator": "ssp2", "blocks": 2, "norm": "g"}),
    "midrk2": ("ssp_cifar", {"integrator": "midrk2", "blocks": 2}),
    "mnist": ("ssp_mnist", {"integrator": "ssp3", "blocks": 2}),
    "mnist_ark": ("ssp_mnist", {"integrator": "ark", "blocks": 1, "norm": "b"}),
    "res": ("ssp_cifar", {"integrator": "res", "blocks": 2}),
    "ssp2": ("ssp_cifar", {"integrator": "ssp2", "blocks": 2}),
    "ssp3": ("ssp_cifar", {"integrator": "ssp3", "blocks": 2}),
    "tiny": ("ssp_tinyimagenet", {"integrator": "ssp2", "blocks": 1}),
}
GROWN = ("ark", "midrk2", "res", "ssp2", "ssp3")


# Parity needs no fast code, only code that is compiled fast.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(params=full_but(["float32", "float64"], ["float32"]))
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield np.dtype(request.param)


def by_case(cases, quick):
    """Every case in both dtypes; by default those in `quick` alone are run."""
    names = "case", "dtype"
    values = [
        pytest.param(
            case, dtype, marks=() if (case, dtype) in quick else pytest.mark.full
        )
        for case in cases
        for dtype in ("float32", "float64")
    ]
    return pytest.mark.parametrize(names, values, indirect=["dtype"])


def load(case):
    with np.load(GOLDEN / f"ssp_{case}.npz") as data:
        arrays = dict(data)
    return arrays, {k[3:]: v for k, v in arrays.items() if k.startswith("sd/")}


def nhwc(array):
    return array.transpose(0, 2, 3, 1)


def cast(tree, dtype):
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), tree)


def assert_close(got, want, *, rtol, atol=0.0):
    atol = atol + rtol * np.abs(want).max()
    chex.assert_trees_all_close(np.asarray(got), want, rtol=0, atol=atol)


def without_aliases(state_dict):
    """Leaves out the second names; `block_res` alone has them."""
    return {k: v for k, v in state_dict.items() if not k.startswith("residual.")}


def assert_gradients(got, arrays, prefix, model, state_dict, shape, rtol):
    """Compares the stored parameter gradients; all others are left out."""
    names = {k.removeprefix(prefix) for k in arrays if k.startswith(prefix)}
    state_dict = without_aliases(state_dict)
    stored = {k: arrays[prefix + k] if k in names else v for k, v in state_dict.items()}
    marks = {k: np.full(v.shape, float(k in names)) for k, v in state_dict.items()}
    want = convert.from_torch(model, stored, input_shape=shape)["params"]
    marks = convert.from_torch(model, marks, input_shape=shape)["params"]
    # Some are 0 but for rounding: ark's `a`, a bias in front of a BatchNorm.
    floor = 1e-3 * rtol * max(np.abs(w).max() for w in jax.tree.leaves(want))
    compared = 0
    for g, w, mark in zip(*map(jax.tree.leaves, (got, want, marks)), strict=True):
        if mark.all():
            assert_close(g, w, rtol=rtol, atol=floor)
            compared += 1
    assert compared == len(names) > 0


@pytest.mark.parametrize(
    ("case", "mode"),
    [(case, "eval") for case in BLOCKS]
    + [(case, "train") for case in BLOCKS if "_norm_" not in case],
)
def test_block(case, mode, dtype):
    arrays, state_dict = load(f"block_{case}")
    double = dtype == np.float64
    model, x, cotangent = BLOCKS[case], nhwc(arrays["x"]), nhwc(arrays["c"])
    variables = convert.from_torch(model, state_dict, input_shape=x.shape)
    params = variables.pop("params")

    def loss(params, x):
        out, moved = model.apply(
            cast({"params": params, **variables}, dtype), x,
            train=mode == "train", mutable=["batch_stats"],
        )  # fmt: skip
        return jnp.sum(out * cotangent), (out, moved)

    run = jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    (_, (out, moved)), grads = run(cast(params, dtype), jnp.asarray(x, dtype))
    chex.assert_type([out, grads[1]], dtype)
    suffix = "64" if double else ""
    assert_close(
        out, nhwc(arrays[f"{mode}/out{suffix}"]), rtol=1e-9 if double else 1e-4
    )
    want = nhwc(arrays[f"{mode}/grad_x{suffix}"])
    assert_close(grads[1], want, rtol=1e-9 if double else 1e-3)
    assert_gradients(
        grads[0], arrays, f"{mode}/gradp/", model, state_dict, x.shape,
        2e-7 if double else 1e-3,
    )  # fmt: skip
    if mode == "train" and "batch_stats" in moved:
        assert_statistics(moved, arrays, model, state_dict, x.shape, double)


def assert_statistics(moved, arrays, model, state_dict, shape, double):
    suffix = "64" if "after/n1.running_var64" in arrays and double else ""
    state_dict = without_aliases(state_dict)
    after = {
        k: arrays.get(f"after/{k}{suffix}", arrays.get(f"after/{k}64", v))
        for k, v in state_dict.items()
    }
    changed = [k for k in after if k.endswith("running_var")]
    assert changed
    assert all((after[k] != state_dict[k]).any() for k in changed)
    with jax.enable_x64(False):
        want = convert.from_torch(model, after, input_shape=shape)["batch_stats"]
    for got, ref in zip(
        *map(jax.tree.leaves, (moved["batch_stats"], want)), strict=True
    ):
        assert_close(got, np.asarray(ref), rtol=2e-7 if double else 1e-5)


@by_case(
    NETS,
    [("mnist_ark", "float32")],
)
def test_net(case, dtype):
    arrays, state_dict = load(f"net_{case}")
    double = dtype == np.float64
    name, fields = NETS[case]
    model = models.create(name, **fields)
    variables = convert.from_torch(model, state_dict)
    x, y = jnp.asarray(nhwc(arrays["x"]), dtype), arrays["y"].astype(np.int32)
    modes = ["eval", "train"] if "train/logits" in arrays else ["eval"]

    @jit
    def run(variables, x):
        def loss(params, x, train):
            out, moved = model.apply(
                {**variables, "params": params}, x, train=train, mutable=["batch_stats"]
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(out.logits, y)
            return losses.mean(), (out.logits, moved)

        grad = jax.value_and_grad(loss, (0, 1), has_aux=True)
        return {m: grad(variables["params"], x, m == "train") for m in modes}

    results = run(cast(variables, dtype), x)
    rtol, suffix = (1e-9, "64") if double else (1e-4, "")
    for mode, ((ce, (logits, moved)), (in_params, in_x)) in results.items():
        prefix = "" if mode == "eval" else "train/"
        chex.assert_type([logits, in_x], dtype)
        assert_close(logits, arrays[f"{prefix}logits{suffix}"], rtol=rtol)
        assert_close(ce, arrays[f"{prefix}ce{suffix}"], rtol=rtol)
        want = arrays[f"{prefix}gradp_l2_64"]
        assert_lengths(in_params, want, model, state_dict, double)
        if mode == "eval":
            assert_close(in_x, nhwc(arrays["grad_x"]), rtol=2e-7 if double else 1e-3)
            stored = {k: v for k, v in arrays.items() if k.startswith("gradp/")}
            assert_gradients(
                in_params, stored, "gradp/", model, state_dict, None,
                2e-7 if double else 1e-3,
            )  # fmt: skip
        else:
            assert_statistics(moved, arrays, model, state_dict, None, double)


def assert_lengths(gradients, want, model, state_dict, double):
    """Compares the length of every parameter's gradient."""
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    keys = [k for k in state_dict if not k.endswith(buffers)]
    assert len(keys) == len(want)
    numbers = {k: np.full(v.shape, -1) for k, v in state_dict.items()}
    numbers |= {k: np.full(state_dict[k].shape, i) for i, k in enumerate(keys)}
    order = convert.from_torch(model, numbers)["params"]
    for gradient, index in zip(*map(jax.tree.leaves, (gradients, order)), strict=True):
        length = np.linalg.norm(np.asarray(gradient).ravel())
        expected = want[int(np.asarray(index).ravel()[0])]
        chex.assert_trees_all_close(
            length, expected, rtol=1e-7 if double else 1e-3, atol=1e-5 * want.max()
        )


@by_case(GROWN, [("res", "float32")])
def test_features_and_growth(case, dtype):
    arrays, state_dict = load(f"net_{case}")
    double = dtype == np.float64
    model = models.create(NETS[case][0], **NETS[case][1])
    variables = cast(convert.from_torch(model, state_dict), dtype)

    def features(variables, x):
        return model.apply(variables, x, train=False).features

    run = jit(features)
    clean = run(variables, jnp.asarray(nhwc(arrays["x"]), dtype))
    attacked = run(variables, jnp.asarray(nhwc(arrays["x_adv"]), dtype))
    for stage in (1, 2, 3):
        for side, key in (("in", "before"), ("out", "after")):
            if (stored := f"pg{stage - 1}_{key}0") in arrays:
                got = clean[f"stage{stage}/{side}"][0].transpose(2, 0, 1).ravel()
                assert_close(got, arrays[stored], rtol=1e-5)
        for p in (1, 2):
            prefix = f"pg{stage - 1}_ratio_p{p}"
            ratios = analysis.growth_ratios(clean, attacked, p=p)
            growth = ratios[f"stage{stage}"]
            want = arrays[f"{prefix}_64" if double else prefix]
            assert_close(growth.ratio, want, rtol=1e-9 if double else 1e-4)
            mean = analysis.mean_growth([ratios])[f"stage{stage}"]
            chex.assert_trees_all_close(mean.mean, want.mean(), rtol=1e-4)
            assert mean.images == 2


def levels(x_adv):
    return np.round(np.asarray(x_adv, np.float64) * 255).transpose(0, 3, 1, 2)


def assert_levels(x_adv, want, *, slack=0, share=0.0):
    """Levels differ by at most `slack`, but for a share of flipped tiny gradients."""
    far = np.abs(levels(x_adv) - want) > slack
    assert far.mean() <= share


@by_case(GROWN, [("res", "float32")])
def test_pgd_levels(case, dtype):
    arrays, state_dict = load(f"net_{case}")
    double = dtype == np.float64
    model = models.create(NETS[case][0], **NETS[case][1], **SIC)
    variables = cast(convert.from_torch(model, state_dict), dtype)
    x, y = jnp.asarray(nhwc(arrays["x_pix"]), dtype), arrays["y"].astype(np.int32)
    logits_fn = models.logits_fn(model, variables)
    assert_close(logits_fn(x), arrays["logits"], rtol=1e-4)
    x_adv = attacks.bim(
        logits_fn, x, y, eps=8 / 255, step_size=2 / 255, steps=7, quantize=True
    )
    want = arrays["x_adv_lvl_f64run" if double else "x_adv_lvl"]
    assert_levels(x_adv, want, share=0.0 if double else 1e-3)


@by_case(["attack_random_start"], [])
def test_attacks_without_start(case, dtype):
    arrays, state_dict = load(case)
    model = models.create("ssp_cifar", blocks=1, **SIC)
    logits_fn = models.logits_fn(
        model, cast(convert.from_torch(model, state_dict), dtype)
    )
    x, y = jnp.asarray(nhwc(arrays["x_pix"]), dtype), arrays["y"].astype(np.int32)
    double = dtype == np.float64
    suffix, share = ("_f64run", 0.0) if double else ("", 1e-3)
    x_adv = attacks.fgsm(logits_fn, x, y, eps=8 / 255, quantize=True)
    assert_levels(x_adv, arrays[f"fgsm_lvl{suffix}"], share=share)
    x_adv = attacks.pgd(
        logits_fn, x, y, eps=8 / 255, step_size=2 / 255, steps=3,
        random_start=False, quantize=True,
    )  # fmt: skip
    assert_levels(x_adv, arrays[f"pgd_lvl{suffix}"], share=share)


@by_case(["net_mnist"], [])
def test_mnist_levels(case, dtype):
    arrays, state_dict = load(case)
    model = models.create("ssp_mnist", integrator="ssp3", blocks=2)
    logits_fn = models.logits_fn(
        model, cast(convert.from_torch(model, state_dict), dtype)
    )
    x, y = jnp.asarray(nhwc(arrays["x"]), dtype), arrays["y"].astype(np.int32)
    double = dtype == np.float64
    suffix, share = ("_f64run", 0.0) if double else ("", 1e-3)
    # eps = .3 is 76.5 levels, a tie that rounding settles: one level of slack.
    x_adv = attacks.fgsm(logits_fn, x, y, eps=0.3, quantize=True)
    assert_levels(x_adv, arrays[f"fgsm_lvl{suffix}"], slack=1, share=share)
    x_adv = attacks.bim(
        logits_fn, x, y, eps=0.3, step_size=0.05, steps=5, quantize=True
    )
    assert_levels(x_adv, arrays[f"pgd_lvl{suffix}"], slack=1, share=share)
