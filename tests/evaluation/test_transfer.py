"""Transfer attacks: made on one network, shown to another."""

import sys
import types

import numpy as np
import pytest

from jaxrobust import checkpoints, evaluation
from jaxrobust.attacks import registry
from jaxrobust.evaluation import suite, transfer
from jaxrobust.training import check
from jaxrobust.training import config as common

EPS = 0.1
ENTRY = {"name": "transfer", "attack": "fgsm", "norm": "linf", "eps": "0.1"}


@pytest.fixture
def source(linear, tmp_path, monkeypatch):
    """The work directory of another linear network."""
    module = types.SimpleNamespace(build=linear.Linear)
    monkeypatch.setitem(sys.modules, "toy_networks", module)
    folder = tmp_path / "source"
    save(folder, linear.variables_of(7))
    return folder


def save(folder, variables, **fields):
    model = {"name": "toy_networks:build", **fields}
    checkpoints.save_variables(folder, variables, {"model": model})


def run(linear, folder, **changes):
    return evaluation.evaluate(
        linear.model,
        linear.variables,
        {**linear.make_config(**changes), "model": {"name": "toy_networks:build"}},
        folder,
        dataset=linear.dataset,
    )


def test_images_come_from_the_source_and_are_judged_by_the_target(
    linear, source, tmp_path
):
    attacks = {"own": {"name": "fgsm", "eps": "0.1"}, "other": dict(ENTRY)}
    found = run(linear, tmp_path, attacks=attacks, transfer_from=str(source))
    w = linear.variables["params"]["w"]
    moved = EPS * (w * np.sign(linear.variables_of(7)["params"]["w"])).sum()
    own, other = found["attacks"]
    assert other["robust_accuracy"] == pytest.approx((linear.margin > moved).mean())
    assert other["robust_accuracy"] > own["robust_accuracy"]
    assert (other["name"], other["attack"]) == ("transfer", "fgsm")
    assert other["source"] == str(source)
    assert other["mean_perturbation"]["linf"] == pytest.approx(EPS, rel=1e-5)
    assert found["worst_case"]["attacks"] == ["own", "other"]


def test_a_source_that_does_not_fit_is_named_before_any_work(linear, source, tmp_path):
    nowhere = {"t": {**ENTRY, "source": str(tmp_path / "nowhere")}}
    with pytest.raises(ValueError, match=r"attack 't' transfers from .*nowhere"):
        run(linear, tmp_path, attacks=nowhere)
    save(tmp_path / "large", linear.variables_of(0, (5, 5, 1)))
    with pytest.raises(ValueError, match="does not take the 3x3x1 images of toy"):
        run(linear, tmp_path, attacks={"t": {**ENTRY, "source": tmp_path / "large"}})
    save(tmp_path / "three", linear.variables_of(0), classes=3)
    with pytest.raises(ValueError, match="has 3 classes, the attacked one 2"):
        run(linear, tmp_path, attacks={"t": {**ENTRY, "source": tmp_path / "three"}})
    assert not (tmp_path / "results.json").exists()
    (entry,) = suite.read({"t": {**ENTRY, "source": "x"}})
    with pytest.raises(ValueError, match="'x' is not loaded"):
        entry.prepare(None)


def test_several_sources_are_attacked_as_their_mean(linear, source, tmp_path):
    save(tmp_path / "other", linear.variables_of(8))
    both = f"[{source}, {tmp_path / 'other'}]"
    entry = {**ENTRY, "source": [str(source), str(tmp_path / "other")]}
    of = {"logits": dict(ENTRY), "probabilities": {**entry, "mean": "probabilities"}}
    found = run(linear, tmp_path / "run", attacks=of, transfer_from=both)
    w = linear.variables["params"]["w"]
    sources = [linear.variables_of(seed)["params"]["w"] for seed in (7, 8)]
    moved = EPS * (w * np.sign(sum(sources))).sum()
    logits, probabilities = found["attacks"]
    left = (linear.margin > moved).mean()
    assert logits["robust_accuracy"] == pytest.approx(left)
    assert (logits["source"], logits["mean"]) == (both, "logits")
    assert (probabilities["source"], probabilities["mean"]) == (both, "probabilities")
    nowhere = {"t": {**ENTRY, "source": f"[{source}, nowhere]"}}
    with pytest.raises(ValueError, match=r"'t' transfers from 'nowhere'"):
        run(linear, tmp_path, attacks=nowhere)
    with pytest.raises(ValueError, match=r"`mean` 'logit'|'logit'.*logits"):
        suite.read({"t": {**entry, "mean": "logit"}})


def test_the_suite_has_every_attack_that_is_meant_for_it():
    table = suite.get("transfer", data="cifar10")
    names = {name for name, of in registry.table().items() if of.transfers}
    assert {entry["attack"] for entry in table.values()} == names
    assert table["transfer_ti_dim"]["kernel"] == "gaussian"
    entries, pending = suite.chosen({"suite": "transfer", "transfer_from": "x"}, "")
    assert (len(entries), pending) == (len(names) + 1, [])


@pytest.mark.parametrize("name", ["fpd2020", "pclc2021", "transfer"])
def test_protocols_wait_for_a_source(name):
    table = suite.get(name, data="mnist")
    wanted = {label for label, entry in table.items() if entry["name"] == "transfer"}
    _, pending = suite.chosen({"suite": name}, "mnist")
    waiting = {one.label: one.reason for one in pending if one.name == "transfer"}
    assert set(waiting) == wanted
    assert set(waiting.values()) == {transfer.NO_SOURCE}
    entries, pending = suite.chosen({"suite": name, "transfer_from": "x"}, "mnist")
    ready = {e.label for e in entries if isinstance(e, transfer.Transfer)}
    assert ready == wanted
    assert not {one.label for one in pending} & wanted


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"attack 't': transfer needs eval.transfer_"):
        suite.read({"t": ENTRY})
    with pytest.raises(ValueError, match="attack 't' of the suite has no `attack`"):
        suite.read({"t": {"name": "transfer", "eps": "1"}}, "x")
    with pytest.raises(ValueError, match=r"fgsn.*fgsm"):
        suite.read({"t": {**ENTRY, "attack": "fgsn"}}, "x")


def test_a_config_whose_source_is_missing_is_refused_unless_it_is_the_twin(source):
    config = common.base()
    config.eval.attacks = {"t": ENTRY}
    for place in (str(source), "runs/mine/twin"):
        config.eval.transfer_from = place
        config.twin = "" if place == str(source) else "standard"
        check.check(config.to_dict())
    config.twin = ""
    with pytest.raises(ValueError, match=r"'t' transfers from 'runs/mine/twin'"):
        check.check(config.to_dict())
