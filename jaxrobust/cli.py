"""The command `jaxrobust`: short names for the programs of this package.

`jaxrobust train quickstart` is `python -m jaxrobust.main --config=quickstart`; what
follows is handed on as it is, `--help` too.
"""

import runpy
import sys
from collections.abc import Sequence
from typing import NamedTuple

from jaxrobust._checks import did_you_mean


class Command(NamedTuple):
    """One word after `jaxrobust`.

    `module` is the program, `first` the flag that a first argument without dashes
    stands for, `always` are flags that come with the word.
    """

    module: str
    says: str
    first: str = ""
    always: tuple[str, ...] = ()


MAIN = "jaxrobust.main"
COMMANDS = {
    "train": Command(
        MAIN, "CONFIG: train, attack and report; again: go on", "--config"
    ),
    "evaluate": Command(
        MAIN, "RUN: attack what a run has trained", "--workdir", ("--mode=eval",)
    ),
    "report": Command(
        MAIN, "RUN: write the page of a run anew", "--workdir", ("--mode=report",)
    ),
    "attack": Command("jaxrobust.evaluation", "a network of yours, any framework's"),
    "compare": Command("jaxrobust.compare", "RUN RUN ...: two in a table, more a page"),
    "sweep": Command("jaxrobust.sweep", "FILE: a run for each of its lines, resumable"),
    "prepare": Command("jaxrobust.data.prepare", "a data set, from its archives"),
    "convert": Command("jaxrobust.convert", "PyTorch weights to a checkpoint"),
    "doctor": Command("jaxrobust.doctor", "what this machine has, and what it lacks"),
}


def main() -> None:
    """Runs the program that the first argument names."""
    module, arguments = expand(sys.argv[1:])
    sys.argv = [sys.argv[0], *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def expand(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Returns the module that a command line means, and that module's arguments.

    Raises:
      SystemExit: with the list of commands, for none or an unknown one.
    """
    name, *rest = arguments or ["--help"]
    rows = "\n".join(f"  {word:<9} {one.says}" for word, one in COMMANDS.items())
    more = "jaxrobust COMMAND --help says more."
    usage = f"usage: jaxrobust COMMAND ...\n\n{rows}\n\n{more}"
    if name in ("-h", "--help", "help"):
        print(usage)
        raise SystemExit(0)
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS, 0.6)
        told = f"jaxrobust has no command {name!r}. {hint}".strip()
        raise SystemExit(f"{told}\n\n{usage}")
    command = COMMANDS[name]
    if command.first and rest and not rest[0].startswith("-"):
        rest = [f"{command.first}={rest[0]}", *rest[1:]]
    return command.module, [*command.always, *rest]


if __name__ == "__main__":
    main()
