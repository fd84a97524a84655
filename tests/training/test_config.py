"""Config arguments and the config files."""

import importlib.util
import json
import pathlib

import pytest

from jaxrobust import models
from jaxrobust.evaluation.analyses import class_ranks
from jaxrobust.training import check
from jaxrobust.training import config as common

CONFIGS = sorted((pathlib.Path(__file__).parents[2] / "configs").glob("*.py"))


def test_argument():
    options = common.parse_arg("n=2,quick", {"n": 6, "quick": False, "block": "res"})
    assert options.to_dict() == {"n": 2, "quick": True, "block": "res"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("blok=res", "unknown config argument 'blok'.*Did you mean 'block'"),
        ("n=two", "`n` must be a whole number, got 'two'"),
        ("n=-3", "`n` must be a whole number, got '-3'"),
        ("n", "`n` needs a value"),
        ("quick=maybe", "`quick` must be true or false"),
    ],
)
def test_bad_argument_is_named(text, message):
    with pytest.raises(ValueError, match=message):
        common.parse_arg(text, {"n": 6, "quick": False, "block": "res"})


def load(path: pathlib.Path, arg: str | None):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(arg)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_is_plain_and_has_every_field(path):
    """Every field of the base is there with its type, and all of it is JSON."""
    for arg in (None, "quick"):
        config = load(path, arg)
        json.dumps(config.to_dict())
        for name, value in common.base().items():
            assert type(config[name]) is type(value), name
    assert "python -m jaxrobust.main --config" in path.read_text()


@pytest.mark.parametrize(
    "path", [p for p in CONFIGS if p.stem.startswith("ssp")], ids=lambda p: p.stem
)
def test_ssp_configs_pick_block_depth_and_attack(path):
    config = load(path, "block=ark,n=3,attack=none")
    assert config.model.integrator == "ark"
    assert config.model.blocks == 3
    assert config.objective.name == "standard"
    assert load(path, "budget=cpu").train.epochs <= 1
    with pytest.raises(ValueError, match="`budget` is cpu or left out, got 'gpu'"):
        load(path, "budget=gpu")


def test_a_range_of_radii_is_read_as_radii_are():
    config = common.base().to_dict()
    config["objective"] |= {"name": "pcl_adversarial", "eps_range": ("4/255", "a")}
    with pytest.raises(ValueError, match=r"`objective\.eps_range`.*'8/255', got 'a'"):
        check.make_defense(config, models.create("pcl_resnet", depth=8))
    config["objective"]["eps_range"] = ["4/255", 0.1]
    check.make_defense(config, models.create("pcl_resnet", depth=8))


def test_counts_of_the_diagnostics_are_checked():
    config = common.base().to_dict()
    config["eval"]["diagnostics"]["queries"] = -1
    with pytest.raises(ValueError, match=r"`eval\.diagnostics\.queries` .* got -1"):
        check.check(config)


@pytest.mark.parametrize(("eps", "grid"), [("0.3", "0.15"), ("8/255", "4/255")])
def test_the_grid_of_the_analyses_follows_the_radius(eps, grid):
    config = common.base()
    common.use_radius(config, eps, "0.01", steps=2)
    assert config.eval.analysis.eps[1:3] == [grid, eps]
    class_ranks.read_eps(config.eval.analysis)
