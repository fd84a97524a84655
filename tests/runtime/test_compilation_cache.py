"""Where both command lines keep compiled programs."""

import os
import subprocess
import sys

import jax
import pytest

from jaxrobust.evaluation import __main__ as evaluation
from jaxrobust.runtime import compilation_cache
from tests.marks import full_but

NAMES = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")


@pytest.fixture(autouse=True)
def settings(monkeypatch, tmp_path):
    """A user's cache folder of the test's own; JAX's settings as they were after it."""
    before = {name: getattr(jax.config, name) for name in NAMES}
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def evaluate(*flags):
    """Runs the evaluation's command line up to a function that cannot be imported."""
    assert evaluation.main(["--model=nowhere:f", "--data=digits", *flags]) == 1
    return jax.config.jax_compilation_cache_dir


MAIN = """
import sys, jax
from absl import app
from jaxrobust import main
try:
    app.run(main.main, sys.argv, flags_parser=main._parse)
except SystemExit:
    print(jax.config.jax_compilation_cache_dir)
"""


def train(*flags):
    """Runs the training's command line up to a report of nothing."""
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "--mode=report", "--workdir=nowhere", *flags],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("program", [evaluate, train])
def test_on_by_default_in_the_users_cache(program, tmp_path):
    assert program() == str(tmp_path / "user" / "jaxrobust")
    assert (tmp_path / "user" / "jaxrobust").is_dir()


def test_the_environment_wins_over_the_default(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "own"))
    assert evaluate() == str(tmp_path / "own")
    assert not (tmp_path / "user" / "jaxrobust").exists()


@pytest.mark.parametrize("program", full_but([evaluate, train], [evaluate]))
def test_an_empty_flag_turns_it_off(program, tmp_path, monkeypatch):
    """Over the environment's too, which JAX reads by itself."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "own"))
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    assert program("--compilation_cache=") in (None, "None")


def test_a_folder_that_cannot_be_written_is_told_and_left(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    compilation_cache.use(str(tmp_path / "file" / "cache"))
    assert jax.config.jax_compilation_cache_dir is None
    assert "file/cache cannot be written (NotADirectoryError" in caplog.text
    jax.block_until_ready(jax.jit(lambda x: x + 1)(1.0))
