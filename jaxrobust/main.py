"""The program: `python -m jaxrobust.main --config configs/x.py[:argument] ...`.

Trains (or resumes) the network that a config describes, attacks it and writes a report.
"""

import hashlib
import os
import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import jax
from absl import app, flags, logging
from jax.sharding import Mesh
from ml_collections import ConfigDict, config_flags

from jaxrobust import checkpoints, evaluation, parallel, report
from jaxrobust.training import loop, workdir
from jaxrobust.training.progress import StageProgress

MODES = ("train_eval", "train", "eval", "report")
CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, with an optional `:argument`.", lock_config=True
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where results go; runs/<config> by default. Run again to resume."
)
MODE = flags.DEFINE_enum("mode", "train_eval", MODES, "What to do.")
CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    None,
    "What to evaluate: best_robust (the default), best_clean (the default after plain "
    "training), last, or the path of a work directory or checkpoint.",
)
CACHE = flags.DEFINE_string(
    "compilation_cache",
    os.environ.get("JAX_COMPILATION_CACHE_DIR")
    or os.path.join(
        os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "jaxrobust"
    ),
    "Where compiled programs are kept between runs; empty turns that off.",
)
VERBOSE = flags.DEFINE_bool("traceback", False, "Show the traceback of an error.")


def default_workdir(path: str, overrides: dict[str, Any]) -> str:
    """Names a work directory after the config, so that the same command resumes.

    Args:
      path: what was given as --config.
      overrides: fields set by --config.field=value.
    """
    file, _, argument = path.partition(":")
    name = pathlib.Path(file).stem
    if argument:
        name += "-" + "".join(c if c.isalnum() or c in "=.," else "_" for c in argument)
    if overrides:
        text = repr(sorted((k, str(v)) for k, v in overrides.items()))
        name += "-" + hashlib.sha256(text.encode()).hexdigest()[:8]
    return os.path.join("runs", name)


def twin_of(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the config of the network trained beside the main one."""
    twin = ConfigDict(config).to_dict()
    twin["objective"]["name"], twin["twin"] = config["twin"], ""
    twin["name"] = f"{config['name']} (twin: {config['twin']})"
    return twin


def run(config: dict[str, Any], folder: str, mode: str, checkpoint: str | None) -> None:
    """Trains and evaluates one network in one work directory."""
    mesh = parallel.make_mesh()
    if mode != "eval":
        workdir.write_config(folder, config, _command())
        loop.train(config, folder, mesh)
    if mode != "train":
        evaluate(config, folder, checkpoint, mesh)


def evaluate(
    config: dict[str, Any] | None, folder: str, checkpoint: str | None, mesh: Mesh
) -> None:
    """Attacks a checkpoint of `folder`, or the one at the path `checkpoint`.

    Without a config, the checkpoint's own is used.
    """
    plain = config is not None and config["objective"]["name"] == "standard"
    which = checkpoint or ("best_clean" if plain else "best_robust")
    source = folder
    if which not in checkpoints.WHICH:
        source, which = which, "best_robust"
    model, variables, saved = checkpoints.load(source, which)
    config = config or saved
    if source != folder:
        workdir.write_config(folder, config, _command())
    progress = StageProgress()
    evaluation.evaluate(
        model, variables, config, workdir=folder, mesh=mesh, progress=progress
    )
    progress.close()


def _command() -> str:
    return shlex.join(["python", "-m", "jaxrobust.main", *sys.argv[1:]])


def main(argv: Sequence[str]) -> None:
    """Reads the flags and dispatches; a mistake of the user's is told in a line."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}; flags start with --.")
    logging.set_verbosity(logging.WARNING)
    if CACHE.value:
        jax.config.update("jax_compilation_cache_dir", CACHE.value)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    try:
        config, folder = _read_flags()
        _dispatch(config, folder, MODE.value, CHECKPOINT.value)
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        if VERBOSE.value:
            raise
        sys.exit(f"{type(error).__name__}: {error}")


def _dispatch(
    config: dict[str, Any] | None, folder: str, mode: str, checkpoint: str | None
) -> None:
    if mode != "report":
        with workdir.locked(folder):
            if config is None:
                evaluate(None, folder, checkpoint, parallel.make_mesh())
            else:
                if config["twin"] and checkpoint in (None, *checkpoints.WHICH):
                    twin = os.path.join(folder, "twin")
                    run(twin_of(config), twin, mode, checkpoint)
                run(config, folder, mode, checkpoint)
    print(f"report: {report.write(folder)}")


def _read_flags() -> tuple[dict[str, Any] | None, str]:
    """Returns the config (None without --config) and the work directory."""
    if CONFIG.value is None:
        if MODE.value in ("train", "train_eval"):
            raise app.UsageError("--config is needed to train.")
        if not WORKDIR.value:
            raise app.UsageError("without --config, --workdir is needed.")
        return None, WORKDIR.value
    settings = CONFIG.value
    path = config_flags.get_config_filename(flags.FLAGS["config"])
    overrides = dict(config_flags.get_override_values(flags.FLAGS["config"]))
    settings.name = settings.name or pathlib.Path(path.partition(":")[0]).stem
    if settings.deterministic:  # read when the first device is used
        kernels = "--xla_gpu_deterministic_ops=true"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {kernels}"
    return settings.to_dict(), WORKDIR.value or default_workdir(path, overrides)


if __name__ == "__main__":
    app.run(main)
