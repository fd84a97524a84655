"""What is known of a network of the zoo, and the one reader and writer of it."""

import dataclasses
import json
import pathlib
import re
import shlex
from collections.abc import Iterator
from typing import Annotated, Any

from jaxrobust import named_code
from jaxrobust.results import schema, typed
from jaxrobust.results.typed import Count, Few, Kind, Number
from jaxrobust.runtime import files, reading

VERSION = 1
_LARGEST = 1 << 20
TRAIN = ["jaxrobust", "train"]  # how the command of a card starts

_NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,59}")
# A config of ours; its arguments may name a network of the zoo to start from.
_SHIPPED = re.compile(r"[A-Za-z_]\w*(:(?:=zoo:|[\w=.,/+-])*)?")
_OF_A_MACHINE = re.compile(r"(?:^|[\s=:,'\"(\[])(?:~|/\w)")
_SHA256 = Kind("a sha256", lambda v: isinstance(v, str) and len(v) == 64)


class Protocol(typed.Part):
    """A second evaluation of the same checkpoint, by a paper's own suite.

    Attributes:
      fields: of it, in place of `config.eval`.
      results: of it.
    """

    fields: dict[str, Any]
    results: schema.Results


class Card(typed.Part):
    """A network, what it was trained with, and every number of its evaluation.

    Attributes:
      name: under which `zoo.load` knows it.
      title: the same in plain words.
      config: of training and evaluation, as `config.json` of the run.
      command: what trained it; `arguments` says which.
      checkpoint: of that run, `best_robust`, `best_clean` or `last`.
      hours: of training steps; None if unknown. Validation does not count.
      parameters: how many numbers the network has.
      input_shape: of an image, [H, W, C].
      class_names: of the labels, in order.
      sha256: of the file of weights.
      results: of the evaluation; `environment` has versions and device.
      paper: what the suite of the method's paper found, if it was run.
    """

    name: str
    title: str
    config: dict[str, Any]
    command: str
    checkpoint: str
    parameters: Count
    input_shape: Few[Count]
    class_names: list[str]
    sha256: Annotated[str, _SHA256]
    results: schema.Results
    paper: Protocol | None = None
    hours: Number | None = None
    version: Count = VERSION

    @property
    def data(self) -> str:
        """The data set."""
        return self.config["data"]["name"]

    @property
    def method(self) -> str:
        """What it was trained with: `pgd`, `trades`, `pcl` ..."""
        return self.config["objective"]["name"]

    @property
    def eps(self) -> str:
        """The radius at which AutoAttack attacked it, as a config writes it.

        That of training may be another one: `config['attack']`.
        """
        return self._threat[1]

    @property
    def norm(self) -> str:
        """The norm of that radius."""
        return self._threat[0]

    @property
    def _threat(self) -> tuple[str, str]:
        for attack in self.results.attacks:
            if attack.stages and attack.eps_text:  # AutoAttack
                return attack.norm, attack.eps_text
        return self.config["attack"]["norm"], str(self.config["attack"]["eps"])

    @property
    def seed(self) -> int:
        """The seed of training and evaluation."""
        return self.config["seed"]


def names(folder: pathlib.Path) -> tuple[str, ...]:
    """Returns the names of the cards in a folder of the zoo."""
    found = (folder / "cards").glob("*.json")
    return tuple(sorted(file.stem for file in found if _NAME.fullmatch(file.stem)))


def path(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the file of a card."""
    return folder / "cards" / f"{name}.json"


def read(file: pathlib.Path) -> Card:
    """Reads a card; ValueError of one line that names the file for any other."""
    try:
        found = reading.read_json(file, _LARGEST, kind=dict)
        version = found.get("version", 0)
        if typed.is_number(version) and version > VERSION:
            raise ValueError(
                f"it is of version {version}, and this jaxrobust reads up to "
                f"{VERSION}: upgrade it"
            )
        card = typed.read(Card, found)
        check(card)
        if card.name != file.stem:
            raise ValueError(f"it is the card of {card.name!r:.80}")
    except ValueError as error:
        told = reading.first_line(error).rstrip(".")
        told = told if str(file) in told else f"{file} is no card of ours: {told}"
        raise ValueError(f"{told}.") from None
    return dataclasses.replace(card, config=named_code.marked(card.config))


def write(file: pathlib.Path, card: Card) -> None:
    """Writes a card, once `check` has passed it."""
    check(card)
    text = json.dumps(files.as_plain(typed.as_json(card)), indent=1, allow_nan=False)
    files.write_text(file, text + "\n")


def check(card: Card) -> None:
    """Raises ValueError for what no card has: code, paths of a machine, no config."""
    if not _NAME.fullmatch(card.name):
        raise ValueError(
            f"`name` must be small letters, digits and _, got {card.name!r:.80}"
        )
    for part, field in (
        ("data", "name"),
        ("objective", "name"),
        ("attack", "eps"),
        ("attack", "norm"),
        ("model", "name"),
        ("eval", "attacks"),
    ):
        table = card.config.get(part)
        if not isinstance(table, dict) or field not in table:
            raise ValueError(f"its config has no {part}.{field}")
    if not isinstance(card.config.get("seed"), int):
        raise ValueError("its config has no seed")
    named_code.refuse(card.config)
    if ":" in str(card.config["model"]["name"]):
        raise ValueError("its network is code from outside jaxrobust")
    for text in _texts(typed.as_json(card)):
        if _OF_A_MACHINE.search(text):
            raise ValueError(f"it names a path of one machine, {text!r:.120}")
    arguments(card.command)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)


def arguments(command: str) -> list[str]:
    """Returns what a card's command gives the program `jaxrobust.main`.

    A card is data: the command may name a config of ours and set fields of it, and
    nothing that would bring in code.

    Raises:
      ValueError: for any other command.
    """
    words = shlex.split(command)
    config, fields = "".join(words[2:3]), words[3:]
    own = words[:2] == TRAIN and _SHIPPED.fullmatch(config)
    for word in fields:
        flag, _, value = word.partition("=")
        code = named_code.within(value.removeprefix("zoo:"))
        own = own and flag.startswith("--config.") and not code
    if not own:
        raise ValueError(
            f"its command is not {shlex.join(TRAIN)} CONFIG --config.FIELD=VALUE ... "
            f"with a config of ours: {command!r:.200}"
        )
    return [f"--config={config}", *fields]
