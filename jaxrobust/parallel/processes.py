"""Several processes that run one program: started by `jax.distributed`, watched here.

Every process runs the same host code over one mesh of all devices, so host decisions
may depend on replicated values only. Files, metrics and progress are the lead's.
"""

import glob
import hashlib
import importlib.util
import json
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from jaxrobust.array_types import PyTree
from jaxrobust.runtime import files, reading
from jaxrobust.runtime.environment import is_lead as is_lead

# The service of jax.distributed ends all processes when one is silent for so long;
# `watch` is faster and says which it was.
SERVICE_TIMEOUT = 75
_SHUTDOWN_TIMEOUT = 30

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
      ConnectionError: if the others are not there in time, or are not detected.
    """
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS") or None
    count = _whole(count, "JAX_NUM_PROCESSES")
    index = _whole(index, "JAX_PROCESS_ID")
    known = sum(one is not None for one in (coordinator, count, index))
    detect = (not known and _launched()) if detect is None else detect
    if not detect:
        if not known:
            return
        if known < 3:
            raise ValueError(
                "several processes need --coordinator=HOST:PORT, --processes=N and "
                f"--process=I, got {coordinator}, {count} and {index}; or "
                "--distributed, to have them detected."
            )
        _meet(coordinator, count, index, timeout)
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            # Detection would also hand out devices, though the place is known.
            cluster_detection_method=None if detect else "deactivate",
            initialization_timeout=timeout,
            heartbeat_timeout_seconds=SERVICE_TIMEOUT,
            shutdown_timeout_seconds=_SHUTDOWN_TIMEOUT,
        )
    except (RuntimeError, ValueError) as error:
        reason = reading.first_line(error)
        raise ConnectionError(
            "the other processes were not detected (TPU VM, SLURM, Open MPI ...): "
            f"{reason} Give --coordinator, --processes and --process, or "
            "--nodistributed to run alone."
            if detect
            else f"process {index} of {count} could not join the others at "
            f"{coordinator}: {reason}"
        ) from None
    if jax.process_count() == 1 and in_main_thread():
        # Joining gave SIGTERM to jax's preemption service, which one alone needs not.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _whole(value: int | None, variable: str) -> int | None:
    """Returns the value, else the environment's."""
    text = os.environ.get(variable)
    if value is not None or not text:
        return value
    if not text.isdigit():
        raise ValueError(f"{variable} must be a whole number, got {text!r}.")
    return int(text)


def _meet(coordinator: Any, count: Any, index: Any, timeout: int) -> None:
    """Waits until process 0 listens: jax would end this process without saying why."""
    if count < 1 or not 0 <= index < count:
        raise ValueError(
            f"--process must be from 0 to --processes - 1, got {index} of {count}."
        )
    host, colon, port = coordinator.rpartition(":")
    if not (host and colon and port.isdigit()):
        raise ValueError(f"--coordinator must be HOST:PORT, got {coordinator!r}.")
    if index == 0:
        if count > 1:
            logging.warning("waiting for %d processes at %s", count - 1, coordinator)
        return
    end = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise ConnectionError(
                    f"process {index} of {count} found no process 0 at {coordinator} "
                    f"for {timeout} s ({error}): check the address, and that process 0 "
                    "was started and can be reached from here."
                ) from None
            time.sleep(0.5)


def in_main_thread() -> bool:
    """Says whether signals reach this thread."""
    return threading.current_thread() is threading.main_thread()


def _launched() -> bool:
    """Says whether a launcher that jax knows has started more than this process."""
    if any(int(os.environ.get(name) or 1) > 1 for name in _LAUNCHERS):
        return True
    if "tpu" not in (os.environ.get("JAX_PLATFORMS") or "tpu"):
        return False
    # One VM of a TPU slice cannot use its chips without the others.
    chips = glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def several() -> bool:
    """Says whether there are other processes."""
    return jax.process_count() > 1


def joined() -> bool:
    """Says whether this process has joined others; starts no device."""
    return jax.distributed.is_initialized()


def agree(value: bool) -> bool:
    """Returns the lead's value on every process: for what depends on its clock."""
    return bool(multihost_utils.broadcast_one_to_all(np.int32(value)))


def all_true(value: bool) -> bool:
    """Says whether something is true on every process."""
    return bool(multihost_utils.process_allgather(np.asarray(value)).all())


def wait(name: str) -> None:
    """Waits until every process has come to the point of this name."""
    if several():
        multihost_utils.sync_global_devices(name)


def check_same(what: str, value: Callable[[], Any]) -> None:
    """Checks that something JSON can hold is the same on all processes.

    ValueError names the first process whose value differs from the lead's.
    """
    if not several():
        return
    text = json.dumps(value(), sort_keys=True)
    own = np.frombuffer(hashlib.sha256(text.encode()).digest()[:8], np.uint8)
    found = multihost_utils.process_allgather(own)
    differs = (found != found[0]).any(1)
    if differs.any():
        raise ValueError(
            f"{what} of process {int(differs.argmax())} differs from that of process "
            "0: give every process the same."
        )


def digest(tree: PyTree) -> str:
    """Names arrays, which this process has, by what they hold."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()


def check_shared(folder: epath.PathLike) -> None:
    """Checks that all processes see one and the same folder.

    ValueError names the first process that does not see what the lead wrote.
    """
    if not several():
        return
    token = np.frombuffer(secrets.token_bytes(8), np.uint8)
    token = np.asarray(multihost_utils.broadcast_one_to_all(token), np.uint8)
    # A name that was never looked for: network folders remember what was not there.
    path = epath.Path(folder) / f".shared-{bytes(token).hex()}"
    if is_lead():
        files.write_text(path, "")
    wait("jaxrobust: token written")
    for _ in range(5):
        if path.exists():
            break
        time.sleep(1)
    found = multihost_utils.process_allgather(np.asarray(path.exists()))
    if is_lead():
        path.unlink(missing_ok=True)
    if not found.all():
        raise ValueError(
            f"process {int((~found).argmax())} of {len(found)} does not see the work "
            f"directory {folder} of process 0: several processes need one that they "
            "share, a network folder or gs://; set --workdir."
        )
