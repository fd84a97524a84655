"""Names of a network's parts, ours and torch's."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

# Patterns of other code's names, and what stands in their place here.
Dialect = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]


class Names(NamedTuple):
    """Where the parts of a network are found in a state dict.

    Attributes:
      modules: our module path (`stage1_block0/norm1`) to torch's (`block1.0.n1`), and
        that of a parameter whose name is another.
      aliases: second name of a torch module to its first.
      unused: torch modules that the original has and never runs, and why.
    """

    modules: Mapping[str, str] = {}
    aliases: Mapping[str, str] = {}
    unused: Mapping[str, str] = {}

    def under(self, ours: str, theirs: str) -> "Names":
        """Returns them for a part that is called `ours` here and `theirs` in torch."""
        here, there = (f"{ours}/" if ours else ""), (f"{theirs}." if theirs else "")
        return Names(
            {here + k: there + v for k, v in self.modules.items()},
            {there + k: there + v for k, v in self.aliases.items()},
            {there + k: v for k, v in self.unused.items()},
        )

    def in_stages(
        self, stage: str, counts: Sequence[int], first: int = 1
    ) -> list["Names"]:
        """Returns the names of all blocks, `counts` of them in each stage.

        Torch's name of a block has places for stage and number, `layer{}.{}`; its first
        stage has the number `first`.
        """
        return [
            self.under(f"stage{k + 1}_block{n}", stage.format(first + k, n))
            for k, count in enumerate(counts)
            for n in range(count)
        ]


def join(parts: Iterable[Names]) -> Names:
    """Puts the names of several parts together."""
    fields = zip(*parts, strict=True)
    return Names(*({k: v for one in same for k, v in one.items()} for same in fields))


def conv_norm(ours: str, conv: str, norm: str) -> dict[str, str]:
    """Names of a `ConvNorm`."""
    return {f"{ours}/conv": conv, f"{ours}/norm": norm}


def residual_block(layers: Sequence[tuple[str, str]], shortcut: str) -> Names:
    """Names of a `ResidualBlock`, convolution and norm of each of its layers first."""
    modules = conv_norm("shortcut", f"{shortcut}.0", f"{shortcut}.1")
    for n, (conv, norm) in enumerate(layers, 1):
        modules |= conv_norm(f"layer{n}", conv, norm)
    return Names(modules)


def mean_sparse(modules: Mapping[str, str], *more: str) -> Names:
    """Names of `MeanSparse` modules, which count batches and `more` while made."""
    found, unused = dict(modules), {}
    for ours, theirs in modules.items():
        found[f"{ours}/threshold"] = f"{theirs}.threshold"
        for name in ("flag_update_statistics", "batch_num", *more):
            unused[f"{theirs}.{name}"] = "for making it"
    return Names(found, unused=unused)


def translate(name: str, dialect: Dialect) -> str:
    """Returns what an entry of other code is called in the names known here."""
    for pattern, ours in dialect:
        name = re.sub(pattern, ours, name)
    return name
