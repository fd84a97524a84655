"""TensorBoard events, in the folder `tensorboard`."""

import pathlib
import secrets
import socket
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from tensorboardX import summary
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import RecordWriter

from jaxrobust.runtime import files
from jaxrobust.training.writers import Opening

# Made by protobuf at import, where a type checker cannot see them.
_Event: Any = getattr(event_pb2, "Event")  # noqa: B009
_SessionLog: Any = getattr(event_pb2, "SessionLog")  # noqa: B009


class Events:
    """TensorBoard events, written without a thread so that a full disk is an error.

    A remote folder gets a copy of a file in a temporary folder.
    """

    def __init__(self, opening: Opening) -> None:
        """Opens a new file; those of others that are written again are hidden."""
        self._folder = folder = opening.workdir / "tensorboard"
        first_step = opening.resume_step + 1
        remote = files.is_remote(folder)
        self._temporary = tempfile.TemporaryDirectory() if remote else None
        local = self._temporary.name if self._temporary else folder
        self._local = pathlib.Path(files.own_folder(local))
        # Two files of one second would have one name but for the step; nobody can
        # guess the last part and put a link there.
        name = f"{int(time.time())}.{socket.gethostname()}.{first_step}"
        name += f".{secrets.token_hex(8)}"
        self._writer = RecordWriter(str(self._local / f"events.out.tfevents.{name}"))
        self._add(_Event(file_version="brain.Event:2"))
        start = _SessionLog(status=_SessionLog.START)
        self._add(_Event(step=first_step, session_log=start))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds an event for each scalar but the epoch, which a step says."""
        for name, value in scalars.items():
            if name != "epoch":
                self._add(_Event(step=step, summary=summary.scalar(name, value)))

    def _add(self, event: Any) -> None:
        event.wall_time = time.time()
        self._writer.write(event.SerializeToString())

    def flush(self) -> None:
        """Writes what is held back."""
        self._writer.flush()
        if self._temporary:
            self._folder.mkdir(parents=True, exist_ok=True)
            for file in self._local.iterdir():
                files.write_bytes(self._folder / file.name, file.read_bytes())

    def close(self) -> None:
        """Flushes and closes."""
        try:
            self.flush()
        finally:
            self._writer.close()
            if self._temporary:
                self._temporary.cleanup()
