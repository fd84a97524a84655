"""Ends the processes of a run when one of them dies or fails, and says which.

The others would wait for it in a collective. Each tells the others now and then,
through the key-value store of `jax.distributed`, that it is alive.
"""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax

from jaxrobust.parallel.processes import is_lead, joined, several

# A process that is silent for so long is dead; the service of jax.distributed would
# end the others at its own timeout (`processes.SERVICE_TIMEOUT`), without saying which
# host it was.
_SILENT = 45.0
_EVERY = 2.0
_ALIVE, _FAILED = "jaxrobust/alive/", "jaxrobust/failed/"
PEER_FAILED = 70  # exit status of a process that ends because another one did


def fail(error: BaseException) -> None:
    """Tells the others that this process cannot go on, and gives them time to end.

    The caller ends the process with `os._exit`: jax's own end waits for the others.
    """
    client = _client()
    if client is None:
        return
    if isinstance(error, jax.errors.JaxRuntimeError) and "EXHAUSTED" not in str(error):
        # A collective that broke: most likely another process died, and the watch
        # thread ends this one with its name.
        time.sleep(_SILENT + 5 * _EVERY)
    [reason, *_] = str(error).splitlines() or [""]
    message = f"process {jax.process_index()} failed: {type(error).__name__}: {reason}"
    with contextlib.suppress(Exception):  # another one was first, or nobody is left
        client.key_value_set(f"{_FAILED}first", message)
    # Without the coordinator, which the lead is, they could not read why.
    time.sleep(3 * _EVERY if is_lead() else 0)


@contextlib.contextmanager
def watched(silent: float = _SILENT) -> Iterator[None]:
    """Ends this process if another one dies or fails while the block runs.

    That is: gives no sign of life for `silent` seconds. An error in the block leaves
    the watch on: `fail` waits for what it finds.
    """
    client = _client()
    if client is None:
        yield
        return
    stop, heir = threading.Event(), None if is_lead() else _heir()
    watch = threading.Thread(
        target=_watch, args=(client, stop, heir, silent), daemon=True
    )
    watch.start()
    yield
    stop.set()
    watch.join()
    _dismiss(heir)


_HEIR = """
import socket, sys
address, text = sys.argv[1:]
if not sys.stdin.read():
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 5).close()
    except OSError:
        sys.stderr.write(text)
"""


def _heir() -> subprocess.Popen[bytes]:
    """Starts a small process that outlives this one to say why it ended.

    When process 0 dies, the service of jax.distributed dies with it and its client
    aborts every other process at once, without a name.
    """
    from jax._src import distributed

    address = distributed.global_state.coordinator_address
    text = (
        f"process 0 of {jax.process_count()}, which coordinates at {address}, died. "
        f"Process {jax.process_index()} ended too; start all of them again to go on "
        "from the last checkpoint.\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", _HEIR, str(address), text],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # not to get this process's signals
    )


def _dismiss(heir: subprocess.Popen[bytes] | None) -> None:
    """Lets it go without a word."""
    if heir is not None:
        with contextlib.suppress(OSError):
            heir.communicate(b"dismissed", timeout=10)


def _client() -> Any:
    """The key-value store of jax.distributed, for which there is no public name."""
    from jax._src import distributed

    return distributed.global_state.client if joined() and several() else None


def _watch(client: Any, stop: threading.Event, heir: Any, silent: float) -> None:
    own, count = jax.process_index(), jax.process_count()
    here = f"{socket.gethostname()}, pid {os.getpid()}"
    begin, beat = time.monotonic(), 0
    seen = {f"{_ALIVE}{number}": ("", begin) for number in range(count)}
    while not stop.wait(_EVERY):
        beat += 1
        try:
            client.key_value_set(f"{_ALIVE}{own}", f"{beat} {here}", True)
            alive = dict(client.key_value_dir_get(_ALIVE))
            failed = dict(client.key_value_dir_get(_FAILED)).get(f"{_FAILED}first", "")
        except Exception:  # the coordinator is gone: this process is about to end
            continue
        if failed and not failed.startswith(f"process {own} "):
            _end(failed, heir)
        now = time.monotonic()
        for name, (last, when) in seen.items():
            text = alive.get(name, "")
            seen[name] = (text, when if text == last else now)
            if text == last and now - when > silent and not text.startswith("done"):
                _, _, place = text.partition(" ")
                number, heard = name.removeprefix(_ALIVE), f"{now - when:.0f} s"
                reason = f"died: nothing was heard of it for {heard}"
                _end(f"process {number} of {count} ({place}) {reason}", heir)
    with contextlib.suppress(Exception):
        client.key_value_set(f"{_ALIVE}{own}", f"done {here}", True)


def _end(reason: str, heir: subprocess.Popen[bytes] | None) -> None:
    """Ends this process at once: its main thread may hang in a collective."""
    _dismiss(heir)
    sys.stderr.write(
        f"{reason}. Process {jax.process_index()} ends too; start all of them again to "
        "go on from the last checkpoint.\n"
    )
    sys.stderr.flush()
    os._exit(PEER_FAILED)
