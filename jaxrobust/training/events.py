"""TensorBoard events, written without a thread so that a full disk is an error."""

import pathlib
import secrets
import socket
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from etils import epath
from tensorboardX import summary
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import RecordWriter

from jaxrobust.runtime import files

# Made by protobuf at import, where a type checker cannot see them.
_Event: Any = getattr(event_pb2, "Event")  # noqa: B009
_SessionLog: Any = getattr(event_pb2, "SessionLog")  # noqa: B009


class Events:
    """An events file; a remote folder gets a copy of one in a temporary folder."""

    def __init__(self, folder: epath.PathLike, first_step: int) -> None:
        """Opens a new file; other files' events from `first_step` on are hidden."""
        self._folder = epath.Path(folder)
        remote = files.is_remote(folder)
        self._temporary = tempfile.TemporaryDirectory() if remote else None
        local = self._temporary.name if self._temporary else str(self._folder)
        self._local = pathlib.Path(files.own_folder(local))
        # Two files of one second would have one name but for the step; nobody can
        # guess the last part and put a link there.
        name = f"{int(time.time())}.{socket.gethostname()}.{first_step}"
        name += f".{secrets.token_hex(8)}"
        self._writer = RecordWriter(str(self._local / f"events.out.tfevents.{name}"))
        self._add(_Event(file_version="brain.Event:2"))
        start = _SessionLog(status=_SessionLog.START)
        self._add(_Event(step=first_step, session_log=start))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Adds scalars."""
        for name, value in values.items():
            self._add(_Event(step=step, summary=summary.scalar(name, float(value))))

    def _add(self, event: Any) -> None:
        event.wall_time = time.time()
        self._writer.write(event.SerializeToString())

    def flush(self) -> None:
        """Makes what was added visible to others."""
        self._writer.flush()
        if self._temporary:
            self._folder.mkdir(parents=True, exist_ok=True)
            for file in self._local.iterdir():
                files.write_bytes(self._folder / file.name, file.read_bytes())

    def close(self) -> None:
        """Flushes and closes the file."""
        try:
            self.flush()
        finally:
            self._writer.close()
            if self._temporary:
                self._temporary.cleanup()
