"""Names of a network's parts, ours and torch's."""

from collections.abc import Mapping
from typing import NamedTuple


class Names(NamedTuple):
    """Where the parts of a network are found in a state dict.

    Attributes:
      modules: our module path (`stage1_block0/norm1`) to torch's (`block1.0.n1`).
      aliases: second name of a torch module to its first.
      scalars: our path of a lone parameter to torch's full name.
      unused: torch modules that the original has and never runs, and why.
    """

    modules: dict[str, str]
    aliases: Mapping[str, str] = {}
    scalars: Mapping[str, str] = {}
    unused: Mapping[str, str] = {}


def join(parts: list[Names]) -> Names:
    """Puts the names of several parts together."""
    whole = Names({}, {}, {}, {})
    return Names(
        *({k: v for p in parts for k, v in p[i].items()} for i in range(len(whole)))
    )


def under(names: Names, ours: str, theirs: str) -> Names:
    """Returns the names of a part that is called `ours` here and `theirs` in torch."""
    return Names(
        {
            _below(ours, "/", k): _below(theirs, ".", v)
            for k, v in names.modules.items()
        },
        {
            _below(theirs, ".", k): _below(theirs, ".", v)
            for k, v in names.aliases.items()
        },
        {
            _below(ours, "/", k): _below(theirs, ".", v)
            for k, v in names.scalars.items()
        },
        {_below(theirs, ".", k): v for k, v in names.unused.items()},
    )


def _below(prefix: str, separator: str, name: str) -> str:
    return f"{prefix}{separator}{name}" if prefix else name
