"""AutoAttack against flags of the reference's own code on the same network."""

import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import evaluation, parallel
from tests.marks import full_but

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "golden"
EPS = {"Linf": 8 / 255, "L2": 0.5}


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """Off: here the programs run longer than they take to compile."""
    jax.config.update("jax_disable_most_optimizations", False)


def network(data):
    """The golden data's three tanh convolutions and a linear layer."""
    sd = {k[3:]: jnp.asarray(v) for k, v in data.items() if k.startswith("sd/")}

    def logits_fn(x):
        for i, stride in enumerate((1, 2, 2), 1):
            kernel = sd[f"conv{i}.weight"].transpose(2, 3, 1, 0)
            x = jax.lax.conv_general_dilated(
                x, kernel, (stride, stride), [(1, 1)] * 2,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )  # fmt: skip
            x = jnp.tanh(x + sd[f"conv{i}.bias"][None, None, None])
        flat = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
        return flat @ sd["fc.weight"].T + sd["fc.bias"][None]

    return logits_fn


@pytest.mark.parametrize(
    ("norm", "count"),
    full_but([("Linf", 18), ("Linf", 64), ("L2", 64)], [("Linf", 18)]),
)
def test_flags_of_the_reference(norm, count):
    """Of the first `count` of 64 images: a result is an image's own."""
    with np.load(GOLDEN / f"aa_standard_{norm}.npz") as found:
        data = dict(found)
    result = evaluation.autoattack(
        network(data),
        np.transpose(data["x"], (0, 2, 3, 1))[:count],
        data["y"][:count],
        key=jax.random.key(0),
        eps=EPS[norm],
        norm=norm.lower(),
        progress=False,
        mesh=parallel.make_mesh(1),
        slots=16,
    )
    reference = data["flags"][..., :count]  # [seed, stage, image], clean first
    chex.assert_trees_all_equal(result.clean, reference[0, 0])
    assert 0.2 < reference[0, -1].mean() < 0.8
    assert data["final_flag_stable"].all()
    assert (result.robust != reference[0, -1]).sum() <= 1
    assert result.robust.sum() <= reference[:, -1].sum(1).max()
    # Starts are other draws, so images may fall a stage earlier or later.
    after = [stage.robust.mean() for stage in result.stages]
    expected = reference[:, 1:].mean((0, 2))
    atol = 3 / 64 if count == 64 else 2 / count
    chex.assert_trees_all_close(np.asarray(after), expected, rtol=0, atol=atol)
    assert result.flags == []
