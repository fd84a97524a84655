"""Fields of a config set by `--config.a.b=value`."""

import hypothesis
import hypothesis.strategies as st
import pytest
from ml_collections import ConfigDict, config_dict

from jaxrobust.training import config as common
from jaxrobust.training import overrides


def small():
    return ConfigDict(
        {
            "flag": False,
            "count": 3,
            "rate": 0.1,
            "name": "a",
            "nothing": None,
            "held": config_dict.placeholder(float),
            "eps": "8/255",
            "radii": {"eps": [0, 0.03], "step_size": 1},
            "numbers": (1.0, 2.0),
            "counts": [1, 2],
            "mixed": (1, 2.5),
            "names": ["a"],
            "empty": (),
            "nested": {"deep": {"x": 1}},
            "pairs": ((1, 2),),
            "odd": {1, 2},
            "model": {"name": "lenet5"},
            "eval": {"attacks": {"fgsm": {"name": "fgsm"}}},
        }
    )


def setting(*argv):
    config = small()
    rest, found = overrides.split(argv)
    assert not rest
    return config, overrides.apply(config, found)


@pytest.mark.parametrize(
    ("argument", "field", "value"),
    [
        ("--config.flag", "flag", True),
        ("--config.flag=True", "flag", True),
        ("--config.flag=0", "flag", False),
        ("--noconfig.flag", "flag", False),
        ("--config.count=-7", "count", -7),
        ("--config.rate=1/4", "rate", 0.25),
        ("--config.rate=1e-3", "rate", 1e-3),
        ("--config.name=8/255,x=1", "name", "8/255,x=1"),
        ("--config.name=", "name", ""),
        ("--config.nothing=none", "nothing", None),
        ("--config.nothing=2", "nothing", 2),
        ("--config.nothing=[1,2]", "nothing", [1, 2]),
        ("--config.nothing=ssp2", "nothing", "ssp2"),
        ("--config.held=6", "held", 6.0),
        ("--config.held=none", "held", None),
        ("--config.eps=4/255", "eps", "4/255"),
        ("--config.radii.eps=0,8/255", "radii.eps", ["0", "8/255"]),
        ("--config.radii.step_size=.5", "radii.step_size", ".5"),
        ("--config.numbers=3", "numbers", (3.0,)),
        ("--config.numbers=(3, 1/2)", "numbers", (3.0, 0.5)),
        ("--config.numbers=", "numbers", ()),
        ("--config.numbers=[]", "numbers", ()),
        ("--config.counts=[5,6]", "counts", [5, 6]),
        ("--config.counts=5,", "counts", [5]),
        ("--config.mixed=5,0.5", "mixed", (5.0, 0.5)),
        ("--config.names=b, c", "names", ["b", "c"]),
        ("--config.names='b,c','d'", "names", ["b,c", "d"]),
        ("--config.names=[1, 0.5]", "names", ["1", "0.5"]),
        ("--config.empty=fog,2,0.5", "empty", ("fog", 2, 0.5)),
        ("--config.nested.deep.x=2", "nested.deep.x", 2),
        ("--config.pairs=(3,4),(5,6)", "pairs", ((3, 4), (5, 6))),
        ("--config.model={'name':'vgg'}", "model", ConfigDict({"name": "vgg"})),
    ],
)
def test_every_kind_of_field_can_be_set(argument, field, value):
    config, values = setting(argument)
    got = config
    for name in field.split("."):
        got = got[name]
    assert (got, values) == (value, {field: value})
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("mean=0.5", (0.5,)),
        ("std=1/4,0.5", (0.25, 0.5)),
        ("mean=(0.1, 0.2)", (0.1, 0.2)),
        ("pool=avg", "avg"),
        ("num_classes=7", 7),
    ],
)
def test_what_the_network_takes_can_be_set_too(argument, value):
    field = argument.partition("=")[0]
    config, values = setting(f"--config.model.{argument}")
    assert config.model[field] == value == values[f"model.{field}"]
    assert type(config.model[field]) is type(value)


def test_what_another_network_takes_can_be_set_with_its_name():
    setting("--config.model.depth=11", "--config.model.name=vgg")
    for name in ("lenet5", "of_nobody"):
        with pytest.raises(ValueError, match=r"no field 'model\.depth'"):
            setting("--config.model.depth=11", f"--config.model.name={name}")
    with pytest.raises(ValueError, match=r"'model\.men'. Did you mean 'model\.mean'"):
        setting("--config.model.men=0.5")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("(0.02, 0.05)", (0.02, 0.05)),
        ("[0.02,1/20]", (0.02, 0.05)),
        ("0.02,0.06", ("0.02", "0.06")),
    ],
)
def test_radii_as_the_config_writes_them_are_the_same(text, value):
    config = common.base()
    config.objective.eps_range = (0.02, 0.05)
    with config.ignore_type():
        config.attack.eps = 0.3
    given = [f"--config.objective.eps_range={text}", "--config.attack.eps=0.3"]
    overrides.apply(config, overrides.split(given)[1])
    assert (config.objective.eps_range, config.attack.eps) == (value, 0.3)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.flag=maybe", "--config.flag must be true or false, got 'maybe'"),
        ("--config.count=1.0", "a whole number, got '1.0'"),
        ("--config.count=" + "9" * 5000, "a whole number, got '999"),
        ("--config.count", "needs a value: --config.count=VALUE"),
        ("--config.rate=nan", "a number, got 'nan'"),
        ("--config.rate=1/0", "a number, got '1/0'"),
        ("--config.held=x\ny", r"a number, got 'x\ny'"),
        ("--config.numbers=1,,2", "items separated by commas, got '1,,2'"),
        ("--config.counts=1,2.5", "every item is a whole number, got '2.5'"),
        ("--config.odd=1", "set in the config file: it is of the kind set"),
        ("--config.nam=1", "no field 'nam'. Did you mean 'name'"),
        ("--config.nested.deep.y=1", "Did you mean 'nested.deep.x'"),
        ("--config.count.x=1", "no field 'count.x'. Did you mean 'count'"),
        ("--config.__class__=1", "no field '__class__'"),
        ("--config.=1", "no field ''"),
        ("--config.counts[0]=1", "no field 'counts[0]'. Did you mean 'counts'"),
        ("--config.nested=1", "is a table: set its fields, as in --config.nested.deep"),
        ("--config.model=lenet5", "is a table: set one of its fields"),
        ("--config.model=[1]", "is a table: set one of its fields"),
        ("--config.eval.attacks={}", "--attack NAME:option=value"),
    ],
)
def test_what_cannot_be_set_is_told_in_a_line(argument, message):
    with pytest.raises(ValueError, match=r".") as caught:
        setting(argument)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_arguments_are_told_apart():
    line = "--mode=eval --config.a 1 --config.b -2 --config.c --config=f -config.d=x=y"
    rest, found = overrides.split([*line.split(), "--conf.e=1", "--", "--config.f=1"])
    assert rest == [
        "--mode=eval",
        "--config=f",
        "--conf.e=1",
        "--",
        "--config.f=1",
    ]
    assert found == [("a", "1"), ("b", "-2"), ("c", None), ("d", "x=y")]
    again, same = overrides.split([overrides.written(one) for one in found])
    assert (again, same) == ([], found)


def test_an_analysis_of_ones_own_can_be_named():
    config = common.base()
    text = "--config.eval.own_analyses={'mine': {'name': 'package.module:analysis'}}"
    overrides.apply(config, overrides.split([text])[1])
    assert config.eval.own_analyses.mine.name == "package.module:analysis"


def test_the_last_value_counts():
    config, values = setting("--config.counts=1", "--config.counts=2,3")
    assert config.counts == [2, 3] == values["counts"]


def leaves(table, prefix=""):
    for name, value in table.items():
        if isinstance(value, ConfigDict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


@pytest.mark.parametrize("field", list(leaves(common.base())))
def test_every_field_of_the_base_takes_its_own_value(field):
    """What a field is by default can be given as text, and is then the same."""
    config = common.base()
    before = config.to_dict()
    default = before
    for name in field.split("."):
        default = default[name]
    many = isinstance(default, list | tuple)
    text = ",".join(map(str, default)) if many else str(default)
    overrides.apply(config, [overrides.Override(field, text)])
    assert config.to_dict() == before


@hypothesis.given(st.sampled_from(sorted(leaves(small()))), st.text(max_size=40))
def test_any_text_is_taken_or_told(field, text):
    said = ""
    try:
        setting(f"--config.{field}={text}")
    except ValueError as error:
        said = str(error)
    assert "\n" not in said


def test_what_an_objective_takes_can_be_set_where_its_config_does_not_list_it():
    given = ["--config.objective.name=hat", "--config.objective.gamma=0.25"]
    config = common.base()
    values = overrides.apply(config, overrides.split(given)[1])
    assert values["objective.gamma"] == config.objective.gamma == 0.25
    given[0] = "--config.objective.name=trades"
    with pytest.raises(ValueError, match=r"no field 'objective.gamma'"):
        overrides.apply(common.base(), overrides.split(given)[1])
