"""metrics.csv, made from the rows of metrics.jsonl: a column per scalar."""

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

from jaxrobust.runtime import files
from jaxrobust.training.writers import Opening


class CsvFile:
    """A table that begins with the rows that metrics.jsonl has.

    Rows differ in their scalars (a validation is not at every step), so a new one makes
    the file anew with a column more.
    """

    def __init__(self, opening: Opening) -> None:
        """Writes the rows that are there."""
        self._path = opening.workdir / "metrics.csv"
        self._rows: list[Mapping[str, Any]] = list(opening.rows)
        self._columns = {"step": None} | {k: None for row in self._rows for k in row}
        files.write_text(self._path, self._text(self._rows, head=True))
        self._append = not files.is_remote(self._path)
        self._file = files.append_to(self._path) if self._append else None

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds a row."""
        row = {"step": step, **scalars}
        self._rows.append(row)
        if not self._file:
            self._columns |= dict.fromkeys(row)
        elif row.keys() <= self._columns.keys():
            self._file.write(self._text([row]))
        else:
            self._columns |= dict.fromkeys(row)
            self._file.close()
            files.write_text(self._path, self._text(self._rows, head=True))
            self._file = files.append_to(self._path)

    def _text(self, rows: Iterable[Mapping[str, Any]], *, head: bool = False) -> str:
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, [*self._columns], lineterminator="\n")
        if head:
            writer.writeheader()
        writer.writerows(rows)
        return buffer.getvalue()

    def flush(self) -> None:
        """Writes what is held back."""
        if self._file:
            self._file.flush()
        else:
            files.write_text(self._path, self._text(self._rows, head=True))

    def close(self) -> None:
        """Flushes and closes."""
        if self._file:
            self._file.close()
        else:
            self.flush()
