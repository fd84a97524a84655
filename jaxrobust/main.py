"""The program: `python -m jaxrobust.main --config configs/x.py[:argument] ...`.

Trains (or resumes) the network that a config describes, attacks it and writes a report.
"""

import os
import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from jaxrobust import report
from jaxrobust.training import compilation_cache, config, program

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, with an optional `:argument`.", lock_config=True
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where results go; runs/<config> by default. Run again to resume."
)
MODE = flags.DEFINE_enum("mode", "train_eval", program.MODES, "What to do.")
CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    None,
    "What to evaluate: best_robust (the default), best_clean (the default after plain "
    "training), last, or the path of a work directory or checkpoint.",
)
CACHE = flags.DEFINE_string(
    "compilation_cache",
    compilation_cache.default_folder(),
    "Where compiled programs are kept between runs; empty turns that off.",
)
VERBOSE = flags.DEFINE_bool("traceback", False, "Show the traceback of an error.")


def main(argv: Sequence[str]) -> None:
    """Reads the flags and dispatches; a mistake of the user's is told in a line."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}; flags start with --.")
    logging.set_verbosity(logging.WARNING)
    compilation_cache.use(CACHE.value)
    try:
        settings, folder = _read_flags()
        if MODE.value != "report":
            command = shlex.join(["python", "-m", "jaxrobust.main", *sys.argv[1:]])
            program.run(settings, folder, MODE.value, CHECKPOINT.value, command)
        print(f"report: {report.write(folder)}")
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        if VERBOSE.value:
            raise
        sys.exit(f"{type(error).__name__}: {error}")


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
    return settings.to_dict(), WORKDIR.value or program.default_workdir(path, overrides)


def _parse(argv: list[str]) -> list[str]:
    """Parses flags; a config field that does not exist is told in a line."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        sys.exit(f"{error}\nTry --help.")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # The config flag reads its fields from sys.argv; without them it can be loaded.
        sys.argv = [a for a in argv if not a.startswith("--config.")]
        flags.FLAGS.unparse_flags()
        flags.FLAGS(sys.argv)
        unknown = config.unknown_fields(CONFIG.value, argv)
        sys.exit(unknown or f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)
