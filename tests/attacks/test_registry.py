"""The table of attacks: what it says holds, and what reads it."""

import ast
import functools
import inspect
import json
import pathlib
import pickle
import re
import sys
import types
from typing import Annotated

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import attacks, data, defenses, named_code
from jaxrobust._checks import Range
from jaxrobust.attacks import registry
from jaxrobust.evaluation import attack_text, suite
from jaxrobust.training import fields
from jaxrobust.training.config import base
from tests.attacks.small import small
from tests.marks import full_but

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"
PACKAGE = DOCS.parent / "jaxrobust"
X = jax.random.uniform(jax.random.key(1), (1, 4, 4, 1))
W = jax.random.normal(jax.random.key(0), (16, 3))
NORMS = {"Linf": "linf", "L2": "l2", "L1": "l1", "L0": "l0", "L0-pixels": "l0_pixels"}


def shift(logits_fn, x, y, *, key=None, eps, steps: int = 1, tilt: float = 0.5):
    """An attack from outside."""
    del logits_fn, y, key
    return jnp.clip(x + eps * tilt * min(steps, 1), 0, 1)


def plain(model, *, attack, strength=1.0):
    """An objective from outside."""
    del attack, strength
    return defenses.standard(model)


def grey(split):
    """A data set from outside."""
    images = np.full((4 if split == "test" else 8, 8, 8, 1), 99, np.uint8)
    labels = np.arange(len(images), dtype=np.int32) % 2
    return data.Dataset(images, labels, ("a", "b"))


@pytest.fixture
def theirs(monkeypatch):
    module = types.ModuleType("their_code")
    module.shift, module.plain, module.grey = shift, plain, grey
    module.number = 3
    monkeypatch.setitem(sys.modules, "their_code", module)


# Of those whose costs are counted by one rule, one.
SHARING = (
    "admix",
    "bim",
    "dim",
    "mim",
    "mixed_pgd",
    "nim",
    "pixle",
    "sim",
    "vmim",
    "vnim",
)
CHEAP = [name for name in registry.table() if name not in SHARING]


@pytest.mark.parametrize("name", full_but(registry.table(), CHEAP))
def test_costs_are_what_is_asked_at_most(name):
    asked = []

    def counted(x):
        jax.debug.callback(lambda: asked.append(1))
        return x.reshape(len(x), -1) @ W

    y = jnp.argmax(X.reshape(1, -1) @ W, axis=1)
    options = small(name, 0.01)
    if name in registry.for_training():
        options["restarts"] = 3
    norm = registry.table()[name].norms[0]
    attack = attacks.get(name, eps=1e-6, norm=norm, **options)
    attack(counted, X, y, jax.random.key(3))
    jax.effects_barrier()
    told = registry.cost(name, classes=3, size=16, norm=norm, **options)
    # A call that looks at the clean logits first, another at the result.
    assert len(asked) <= sum(told) + 2
    # These end once they arrive, on a linear model at once.
    assert 0.4 * sum(told) - 2 <= len(asked) or name in ("deepfool", "sparsefool")


def test_the_page_says_what_the_table_does():
    (page,) = [
        p for p in DOCS.glob("*.md") if "| name | paper | norms" in p.read_text()
    ]
    told = {}
    for line in page.read_text().split("| name | paper | norms")[1].splitlines()[2:]:
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        for name in re.findall(r"`(\w+)`", cells[0]):
            told[name] = cells[2:]
    del told["targets"], told["ball"]
    assert told.keys() == registry.table().keys()
    words = {"gradient": "gradient", "scores": "logits", "decisions": "decisions"}
    for name, (norms, needs, goal) in told.items():
        of = registry.table()[name]
        assert {NORMS[n] for n in norms.split(";")[0].split()} == {*of.norms}, name
        assert words[of.access] in needs, name
        assert of.goal == goal, name


def _texts(node):
    return {c.value for c in node if isinstance(c, ast.Constant)}


def test_nothing_else_lists_attacks():
    """Code asks for a trait: it names no attack to compare with, nor several in a row.

    What a paper attacks or trains with, a table of options by name, is no such list.
    """
    names = {*registry.names(), registry.AUTOATTACK}
    names -= {"square", "patch", "ball", "msd"}  # a shape, a stem, a start, a mix
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            most, parts = 1, []
            if isinstance(node, ast.Compare):
                most, parts = 0, [node.left, *node.comparators]
            elif isinstance(node, ast.Tuple | ast.List | ast.Set):
                parts = node.elts
            if len(names & _texts(parts)) > most:
                found.append(f"{path}:{node.lineno}")
    papers = PACKAGE / "training" / "presets"
    assert not [line for line in found if not line.startswith(str(papers))]


def test_help_says_what_every_argument_is():
    """Also of those that an attack's own docstring leaves to `shares`."""
    for name, of in registry.table().items():
        text = of.function.__doc__ or ""
        for argument in ("logits_fn", "x", "y", "key", *registry.parameters(name)):
            assert f"\n  {argument}: " in text, f"{argument} of {name}"
        assert "\nReturns:\n" in text


def test_norms_are_those_that_the_attacks_take():
    y = jnp.zeros(1, jnp.int32)
    for name, of in registry.table().items():
        for norm in {*NORMS.values()} - {*of.norms}:
            attack = attacks.get(name, eps=0.1, norm=norm, **small(name, 0.1))
            with pytest.raises(ValueError, match="norm"):
                attack(lambda x: x.reshape(len(x), -1) @ W, X, y, jax.random.key(0))


def test_an_attack_from_outside(theirs):
    name = "their_code:shift"
    assert attacks.hyperparameters(name) == {"eps", "steps", "tilt"}
    x_adv = attacks.get(name, eps=0.1)(lambda x: x, X, None, None)
    chex.assert_trees_all_close(x_adv, jnp.clip(X + 0.05, 0, 1), rtol=1e-7)
    with pytest.raises(TypeError, match=r"Unknown hyperparameter `tlt`.*tilt"):
        attacks.get(name, eps=0.1, tlt=1)
    with pytest.raises(TypeError, match="needs eps"):
        attacks.get(name)
    [entry] = suite.read({"mine": {"name": name, "eps": "0.1", "tilt": 0.2}})
    assert entry.name == name
    table = attack_text.table([f"{name}:tilt=.25,steps=3", name], eps="1/10")
    assert table["shift"] | {"tilt": 0.25, "steps": 3, "eps": "1/10"} == table["shift"]
    assert table["shift_2"]["name"] == name
    config = base().to_dict()
    config["validation"]["attack"] = {"name": name, "eps": "0.1", "tilt": 0.1}
    assert not fields.problems(config)


def test_objectives_and_data_from_outside(theirs):
    config = base().to_dict()
    config["objective"] = {"name": "their_code:plain", "strength": 2.0}
    assert not fields.problems(config)
    assert (
        "objective.strong"
        in fields.problems(
            config | {"objective": {"name": "their_code:plain", "strong": 2.0}}
        )[0]
    )
    assert defenses.create("their_code:plain", None, {"attack": {}, "strength": 1.0})
    assert len(data.load("their_code:grey", "test")) == 4
    chex.assert_shape(data.load("their_code:grey", channels=3).images, (8, 8, 8, 3))


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (
            "no_such_code:shift",
            ValueError,
            "attack 'no_such_code:shift': module",
        ),
        ("their_code:shfit", ValueError, "has no 'shfit'. Did you mean 'shift'"),
        ("their_code:number", TypeError, "must be a function, and is int"),
        ("pgdd", ValueError, "Unknown attack 'pgdd'.*'pgd'"),
    ],
)
def test_what_is_not_there_is_told(theirs, name, error, message):
    with pytest.raises(error, match=message):
        attacks.get(name, eps=0.1)


@pytest.mark.parametrize(
    "config",
    [
        {"eval": {"attacks": {"mine": {"name": "their_code:shift"}}}},
        {
            "eval": {
                "attacks": {"t": {"name": "transfer", "attack": "their_code:shift"}}
            }
        },
        {"objective": {"name": "their_code:plain"}},
        {"objective": {"name": "their_code:Class.method"}},
        {"objective": {"name": "their_cod\u00e9:plain"}},
        {"log": {"writers": ["tensorboard", "their_code:writer"]}},
        {"objective": {"name": "pcl", "attack_name": "their_code:shift"}},
        {"validation": {"attack": {"name": "their_code:shift"}}},
        {"data": {"name": "their_code:grey"}},
        {"twin": "their_code:plain"},
    ],
)
def test_code_named_by_a_file_is_refused(config):
    with pytest.raises(ValueError, match=r"'their_cod.:.*code is not run"):
        named_code.refuse(config)


def test_what_a_checkpoint_returns_names_no_code():
    config = named_code.marked({"eval": {"attacks": {"t": {"name": "os:getcwd"}}}})
    name = config["eval"]["attacks"]["t"]["name"]
    assert json.loads(json.dumps(config))["eval"]["attacks"]["t"]["name"] == name
    with pytest.raises(ValueError, match="'os:getcwd' is code that a file names"):
        attacks.get(name)
    with pytest.raises(ValueError, match="write the name into the config yourself"):
        data.load(name, "test")


def test_a_files_own_data_and_names_of_ours_are_not():
    named_code.refuse({"data": {"name": "npz:digits"}, "model": {"name": "a:b"}})
    named_code.refuse(base().to_dict())


def test_every_attack_is_a_function_of_the_package():
    """And no module, as it is where `attacks/__init__.py` forgets it."""
    for name in registry.table():
        assert callable(getattr(attacks, name)), name


def test_an_attack_by_name_can_go_to_another_process():
    """As `multiprocessing` sends it."""
    attack = attacks.get("fgsm", eps=0.1)
    again = pickle.loads(pickle.dumps(attack))
    x, y = jnp.full((2, 2, 2, 1), 0.5), jnp.zeros(2, jnp.int32)

    def logits_fn(x):
        return jnp.concatenate([x.sum((1, 2)), -x.sum((1, 2))], axis=1)

    found, expected = (one(logits_fn, x, y, None) for one in (again, attack))
    chex.assert_trees_all_equal(found, expected)


def far(logits_fn, x, y, *, key=None, eps, beta: float = 3.0, samples: str = "all",
        share: Annotated[float | None, Range(0, 1)] = None):  # fmt: skip
    """Options named like some of ours that are something else."""
    del logits_fn, y, key, eps, beta, samples, share
    return x


def test_ranges_are_those_of_the_attack_itself(monkeypatch):
    module = types.ModuleType("their_code")
    module.far = far
    monkeypatch.setitem(sys.modules, "their_code", module)
    make = functools.partial(attacks.get, "their_code:far", eps=0.1)
    make(beta=3.0, samples="some", share=None)
    with pytest.raises(ValueError, match=r"`share` must be in \[0, 1\], got 2"):
        make(share=2)
    with pytest.raises(ValueError, match="`beta` must be finite"):
        make(beta=float("inf"))
    with pytest.raises(ValueError, match="`beta` must be above 0 and at most 1"):
        attacks.get("fab", eps=0.1, beta=3.0)


def test_signatures_show_ranges():
    assert "beta: Annotated[float, Range(0, 1, above=True)] = 0.9" in str(
        inspect.signature(attacks.fab)
    ).replace("typing.", "")
