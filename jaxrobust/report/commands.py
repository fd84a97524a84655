"""From the command that made a run to the one that goes on from it."""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Step(NamedTuple):
    """What to run next: attacks as `--attack` has them, a suite, or more examples."""

    kind: str  # attack, suite or examples
    value: str
    python: str  # where no program made the run


class _Program(NamedTuple):
    """How a program is called: the short command, and its flags by kind of step."""

    command: tuple[str, ...]
    flags: Mapping[str, str]


_ATTACK = "--attack"
_PROGRAMS = {
    "jaxrobust.main": _Program(
        ("jaxrobust", "evaluate"),
        {
            "attack": _ATTACK,
            "suite": "--config.eval.suite",
            "examples": "--config.eval.examples",
        },
    ),
    "jaxrobust.evaluation": _Program(
        ("jaxrobust", "attack"),
        {"attack": _ATTACK, "suite": "--suite", "examples": "--examples"},
    ),
}
_CONFIG = "--config"


def following(recorded: str, step: Step, folder: str = "") -> str:
    """Returns the command of a step after the recorded one; from Python without one.

    It is for the work directory `folder`, which may be a copy.
    """
    try:
        words = shlex.split(recorded)
    except ValueError:  # a quote that does not close: somebody else wrote it
        words = []
    program = _PROGRAMS.get(words[2]) if words[:2] == ["python", "-m"] else None
    if program is None or len(words) < 4:
        return step.python
    flag, given = program.flags[step.kind], words[3:]
    if flag.startswith(f"{_CONFIG}.") and not any(
        _has(given, one) for one in (_CONFIG, "--workdir", "--checkpoint")
    ):
        return step.python
    if os.path.basename(folder) == "twin" and _has(given, _CONFIG):
        folder = os.path.dirname(folder)  # a config's command is for both networks
    if folder:
        given = [*_without(given, {"workdir"}), f"--workdir={folder}"]
    # The new attack comes in place of the old ones; the rest stays.
    old = {"mode", "format", flag.lstrip("-")}
    if step.kind != "examples":
        old |= {program.flags[kind].lstrip("-") for kind in ("attack", "suite")}
        old |= {"transfer_from"}  # refused where nothing transfers
    return shlex.join([*program.command, *_without(given, old), f"{flag}={step.value}"])


def names_attacks(recorded: str) -> bool:
    """Whether a command has attacks of its own, in place of those of a config."""
    try:
        return _has(shlex.split(recorded), _ATTACK)
    except ValueError:
        return False


def _has(words: Sequence[str], flag: str) -> bool:
    return any(word.partition("=")[0] == flag for word in words)


def _without(words: Sequence[str], names: set[str]) -> list[str]:
    """Leaves flags out, and the word after one without `=`."""
    kept, skip = [], False
    for word in words:
        name, separator, _ = word.partition("=")
        if skip and not word.startswith("-"):
            skip = False
            continue
        skip = False
        if re.match("--?[a-z]", name) and name.lstrip("-") in names:
            skip = not separator
            continue
        kept.append(word)
    return kept
