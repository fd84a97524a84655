"""Several processes that run one program: started by `jax.distributed`, watched here.

Every process runs the same host code over one mesh of all devices, so host decisions
may depend on replicated values only. Files, metrics and progress are the lead's. A
process that dies or fails would leave the others waiting in a collective: each tells
the others now and then, through the key-value store of `jax.distributed`, that it is
alive, and ends with a sentence that names the one that is not.
"""

import contextlib
import functools
import glob
import hashlib
import importlib.util
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

# A process that is silent for so long is dead; the service of jax.distributed would
# end the others at its own timeout, without saying which host it was.
_SILENT = 45.0
_SERVICE_TIMEOUT = 75
_SHUTDOWN_TIMEOUT = 30
_EVERY = 2.0
_ALIVE, _FAILED = "jaxrobust/alive/", "jaxrobust/failed/"
PEER_FAILED = 70  # exit status of a process that ends because another one did

_LAUNCHERS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")


def start(
    coordinator: str | None = None,
    count: int | None = None,
    index: int | None = None,
    *,
    detect: bool | None = None,
    timeout: int = 300,
) -> None:
    """Joins the other processes of this run; does nothing where it is the only one.

    Call it before anything that uses a device.

    Args:
      coordinator: HOST:PORT of process 0; `JAX_COORDINATOR_ADDRESS` if None.
      count: number of processes; `JAX_NUM_PROCESSES` if None.
      index: of this one, from 0; `JAX_PROCESS_ID` if None.
      detect: leave what is not given to jax's detection of the cluster (TPU VM, SLURM,
        Open MPI ...). None does so where a launcher started several processes.
      timeout: seconds to wait for the others.

    Raises:
      ValueError: if only a part of the three is known, or they do not fit together.
      ConnectionError: if the others do not come in time.
    """
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    count = _whole(count, "JAX_NUM_PROCESSES")
    index = _whole(index, "JAX_PROCESS_ID")
    known = [coordinator is not None, count is not None, index is not None]
    detect = (not any(known) and _launched()) if detect is None else detect
    if not detect:
        if not any(known):
            return
        if not all(known):
            raise ValueError(
                "several processes need --coordinator=HOST:PORT, --processes=N and "
                f"--process=I, got {coordinator}, {count} and {index}; or "
                "--distributed, to have them detected."
            )
        _check_place(coordinator, count, index)
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            # Detection would also hand out devices, though the place is known.
            cluster_detection_method=None if detect else "deactivate",
            initialization_timeout=timeout,
            heartbeat_timeout_seconds=_SERVICE_TIMEOUT,
            shutdown_timeout_seconds=_SHUTDOWN_TIMEOUT,
        )
    except (RuntimeError, ValueError) as error:
        [reason, *_] = str(error).splitlines() or [type(error).__name__]
        raise ConnectionError(
            f"process {index} of {count} could not join the others at {coordinator}: "
            f"{reason}"
        ) from None


def _whole(value: int | None, variable: str) -> int | None:
    """Returns the value, else the environment's."""
    text = os.environ.get(variable)
    if value is not None or not text:
        return value
    if not text.isdigit():
        raise ValueError(f"{variable} must be a whole number, got {text!r}.")
    return int(text)


def _check_place(coordinator: Any, count: Any, index: Any) -> None:
    if count < 1 or not 0 <= index < count:
        raise ValueError(
            f"--process must be from 0 to --processes - 1, got {index} of {count}."
        )
    host, colon, port = coordinator.rpartition(":")
    if not (host and colon and port.isdigit()):
        raise ValueError(f"--coordinator must be HOST:PORT, got {coordinator!r}.")


def _launched() -> bool:
    """Says whether a launcher that jax knows has started more than this process."""
    if any(int(os.environ.get(name) or 1) > 1 for name in _LAUNCHERS):
        return True
    # One VM of a TPU slice cannot use its chips without the others.
    chips = glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def is_lead() -> bool:
    """Says whether this process writes the files."""
    return jax.process_index() == 0


def several() -> bool:
    """Says whether there are other processes."""
    return jax.process_count() > 1


def joined() -> bool:
    """Says whether this process has joined others; starts no device."""
    return jax.distributed.is_initialized()


def agree(value: bool) -> bool:
    """Returns the lead's value on every process: for what depends on its clock."""
    if not several():
        return value
    return bool(multihost_utils.broadcast_one_to_all(np.int32(value)))


def all_true(value: bool) -> bool:
    """Says whether something is true on every process."""
    return (
        value
        if not several()
        else bool(multihost_utils.process_allgather(np.asarray(value)).all())
    )


def wait(name: str) -> None:
    """Waits until every process has come to the point of this name."""
    if several():
        multihost_utils.sync_global_devices(name)


def check_same(what: str, value: Any) -> None:
    """Checks that something is the same on all processes.

    Args:
      what: it is, for the error.
      value: anything JSON can hold, or bytes.

    Raises:
      ValueError: naming the first process whose value differs from the lead's.
    """
    if not several():
        return
    data = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True)
    data = data if isinstance(data, bytes) else data.encode()
    digest = np.frombuffer(hashlib.sha256(data).digest()[:8], np.uint8)
    found = multihost_utils.process_allgather(digest)
    differs = (found != found[0]).any(1)
    if differs.any():
        raise ValueError(
            f"{what} of process {int(differs.argmax())} differs from that of process "
            "0: give every process the same."
        )


def _appears(path: epath.Path, seconds: int = 5) -> bool:
    for _ in range(seconds):
        if path.exists():
            return True
        time.sleep(1)
    return path.exists()


def check_shared(folder: epath.PathLike) -> None:
    """Checks that all processes see one and the same folder.

    Raises:
      ValueError: naming the first process that does not see what the lead wrote.
    """
    if not several():
        return
    token = np.frombuffer(secrets.token_bytes(8), np.uint8)
    token = np.asarray(multihost_utils.broadcast_one_to_all(token), np.uint8)
    # A name that was never looked for: network folders remember what was not there.
    path = epath.Path(folder) / f".shared-{bytes(token).hex()}"
    if is_lead():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    wait("jaxrobust: token written")
    found = multihost_utils.process_allgather(np.asarray(_appears(path)))
    if is_lead():
        path.unlink(missing_ok=True)
    if not found.all():
        raise ValueError(
            f"process {int((~found).argmax())} of {len(found)} does not see the work "
            f"directory {folder} of process 0: several processes need one that they "
            "share, a network folder or gs://; set --workdir."
        )


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

    An error in the block leaves the watch on: `fail` waits for what it finds.

    Args:
      silent: seconds without a sign of life after which a process is dead.
    """
    client = _client()
    if client is None:
        yield
        return
    stop, heir = threading.Event(), None if is_lead() else _Heir()
    watch = functools.partial(_watch, client, stop, heir, silent)
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield
    stop.set()
    thread.join()
    if heir is not None:
        heir.dismiss()


class _Heir:
    """A small process that outlives this one to say why it ended.

    When process 0 dies, the service of jax.distributed dies with it and its client
    aborts every other process at once, without a name.
    """

    _CODE = """
import socket, sys
address, text = sys.argv[1:]
if not sys.stdin.read():
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 5).close()
    except OSError:
        sys.stderr.write(text)
"""

    def __init__(self) -> None:
        from jax._src import distributed

        address = distributed.global_state.coordinator_address
        text = (
            f"process 0 of {jax.process_count()}, which coordinates at {address}, "
            f"died. Process {jax.process_index()} ended too; start all of them again "
            "to go on from the last checkpoint.\n"
        )
        self._child = subprocess.Popen(
            [sys.executable, "-c", self._CODE, str(address), text],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # not to get this process's signals
        )

    def dismiss(self) -> None:
        """Lets it go without a word."""
        with contextlib.suppress(OSError):
            self._child.communicate(b"dismissed", timeout=10)


def _client() -> Any:
    """The key-value store of jax.distributed, for which there is no public name."""
    from jax._src import distributed

    return distributed.global_state.client if joined() and several() else None


def _watch(
    client: Any, stop: threading.Event, heir: _Heir | None, silent: float
) -> None:
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


def _end(reason: str, heir: _Heir | None) -> None:
    """Ends this process at once: its main thread may hang in a collective."""
    if heir is not None:
        heir.dismiss()
    sys.stderr.write(
        f"{reason}. Process {jax.process_index()} ends too; start all of them again to "
        "go on from the last checkpoint.\n"
    )
    sys.stderr.flush()
    os._exit(PEER_FAILED)
