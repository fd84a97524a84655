"""Compiling the parts of an attack that is stepped: once, holding no model.

Executables are found by the text of their program, so a callable that was traced
anew still finds the executable of an equal one. They hold no arrays.
"""

import collections
import hashlib
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

_EXECUTABLES = 64


class Executables:
    """The last used executables, by digest of program, shardings and devices."""

    def __init__(self, size: int):
        self._size = size
        self._entries: collections.OrderedDict[str, Any] = collections.OrderedDict()
        self.compiled = 0

    def __len__(self) -> int:
        """Number of executables that are kept."""
        return len(self._entries)

    def get(
        self,
        lowered: Any,
        placement: Hashable,
        *,
        keep: bool,
        options: Mapping[str, Any] | None = None,
    ) -> Any:
        """Returns the executable of a lowered program, compiling it when new."""
        text = lowered.as_text()
        kind = f"{lowered.in_tree}\n{lowered.in_avals}\n{lowered.out_tree}"
        name = f"{placement}\n{options}\n{kind}\n{text}"
        digest = hashlib.sha256(name.encode()).hexdigest()
        found = self._entries.get(digest)
        if found is None:
            given = {"compiler_options": options} if options else {}
            found = lowered.compile(**given)
            self.compiled += 1
            if not keep:
                return found
            self._entries[digest] = found
        self._entries.move_to_end(digest)
        while len(self._entries) > self._size:
            self._entries.popitem(last=False)
        return found


executables = Executables(_EXECUTABLES)


def placement(arrays: Sequence[Any]) -> Hashable:
    """Where arrays lie: sharding and devices of each, as text."""

    def describe(array: Any) -> str:
        sharding = getattr(array, "sharding", None)
        if sharding is None:
            return ""
        devices = getattr(sharding, "_device_assignment", None)
        return f"{sharding}{devices or sorted(d.id for d in sharding.device_set)}"

    return tuple(describe(array) for array in arrays)
