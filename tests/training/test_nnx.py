"""A network of NNX through the training program: trained, resumed, loaded, judged."""

import functools
import sys

import chex
import jax
import numpy as np
import pytest
from flax import nnx

from jaxrobust import checkpoints, evaluation, named_models, parallel
from jaxrobust.training import config, loop


class Net(nnx.Module):
    """Digits [B, H, W, 1] to logits [B, 10]."""

    def __init__(self, width, *, rngs):
        self.hidden = nnx.Linear(64, width, rngs=rngs)
        self.norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.out = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, x):
        h = nnx.relu(self.norm(self.hidden(x.reshape(len(x), -1))))
        return self.out(self.dropout(h))


NAME = f"{__name__}:Net"


def fields(epochs):
    one = config.base()
    config.shrink(one)
    one.data.image_size = 8
    one.data.train_examples = 800
    one.model = {"name": NAME, "width": 16, "blocks": 3}  # it knows of no blocks
    one.objective.name = "pgd"
    config.use_radius(one, "0.05", "0.02", steps=2)
    one.optimizer.learning_rate = 0.2
    one.train.update(
        {"batch_size": 64, "epochs": epochs, "validate_every_epochs": 2.0, "ema": 0.5}
    )
    one.eval.attacks = {"fgsm": {"name": "fgsm", "norm": "linf", "eps": "0.05"}}
    one.eval.batch_size = 200
    one.eval.diagnostics.enabled = False
    one.eval.curve.enabled = False
    one.eval.growth.enabled = False
    one.eval.analysis.enabled = False
    return one.to_dict()


def test_a_network_of_nnx_in_the_program(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Net.__module__])
    mesh = parallel.make_mesh(2)
    loop.train(fields(2.0), tmp_path / "run", mesh)
    extended = fields(4.0)
    extended["train"]["extend"] = True
    loop.train(extended, tmp_path / "run", mesh)
    model, variables, found = checkpoints.load(
        tmp_path / "run", "last", model_name=NAME
    )
    with pytest.raises(ValueError, match="which is code from outside"):
        checkpoints.load(tmp_path / "run", "last")
    assert model == named_models.create_model(extended)
    start = jax.jit(functools.partial(model.init, train=False))(
        jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32)
    )
    chex.assert_trees_all_equal_shapes(variables, start)
    assert np.abs(variables["batch_stats"]["norm"]["mean"]).max() > 0.1
    results = evaluation.evaluate(model, variables, found, tmp_path / "eval")
    robust = results["attacks"][0]["robust_accuracy"]
    assert 0.3 < robust < results["clean"]["accuracy"]
