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

    `module` is the program, `first` the flag that the first word stands for which is no
    flag's (a flag without `=` takes the word after it), `always` are flags that come
    with the command.
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
        MAIN, "RUN: attack what it trained, or zoo:NAME", "--workdir", ("--mode=eval",)
    ),
    "report": Command(
        MAIN,
        "RUN: write the page anew, or --format text|markdown",
        "--workdir",
        ("--mode=report",),
    ),
    "attack": Command(
        "jaxrobust.evaluation",
        "MODEL: a network of yours, any framework's, or zoo:NAME",
        "--model",
    ),
    "compare": Command("jaxrobust.compare", "RUN RUN ...: two in a table, more a page"),
    "sweep": Command("jaxrobust.sweep", "FILE: a run for each of its lines, resumable"),
    "prepare": Command("jaxrobust.data.prepare", "a data set, from its archives"),
    "convert": Command("jaxrobust.convert", "PyTorch weights to a checkpoint"),
    "reproduce": Command("jaxrobust.reproduce", "NAME of the zoo: its numbers, again"),
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
    place = _first_word(rest)
    if command.first and place is not None:
        of_zoo = command.first == "--workdir" and rest[place].startswith("zoo:")
        given = f"{'--checkpoint' if of_zoo else command.first}={rest[place]}"
        rest = [given, *rest[:place], *rest[place + 1 :]]
    return command.module, [*command.always, *rest]


def _first_word(words: Sequence[str]) -> int | None:
    """Returns where the first word stands that is no flag and no flag's value."""
    after_flag = False
    for place, word in enumerate(words):
        if not word.startswith("-") and not after_flag:
            return place
        after_flag = word.startswith("-") and "=" not in word
    return None


if __name__ == "__main__":
    main()
