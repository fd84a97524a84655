"""The program: `python -m jaxrobust.main --config configs/x.py[:argument] ...`.

Trains (or resumes) the network that a config describes, attacks it and writes a report.
"""

import errno
import os
import pathlib
import shlex
import signal
import sys
import traceback
from collections.abc import Sequence
from logging import LogRecord
from typing import Any

from absl import app, flags, logging
from flax.errors import FlaxError

from jaxrobust import report, zoo
from jaxrobust.evaluation import analyses
from jaxrobust.parallel import processes, watch
from jaxrobust.runtime import caches, cpu
from jaxrobust.training import config_file, overrides, preemption, program

CONFIG = flags.DEFINE_string(
    "config",
    None,
    "Config file, or the name of one of ours, with an optional `:argument`. "
    "--config.a.b=VALUE sets a field of it; items of lists are separated by commas.",
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where results go; runs/<config> by default. Run again to resume."
)
MODE = flags.DEFINE_enum("mode", "train_eval", program.MODES, "What to do.")
CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    None,
    "What to evaluate: best_robust (the default), best_clean (the default after plain "
    "training), last, the path of a work directory or checkpoint, or zoo:NAME.",
)
ATTACK = flags.DEFINE_multi_string(
    "attack",
    [],
    "NAME:option=value,... such as pgd:eps=8/255,steps=50,loss=margin: evaluate with "
    "this attack in place of those of the config; repeat it for more.",
)
FORMAT = flags.DEFINE_enum(
    "format",
    "html",
    ("html", *report.FORMS),
    "Of --mode=report: the page, or a summary that is printed.",
)
CACHE = flags.DEFINE_string("compilation_cache", None, caches.HELP)
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "Of several processes: HOST:PORT of process 0."
)
PROCESSES = flags.DEFINE_integer("processes", None, "How many there are.")
PROCESS = flags.DEFINE_integer("process", None, "Which one this is, from 0.")
DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    None,
    "Detect the other processes (TPU VM, SLURM, Open MPI); by default where a launcher "
    "started several.",
)
# The names that jax.distributed.initialize has for them.
flags.DEFINE_alias("coordinator_address", "coordinator")
flags.DEFINE_alias("num_processes", "processes")
flags.DEFINE_alias("process_id", "process")
# Mistakes and faults that a line says all about.
_TOLD = (
    *(ValueError, TypeError, KeyError, OSError, FloatingPointError, MemoryError),
    ImportError,  # what is not installed, such as the client of a bucket
    FlaxError,  # of a network of the caller's own
)
VERBOSE = flags.DEFINE_bool("traceback", False, "Show the traceback of an error.")


def main(argv: Sequence[str]) -> None:
    """Reads the flags and dispatches; a mistake of the user's is told in a line."""
    logging.set_verbosity(logging.WARNING)
    if not VERBOSE.value:
        logging.get_absl_handler().addFilter(_shown)
    cpu.tune_cpu()
    caches.keep_programs(CACHE.value)
    preemption.end_in_words()
    try:
        _run(argv[1:])
    except BaseException as error:
        status, text = _told(error)
        if processes.joined() and not isinstance(error, preemption.Stopped):
            sys.stderr.write(f"{text or traceback.format_exc()}\n")
            watch.fail(error)
            sys.stderr.flush()
            os._exit(status)  # an orderly end would wait for the others
        if text is None:
            raise
        print(text, file=sys.stderr)
        sys.exit(status)


def _run(arguments: Sequence[str]) -> None:
    settings, folder, fields = _read_flags(arguments)
    if MODE.value == "report":
        if FORMAT.value == "html":
            print(f"report: {report.write(folder, _figures(settings))}")
        else:
            report.tell(report.summary(folder, FORMAT.value).rstrip())
        return
    command = shlex.join(["python", "-m", "jaxrobust.main", *sys.argv[1:]])
    processes.start(
        COORDINATOR.value, PROCESSES.value, PROCESS.value, detect=DISTRIBUTED.value
    )
    stopped = None
    with watch.watched():
        try:
            mode, attacks = MODE.value, ATTACK.value
            run = settings, folder, mode, CHECKPOINT.value, command, attacks
            spent = program.run(*run, fields)
            if processes.is_lead():
                if mode != "train":
                    report.tell(f"\n{report.summary(folder)}")
                print(f"report: {report.write(folder, _figures(settings))}")
                parts = (f"{part} {seconds:.0f} s" for part, seconds in spent.items())
                print(f"time: {', '.join(parts)}")
            processes.wait("jaxrobust: the report is written")
        except preemption.Stopped as error:  # all processes do at the same step
            stopped = error
    if stopped is not None:
        raise stopped


def _figures(settings: dict[str, Any] | None) -> dict[str, Any]:
    """Returns what draws the analyses from outside; a stored config names none."""
    return analyses.figures(settings["eval"]) if settings else {}


def _told(error: BaseException) -> tuple[int, str | None]:
    """Returns the exit status and the line for an error; None asks for a traceback."""
    if isinstance(error, preemption.Stopped | preemption.Ended):
        return preemption.STATUS, str(error)
    if isinstance(error, KeyboardInterrupt):
        text = "interrupted; the same command goes on from the last checkpoint"
        return 128 + signal.SIGINT, text
    if isinstance(error, _TOLD) and not VERBOSE.value:
        first = error.__context__  # what came before a save that failed on the way out
        before = f"{first}\n" if isinstance(first, FloatingPointError) else ""
        return 1, f"{before}{type(error).__name__}: {error}{_hint(error)}"
    return 1, None


def _hint(error: Exception) -> str:
    """Says what to do about a disk; other errors say it themselves."""
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ". Make room there; the same command goes on from the last checkpoint."
    if number in (errno.EROFS, errno.EACCES, errno.EPERM):
        return ". Make it writable, or choose another --workdir."
    if number == errno.ELOOP:
        return ". It is a link that leads to itself: remove it, or give another path."
    return ""


def _shown(record: LogRecord) -> bool:
    """Leaves out tracebacks that orbax and its tasks log for what we tell in a line."""
    theirs = record.name == "asyncio" or "orbax" in record.pathname
    return not (theirs and record.exc_info)


def _read_flags(
    arguments: Sequence[str],
) -> tuple[dict[str, Any] | None, str, list[overrides.Override]]:
    """Returns the config (None without --config), the work directory, and fields.

    These are of the config that the checkpoint has, where none is given. `arguments`
    are what is no flag: fields of the config, and mistakes.
    """
    others, fields = overrides.split(arguments)
    if others:
        raise ValueError(f"unknown arguments {' '.join(others)}; flags start with --.")
    if ATTACK.value and any(one.field == "eval.suite" and one.text for one in fields):
        raise ValueError("give --attack or --config.eval.suite, not both.")
    if CONFIG.value is None:
        return None, _folder_of_what_is_trained(fields), fields
    if WORKDIR.value == "":  # a variable of the shell that is not set, say
        raise ValueError("--workdir is empty: leave it out, or name a folder.")
    settings = config_file.load(CONFIG.value)
    values = overrides.apply(settings, fields)
    file, _ = config_file.split(CONFIG.value)
    settings.name = settings.name or pathlib.Path(file).stem
    # XLA reads its flags when the first device is used.
    cpu.tune_cpu(quick_compile=bool(settings.get("quick_compile")))
    if settings.deterministic:
        kernels = "--xla_gpu_deterministic_ops=true"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {kernels}"
    folder = WORKDIR.value or program.default_workdir(CONFIG.value, values)
    return settings.to_dict(), folder, []


def _folder_of_what_is_trained(fields: Sequence[overrides.Override]) -> str:
    """Returns the work directory of a call without --config; checks that call."""
    if MODE.value in ("train", "train_eval"):
        raise ValueError("--config is needed to train.")
    for one in fields:
        if MODE.value != "eval" or not program.may_be_set(one.field):
            raise ValueError(
                f"--config.{one.field} needs --config, its file: of what is trained, "
                "--mode=eval takes fields of `eval` alone."
            )
    if WORKDIR.value:
        return WORKDIR.value
    shipped = zoo.named(CHECKPOINT.value or "")
    if shipped is None:
        raise ValueError("without --config, --workdir is needed.")
    return os.path.join("runs", zoo.card(shipped).name)


def _parse(argv: Sequence[str]) -> list[str]:
    """Parses flags; fields of the config stay among the arguments that it returns."""
    try:
        words = flags.FLAGS.read_flags_from_files(argv[1:], force_gnu=False)
        rest, fields = overrides.split(words)
        others = flags.FLAGS([argv[0], *rest])
    except flags.Error as error:
        sys.exit(f"{' '.join(str(error).split())} Try --help.")
    return [*others, *(overrides.written(one) for one in fields)]


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)
