"""Asserts who may import whom inside `jaxrobust`, by reading the source."""

import ast
import collections
import pathlib
import re

import pytest

PACKAGE = "jaxrobust"
ROOT = pathlib.Path(__file__).resolve().parents[1] / PACKAGE

# A part may import the parts listed for it, and itself. `main` may import any.
BASE = {"array_types", "_checks"}
PURE = {
    "array_types": set(),
    "named_code": {"_checks"},
    "_checks": {"array_types"},
    "threat": BASE | {"_shards"},
    "_conv": set(),
    "_shards": set(),
    "models": BASE | {"_conv"},
    "losses": BASE,
    "attacks": BASE | {"_shards", "named_code", "threat", "losses"},
    "corruptions": BASE,
    "certify": BASE | {"_conv", "_shards", "threat", "losses", "attacks"},
    "preprocessing": BASE | {"attacks", "corruptions"},
    "analysis": BASE | {"threat", "losses"},
    "defenses": BASE
    | {"named_code", "threat", "models", "losses", "attacks"}
    | {"certify"},
}
LIBRARY = set(PURE)
SHARED = {
    "runtime",
    "results",
    "named_models",
    "checkpoints",
    "convert",
    "zoo",
    "data",
    "parallel",
}
PROGRAM = {
    "runtime": set(),
    "results": {"array_types", "runtime"},
    "parallel": {"array_types", "runtime"},
    "named_models": {"array_types", "models", "named_code", "runtime"},
    "zoo": BASE | {"data", "named_code", "named_models", "results", "runtime"},
    "checkpoints": {
        "array_types",
        "defenses",
        "named_code",
        "named_models",
        "runtime",
        "parallel",
        "zoo",
    },
    "convert": BASE | {"models", "runtime"},
    # A program, which writes a checkpoint.
    "convert/__main__": BASE | {"models", "runtime", "checkpoints"},
    "data": BASE | {"named_code", "runtime", "parallel", "threat"},
    "evaluation": LIBRARY | SHARED,
    "training": LIBRARY | SHARED | {"evaluation"},
    "bridges": BASE | {"losses", "evaluation"},
    "report": {"array_types", "attacks", "results", "runtime"},
    "main": LIBRARY | SHARED | {"training", "evaluation", "report"},
    "cli": {"_checks"},
    "compare": {"results", "evaluation", "report", "runtime"},
    "sweep": {"training", "runtime"},
    "doctor": {"data", "runtime"},
    # Weights of others: conversion itself knows neither checkpoints nor the zoo.
    "zoo/leaderboard": {"_checks", "array_types", "models", "convert"},
    # Programs: they read a run and evaluate its network, or one of the zoo.
    "zoo/publish": SHARED
    | {"array_types", "attacks", "defenses", "evaluation", "training"},
    "reproduce": SHARED | BASE | {"attacks", "evaluation", "report"},
    # A program like main: it evaluates and writes a report.
    "evaluation/__main__": LIBRARY | SHARED | {"evaluation", "report"},
}
PURE_THIRD_PARTY = {"chex", "flax", "jax", "jaxtyping", "numpy", "optax"}
STANDARD = {
    "collections",
    "contextlib",
    "dataclasses",
    "difflib",
    "enum",
    "functools",
    "hashlib",
    "heapq",
    "importlib",
    "inspect",
    "itertools",
    "math",
    "re",
    "statistics",
    "time",
    "types",
    "typing",
    "warnings",
    "weakref",
}


def imported_modules(path: pathlib.Path) -> set[str]:
    """Returns the dotted names that one file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: use absolute imports"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def violations(root: pathlib.Path) -> list[str]:
    """Returns one line per import that crosses the layers the wrong way."""
    allowed = PURE | PROGRAM
    found = []
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root).with_suffix("")
        part = str(place) if str(place) in allowed else place.parts[0]
        if part == "__init__":
            continue
        if part not in allowed:
            found.append(f"{path.relative_to(root)}: `{part}` has no layer")
            continue
        for name in sorted(imported_modules(path)):
            head, *rest = name.split(".")
            if head == PACKAGE:
                target = rest[0] if rest else ""
                # The version is the one name that is no part.
                own = {place.parts[0], "__version__"}
                if target not in own and target not in allowed[part]:
                    found.append(f"{path.relative_to(root)}: `{part}` imports {name}")
            elif part in PURE and head not in PURE_THIRD_PARTY | STANDARD:
                found.append(f"{path.relative_to(root)}: pure code imports {name}")
    return found


def private_imports(root: pathlib.Path) -> list[str]:
    """Returns one line per import of another package's underscore module or name.

    `jaxrobust/_*.py` are for all.
    """
    found = []
    for path in sorted(root.rglob("*.py")):
        here = path.parent.relative_to(root).parts
        for name in sorted(imported_modules(path)):
            package, *parts = name.split(".")
            hidden = [bool(re.match("_[^_]", part)) for part in parts]
            if package != PACKAGE or True not in hidden:
                continue
            owner = parts[: hidden.index(True)]
            if owner and root.joinpath(*owner).with_suffix(".py").is_file():
                owner.pop()  # a name in a file of the package
            if here[: len(owner)] != tuple(owner):
                found.append(f"{path.relative_to(root)}: imports {name}")
    return found


def test_layers():
    """No file imports upwards, and pure code imports no program library."""
    assert not violations(ROOT), "\n".join(violations(ROOT))


def test_packages_keep_their_private_modules_to_themselves(tmp_path):
    assert not private_imports(ROOT), "\n".join(private_imports(ROOT))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "net.py").write_text("")
    (tmp_path / "models" / "_own.py").write_text(
        "from jaxrobust import _checks\nfrom jaxrobust.models._more import thing"
    )
    assert not private_imports(tmp_path)
    for wrong in ("models._own import f", "models import _own", "models.net import _f"):
        (tmp_path / "main.py").write_text(f"from jaxrobust.{wrong}")
        assert len(private_imports(tmp_path)) == 1


# What a loop of an attack carries.
SHARED_NAMES = {"Carry"}


def test_a_class_name_means_one_thing():
    trees = (ast.parse(path.read_text()) for path in ROOT.rglob("*.py"))
    found = collections.Counter(
        node.name
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    )
    assert {name for name, count in found.items() if count > 1} == SHARED_NAMES


WRONG = {
    "losses/ce.py": "from jaxrobust.attacks import pgd",
    "attacks/deep.py": "import jaxrobust.models.ssp",
    "attacks/lazy.py": "def f():\n    from jaxrobust import evaluation",
    "threat.py": "import os.path",
    "models/net.py": "from tensorflow_datasets import builder",
    "report/page.py": "from jaxrobust import models",
    "runtime/files.py": "from jaxrobust.parallel import processes",
    "results/schema.py": "from jaxrobust.evaluation import step",
    "training/loop.py": "from jaxrobust.report import write",
    "helpers.py": "import jax",
}


@pytest.mark.parametrize("place", WRONG)
def test_a_wrong_import_is_found(place, tmp_path):
    file = tmp_path / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(WRONG[place])
    (line,) = violations(tmp_path)
    assert line.startswith(place)


def test_a_right_import_is_not(tmp_path):
    (tmp_path / "attacks").mkdir()
    source = "import jax\nfrom jaxrobust import threat\nfrom jaxrobust.losses import ce"
    (tmp_path / "attacks" / "new.py").write_text(source)
    assert violations(tmp_path) == []


def test_relative_imports_are_refused(tmp_path):
    (tmp_path / "threat.py").write_text("from . import array_types")
    with pytest.raises(AssertionError, match="absolute"):
        violations(tmp_path)


def test_only_checkpoints_imports_orbax():
    users = {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        if any(name.startswith("orbax") for name in imported_modules(path))
    }
    assert users <= {"checkpoints/checkpointer.py", "checkpoints/stored.py"}


def test_only_parallel_fetches_in_the_program():
    """Elsewhere a fetch would fail where an array lies on several processes."""
    for part in ("training", "evaluation"):
        for path in (ROOT / part).rglob("*.py"):
            assert "device_get" not in path.read_text(), f"{path}: use parallel.to_host"
