"""metrics.jsonl, which the report, resuming and the other writers rely on."""

import json
from collections.abc import Mapping

from etils import epath

from jaxrobust.results.files import read_metrics
from jaxrobust.runtime import files


class JsonLines:
    """A line of JSON per row."""

    def __init__(self, path: epath.Path, resume_step: int) -> None:
        """Opens the file; `rows` are those that stay, up to `resume_step`."""
        self.rows = [row for row in read_metrics(path) if row["step"] <= resume_step]
        self._path = path
        self._text = "".join(json.dumps(row) + "\n" for row in self.rows)
        files.write_text(path, self._text)
        # A remote file can only be written as a whole.
        self._file = None if files.is_remote(path) else files.append_to(path)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds a line."""
        line = json.dumps({"step": step, **scalars}) + "\n"
        if self._file:
            self._file.write(line)
        else:
            self._text += line

    def flush(self) -> None:
        """Writes what is held back."""
        if self._file:
            self._file.flush()
        else:
            files.write_text(self._path, self._text)

    def close(self) -> None:
        """Flushes and closes."""
        if self._file:
            self._file.close()
        else:
            self.flush()
