"""Growth ratios as evaluation reports them, for stages with known gain."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import data, models
from jaxrobust.evaluation.analyses import growth
from jaxrobust.evaluation.setting import Setting


class Scaled(nn.Module):
    """Two stages that multiply by -3 and by 0.5."""

    @nn.compact
    def __call__(self, images, *, train=False):
        first, second = -3 * images, -1.5 * images
        features = {
            "stage1/in": images,
            "stage1/out": first,
            "stage2/in": first,
            "stage2/out": second,
        }
        score = second.sum((1, 2, 3))
        return models.Outputs(jnp.stack([score, -score], -1), features)


class Plain(nn.Module):
    """Logits alone."""

    @nn.compact
    def __call__(self, images, *, train=False):
        return images.reshape(len(images), -1)


def make_setting(model, mesh=None):
    images = np.random.default_rng(0).integers(60, 190, (13, 2, 2, 1), np.uint8)
    return Setting(
        model=model,
        variables={},
        dataset=data.Dataset(images, np.zeros(13, np.int32), ("a", "b")),
        indices=np.arange(13),
        key=jax.random.key(0),
        batch_size=4,
        mesh=mesh,
        precision="highest",
        progress=None,
    )


FIELDS = {"eps": "8/255", "step_size": "2/255", "steps": 3}


def test_gain_of_each_stage():
    found = growth.measure(make_setting(Scaled()), FIELDS)
    assert found.stages == ["stage1", "stage2"]
    assert found.l1 == pytest.approx([3, 0.5], rel=1e-5)
    assert found.l2 == pytest.approx([3, 0.5], rel=1e-5)
    assert found.images == [13, 13]
    assert found.n == 13
    assert found.eps_text == "8/255"


def test_networks_without_stages_have_no_growth():
    assert growth.measure(make_setting(Plain()), FIELDS) is None
