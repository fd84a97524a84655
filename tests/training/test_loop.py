"""Runs of the loop on digits: early stopping, and a start from another run."""

import dataclasses

import chex
import pytest

from jaxrobust import checkpoints, parallel
from jaxrobust.results.files import read_metrics as read
from jaxrobust.training import config, loop, setup


def small(**train):
    """A run of two steps an epoch on a network of a few weights."""
    fields = config.base()
    config.shrink(fields)
    fields.model = {
        "name": "ssp_mnist",
        "integrator": "res",
        "blocks": 1,
        "width": 4,
        "norm": "g",
    }
    fields.objective.name = "standard"
    fields.train.update({"batch_size": 64, "validate_every_epochs": 1.0, **train})
    return fields.to_dict()


@pytest.mark.full
def test_early_stopping_ends_a_run_and_a_restart_leaves_it(tmp_path, monkeypatch):
    """At rate 1e-30 nothing improves after the first validation, and this is said."""
    said = []
    monkeypatch.setattr(
        loop.logging, "warning", lambda text, *args: said.append(text % args)
    )
    fields = small(epochs=50.0, early_stop=2)
    fields["optimizer"]["learning_rate"] = 1e-30
    for _ in range(2):
        loop.train(fields, tmp_path, parallel.make_mesh(1))
        validated = [
            row["step"]
            for row in read(tmp_path / "metrics.jsonl")
            if "validation/accuracy" in row
        ]
        assert validated == [2, 4, 6]
    told = "\n".join(map(str, said))  # a busy machine has warnings of its own, too
    nothing, stopped = map(told.index, ("learned nothing", "stopped early at step 6"))
    assert nothing < stopped


@pytest.mark.full  # test_start.py: to other classes, too
def test_a_run_starts_from_the_network_of_another(tmp_path):
    mesh = parallel.make_mesh(1)
    loop.train(small(epochs=1.0), tmp_path / "first", mesh)
    _, variables, _ = checkpoints.load(tmp_path / "first", "last")
    second = small(init_from=str(tmp_path / "first"))
    second["seed"] = 1
    started = setup.build(second, mesh).state
    chex.assert_trees_all_equal(started.variables["params"], variables["params"])
    loop.train(second, tmp_path / "second", mesh)
    (tmp_path / "first").rename(tmp_path / "gone")
    second["train"]["epochs"] = 2.0
    loop.train(second, tmp_path / "second", mesh)  # a resumed run needs it no more
    (tmp_path / "gone").rename(tmp_path / "first")
    second["model"]["width"] = 8
    with pytest.raises(ValueError, match=r"init_from.*first.*another architecture"):
        setup.build(second, mesh)


def test_plan_counts_in_steps():
    fields = small(epochs=0.5, validate_every_epochs=0.3)
    plan = setup.Plan.of(fields, 650)
    assert dataclasses.astuple(plan)[:2] == (10, 5)
    assert plan.validate == 3


def test_the_best_network_is_one_of_the_methods_own_phase(tmp_path, monkeypatch):
    """In the first phase PC-LC is cross-entropy alone, whatever validation says."""
    falling = iter([0.9, 0.5, 0.1])

    def validation(*_):
        names = ("accuracy", "robust_accuracy", "loss", "robust_loss")
        return lambda variables: dict.fromkeys(names, next(falling))

    monkeypatch.setattr(setup, "make_validation", validation)
    fields = small(epochs=3.0)
    fields["objective"].update(name="pc_lc", warmup_epochs=2.0)
    loop.train(fields, tmp_path, parallel.make_mesh(1))
    best, last = (
        checkpoints.load(tmp_path, which)[1]["params"]
        for which in ("best_robust", "last")
    )
    chex.assert_trees_all_equal(best, last)


def test_only_methods_with_two_phases_have_a_first_one():
    fields = small(epochs=3.0)
    fields["objective"]["warmup_epochs"] = 2.0
    for name, steps in {"pc_lc": 20, "pcl": 20, "standard": 0, "pgd": 0}.items():
        fields["objective"]["name"] = name
        assert setup.Plan.of(fields, 640).first_phase == steps
    fields["objective"].update(name="pc_lc", warmup_epochs=3.0)
    assert setup.Plan.of(fields, 640).first_phase == 0  # a run that ends there
