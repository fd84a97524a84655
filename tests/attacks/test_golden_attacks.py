"""Attacks against what torchattacks, PCL's and SSC's own code computed (float64)."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxrobust import attacks, threat
from tests.marks import full_but

EPS = 8 / 255


def conv(x, kernel, stride, pad):
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), [(pad, pad)] * 2,
        dimension_numbers=("NHWC", "OIHW", "NHWC"),
    )  # fmt: skip


def pcl_net(data):
    """PCL's ResNet of depth 8 in eval mode, normalisation inside."""
    sd = {
        k[3:]: jnp.asarray(v, jnp.result_type(float))
        for k, v in data.items()
        if "sd/" in k
    }
    mean, std = jnp.array([0.4914, 0.4822, 0.4465]), jnp.array([0.2023, 0.1994, 0.201])

    def norm(x, name):
        weight, bias, mean, var = (
            sd[f"{name}.{part}"][None, None, None]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / jnp.sqrt(var + 1e-5) * weight + bias

    def logits_fn(x):
        x = (x - mean[None, None, None]) / std[None, None, None]
        x = jax.nn.relu(norm(conv(x, sd["conv1.weight"], 1, 1), "bn1"))
        for i, stride in enumerate((1, 2, 2), 1):
            name, short = f"layer{i}.0", x
            h = conv(x, sd[f"{name}.conv1.weight"], stride, 1)
            h = jax.nn.relu(norm(h, f"{name}.bn1"))
            h = norm(conv(h, sd[f"{name}.conv2.weight"], 1, 1), f"{name}.bn2")
            if f"{name}.downsample.0.weight" in sd:
                short = conv(x, sd[f"{name}.downsample.0.weight"], stride, 0)
                short = norm(short, f"{name}.downsample.1")
            x = jax.nn.relu(h + short)
        z = x.mean((1, 2)) @ sd["fc.weight"].T + sd["fc.bias"][None]
        return z @ sd["fcf.weight"].T + sd["fcf.bias"][None]

    return logits_fn


ITERATED = {"eps": EPS, "step_size": 2 / 255, "steps": 10}
TORCHATTACKS = {
    "ta_fgsm": ("fgsm", {"eps": EPS}),
    "ta_bim": ("bim", ITERATED),
    "ta_pgd": ("pgd", ITERATED | {"random_start": False}),
    "ta_pgd_targeted": (
        "pgd",
        ITERATED | {"step_size": 1 / 255, "random_start": False, "targeted": True},
    ),
    "ta_pgdl2": ("bim", {"eps": 1.0, "step_size": 0.2, "steps": 10, "norm": "l2"}),
    "ta_mifgsm": ("mim", ITERATED | {"decay": 1.0}),
}


@pytest.mark.parametrize(
    "case", full_but(TORCHATTACKS, ("ta_pgd", "ta_mifgsm", "ta_pgdl2"))
)
def test_torchattacks(golden, case):
    name, hyperparameters = TORCHATTACKS[case]
    data = golden.load(case)
    with jax.enable_x64(True):
        x = jnp.asarray(golden.nhwc(data["x"]), jnp.float64)
        y = jnp.asarray(data.get("y_target", data["y"]))
        attack = attacks.get(name, **hyperparameters)
        x_adv = np.asarray(attack(golden.net(data), x, y, None))
    chex.assert_type(x_adv, np.float64)
    stable = data["adv_stable64"]
    assert stable.sum() >= 12
    chex.assert_trees_all_close(
        x_adv[stable], golden.nhwc(data["adv"])[stable], rtol=0, atol=1e-6
    )


def test_torchattacks_in_float32(golden):
    data = golden.load("ta_pgd")
    net = golden.net(data)
    x, y = jnp.asarray(golden.nhwc(data["x"])), jnp.asarray(data["y"])
    x_adv = attacks.bim(net, x, y, **ITERATED)
    chex.assert_type(x_adv, jnp.float32)
    stable = data["adv_stable32"]
    expected = golden.nhwc(data["adv"])[stable]
    chex.assert_trees_all_close(np.asarray(x_adv)[stable], expected, rtol=0, atol=1e-5)


PCL = {
    "adv_fgsm": ("fgsm", {"eps": EPS}),
    "adv_bim": ("bim", {"eps": EPS, "step_size": EPS / 5, "steps": 5}),
    "adv_mim": ("mim", {"eps": EPS, "step_size": EPS / 5, "steps": 5}),
    "adv_pgd": ("bim", {"eps": EPS, "step_size": 2 / 255, "steps": 5}),
}


@pytest.mark.parametrize("case", full_but(PCL, ("adv_fgsm",)))
def test_pcl(golden, case):
    name, hyperparameters = PCL[case]
    data = golden.load("pcl_attacks")
    with jax.enable_x64(True):
        x = jnp.asarray(golden.nhwc(data["x_pix"]), jnp.float64)
        attack = attacks.get(name, **hyperparameters)
        x_adv = attack(pcl_net(data), x, jnp.asarray(data["labels"]), None)
    chex.assert_trees_all_close(
        np.asarray(x_adv), golden.nhwc(data[case]), rtol=0, atol=1e-6
    )


SSC_INF = {"eps": 0.03, "step_size": 0.0078, "steps": 8}
SSC_L2 = {"eps": 0.5, "step_size": 0.15, "steps": 8, "norm": "l2"}
SSC = {
    "fgsm_inf": ("fgsm", {"eps": 0.03}),
    "fgsm_l2": ("fgsm", {"eps": 0.5, "norm": "l2"}),
    "mim_inf": ("mim", SSC_INF | {"decay": 0.9}),
    "mim_l2": ("mim", SSC_L2 | {"decay": 0.9}),
}


@pytest.mark.parametrize("case", full_but(SSC, ("fgsm_l2", "mim_inf")))
def test_ssc(golden, case):
    name, hyperparameters = SSC[case]
    data = golden.load("ssc_attacks")
    with jax.enable_x64(True):
        x = jnp.asarray(golden.nhwc(data["x"]), jnp.float64)
        attack = attacks.get(name, **hyperparameters)
        x_adv = attack(golden.net(data), x, jnp.asarray(data["y"]), None)
    chex.assert_trees_all_close(
        np.asarray(x_adv), golden.nhwc(data[case]), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("precise", [True, False])
def test_projections(golden, precise):
    """AutoAttack's projections: L1 of ball and box, and its Linf and L2 expressions."""
    data = golden.load("aa_projections")
    suffix, dtype, atol = ("64", "float64", 1e-9) if precise else ("", "float32", 1e-5)
    radii = {"l1": (1.0, 4.0, 12.0), "l2": (0.3, 2.0), "linf": (0.05, 0.4)}
    project = {
        norm: jax.jit(
            lambda p, x, eps, norm=norm: threat.project(p, x, eps=eps, norm=norm)
        )
        for norm in radii
    }
    with jax.enable_x64(precise):
        x, moved = jnp.asarray(data["x"], dtype), jnp.asarray(data["d"], dtype)
        for norm, each in radii.items():
            for i, eps in enumerate(each):
                point = project[norm](x + moved, x, eps)
                if norm == "l1":
                    expected = data[f"l1_{i}/delta{suffix}"] + data["x"] + data["d"]
                else:
                    expected = data[f"{norm}_{i}/point{suffix}"]
                chex.assert_trees_all_close(point, expected, rtol=1e-7, atol=atol)
