"""Starts several processes of the program on this machine and keeps them together.

    python launch/local_processes.py --processes 2 --devices 2 \
        -- --config configs/quickstart.py:quick --workdir runs/two

    python launch/local_processes.py --processes 8 --devices 1 --platform cuda -- ...

What follows `--` goes to `python -m jaxrobust.main`. Every process gets the address of
the first one, their number and its own index as JAX_COORDINATOR_ADDRESS,
JAX_NUM_PROCESSES and JAX_PROCESS_ID, and `--devices` devices: virtual ones on CPUs, a
share of the machine's with `--platform cuda`. Lines of output carry the process's
index, or go to a file each with `--log_dir`. SIGTERM, SIGINT and SIGHUP are passed on
to all. When one process dies, the others have `--patience` seconds to end by
themselves, which the program does, naming the dead one; then they are ended. The exit
status is that of the process that failed first, 128 + n for signal n.

Tried: on CPUs, by the tests. Not tried: `--platform cuda` on more than one GPU.
"""

import argparse
import contextlib
import dataclasses
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, TextIO

PLATFORMS = ("cpu", "cuda")
PATIENCE, GRACE = 90.0, 30.0
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclasses.dataclass
class Group:
    """Processes that run together.

    Attributes:
      processes: in the order of their indices.
      out: where messages go.
      readers: threads that copy the processes' output.
      asked: whether `send` has asked them to end.
    """

    processes: list[subprocess.Popen[str]]
    out: TextIO
    readers: list[threading.Thread] = dataclasses.field(default_factory=list)
    asked: bool = False

    @property
    def pids(self) -> list[int]:
        """Process ids, in the order of the indices."""
        return [process.pid for process in self.processes]

    def send(self, number: int) -> None:
        """Sends a signal to every process that still runs."""
        self.asked = True
        for process in self.processes:
            process.send_signal(number)

    def wait(self, patience: float = PATIENCE, grace: float = GRACE) -> int:
        """Waits until all have ended; one that fails ends the others.

        Args:
          patience: seconds that the others have to end by themselves.
          grace: seconds between SIGTERM and SIGKILL to those that have not.

        Returns:
          0, or the status of the process that failed first, 128 + n for signal n.
        """
        try:
            failed = self._first_failure()
            if failed is not None:
                if not self.asked:
                    self._say(f"{self._fate(failed)}; the others have {patience:g} s.")
                self._end_rest(patience, grace)
        finally:
            self._kill()
        for reader in self.readers:
            reader.join()
        return 0 if failed is None else _status(self.processes[failed])

    def _first_failure(self) -> int | None:
        """Returns the index of the first process that fails, None if none does."""
        while True:
            codes = [process.poll() for process in self.processes]
            # Where several ended since the last look, a signal came before an error.
            failed = [i for i, code in enumerate(codes) if code]
            if failed:
                return min(failed, key=lambda i: (codes[i] or 0) > 0)
            if None not in codes:
                return None
            time.sleep(0.05)

    def _end_rest(self, patience: float, grace: float) -> None:
        """Ends those that do not end by themselves."""
        if self._all_end_within(patience):
            return
        stopped = [i for i, p in enumerate(self.processes) if p.poll() is None]
        for i in stopped:
            self.processes[i].terminate()
        self._all_end_within(grace)
        self._kill()
        for i in stopped:
            self._say(f"process {i} of {len(self.processes)} was stopped.")

    def _all_end_within(self, seconds: float) -> bool:
        limit = time.monotonic() + seconds
        while any(process.poll() is None for process in self.processes):
            if time.monotonic() > limit:
                return False
            time.sleep(0.05)
        return True

    def _kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def _fate(self, index: int) -> str:
        process = self.processes[index]
        code = process.returncode
        how = (
            f"ended with status {code}" if code > 0 else f"was killed by signal {-code}"
        )
        return f"process {index} of {len(self.processes)} {how} (pid {process.pid})"

    def _say(self, text: str) -> None:
        print(f"local_processes: {text}", file=self.out, flush=True)


def start(
    processes: int,
    devices: int,
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    module: str = "jaxrobust.main",
    platform: str = "cpu",
    log_dir: str | os.PathLike[str] | None = None,
    out: TextIO | None = None,
) -> Group:
    """Starts `python -m module *argv` several times; returns at once.

    Args:
      processes: how many.
      devices: devices of each.
      argv: arguments of the module.
      env: environment in place of this process's own.
      module: what to run.
      platform: 'cpu' or 'cuda'.
      log_dir: gets `process-<index>.log`, appended to; None copies the output to `out`.
      out: where output and messages go, standard output by default.

    Raises:
      ValueError: for counts below 1, another platform, or fewer GPUs listed in
        CUDA_VISIBLE_DEVICES than asked for.
    """
    environments = [
        {**(os.environ if env is None else env), **own}
        for own in environment(processes, devices, platform, env)
    ]
    group = Group([], out or sys.stdout)
    command = [sys.executable, "-m", module, *argv]
    try:
        for index, own in enumerate(environments):
            _add(group, index, command, own, log_dir)
    except BaseException:
        group.send(signal.SIGKILL)
        raise
    return group


@contextlib.contextmanager
def signals_passed_on(group: Group) -> Iterator[None]:
    """Passes signals of this process on to a group; in the main thread only."""
    before = {n: signal.signal(n, lambda n, _: group.send(n)) for n in _PASSED_ON}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def environment(
    processes: int,
    devices: int,
    platform: str = "cpu",
    env: Mapping[str, str] | None = None,
) -> list[dict[str, str]]:
    """Returns the variables that tell each process who and where it is.

    Raises:
      ValueError: as `start`.
    """
    for name, value in (("processes", processes), ("devices", devices)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")
    if platform not in PLATFORMS:
        known = ", ".join(PLATFORMS)
        raise ValueError(f"`platform` must be one of {known}, got {platform!r}.")
    shared = {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}",
        "JAX_NUM_PROCESSES": str(processes),
        "JAX_PLATFORMS": platform,
        "PYTHONUNBUFFERED": "1",
    }
    result = [{**shared, "JAX_PROCESS_ID": str(i)} for i in range(processes)]
    if platform == "cpu":
        return [{**own, "JAX_NUM_CPU_DEVICES": str(devices)} for own in result]
    listed = (os.environ if env is None else env).get("CUDA_VISIBLE_DEVICES")
    needed = processes * devices
    cards = listed.split(",") if listed else [str(i) for i in range(needed)]
    if len(cards) < needed:
        raise ValueError(
            f"{processes} processes of {devices} devices need {needed} GPUs, but "
            f"CUDA_VISIBLE_DEVICES lists {len(cards)}: {listed}."
        )
    # Where it finds itself in a SLURM job, JAX would take one GPU per process.
    local = ",".join(str(i) for i in range(devices))
    for i, own in enumerate(result):
        mine = cards[i * devices : (i + 1) * devices]
        own |= {"CUDA_VISIBLE_DEVICES": ",".join(mine), "JAX_LOCAL_DEVICE_IDS": local}
    return result


def free_port() -> int:
    """Returns a port of this machine that nothing listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _add(
    group: Group,
    index: int,
    command: Sequence[str],
    env: Mapping[str, str],
    log_dir: str | os.PathLike[str] | None,
) -> None:
    """Starts one process in a session of its own.

    Ctrl-C in a terminal reaches every process of the session at once; a process must
    get it once only, from `Group.send`.
    """

    def spawn(output: int | IO[str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
            errors="replace",
        )
        group.processes.append(process)
        return process

    if log_dir is not None:
        folder = pathlib.Path(log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"process-{index}.log").open("a") as file:
            spawn(file)
        return
    pipe = spawn(subprocess.PIPE).stdout
    assert pipe is not None
    reader = threading.Thread(target=_copy, args=(pipe, index, group.out), daemon=True)
    reader.start()
    group.readers.append(reader)


def _copy(pipe: IO[str], index: int, out: TextIO) -> None:
    """Copies lines with the process's index before each."""
    with pipe:
        for line in pipe:
            out.write(f"[{index}] {line.rstrip()}\n")
            out.flush()


def _status(process: subprocess.Popen[str]) -> int:
    code = process.returncode
    return code if code >= 0 else 128 - code


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        usage="%(prog)s --processes N --devices M [options] -- [flags of the program]"
    )
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--devices", type=int, default=1, help="of each process")
    parser.add_argument("--platform", choices=PLATFORMS, default="cpu")
    parser.add_argument(
        "--log_dir", help="a file per process instead of standard output"
    )
    parser.add_argument("--patience", type=float, default=PATIENCE)
    parser.add_argument("--grace", type=float, default=GRACE)
    parser.add_argument("program", nargs=argparse.REMAINDER, help="after --")
    args = parser.parse_args(argv)
    program = args.program[1:] if args.program[:1] == ["--"] else args.program
    try:
        group = start(
            args.processes,
            args.devices,
            program,
            platform=args.platform,
            log_dir=args.log_dir,
        )
    except ValueError as error:
        parser.error(str(error))
    with signals_passed_on(group):
        return group.wait(args.patience, args.grace)


if __name__ == "__main__":
    sys.exit(main())
