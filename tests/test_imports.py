"""What `import jaxrobust` brings along, and what it says of itself."""

import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

import jaxrobust

HEAVY = (
    "grain",
    "matplotlib",
    "orbax",
    "scipy",
    "sklearn",
    "tensorboardX",
    "tensorflow",
    "tensorflow_datasets",
    "torch",
)


@pytest.mark.parametrize("name", ["jaxrobust", "jaxrobust.evaluation"])
def test_the_library_is_light(name):
    """Nobody waits for plots, readers and checkpoints to attack a function."""
    code = f"import sys, {name}; print(*(m for m in {HEAVY} if m in sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not run.returncode, run.stderr
    assert run.stdout.split() == []


def test_the_version_is_said_once():
    assert re.fullmatch(r"\d+\.\d+\.\d+", jaxrobust.__version__)
    root = pathlib.Path(__file__).resolve().parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "jaxrobust/__init__.py"
