"""Many runs of one config, each with overrides of its own.

    jaxrobust sweep widths.txt --config ssp_mnist --workdir runs/widths --jobs 2

where widths.txt has one run per line:

    # comments and empty lines are left out
    --config.model.width=8 --config.seed=1
    --config.model.width=8 --config.seed=2

Each run gets a folder of its own under the work directory, named after its line, with
its output in `sweep.log`. The same command goes on: finished runs are skipped, others
resume. Other flags, such as --config.train.epochs=5 or --mode=train, are for all runs.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import queue
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from jaxrobust.runtime import files, lock, reading
from jaxrobust.training import config_file, fields, overrides
from jaxrobust.training.config import completed

LOG, FINISHED = "sweep.log", "sweep.json"
PROGRAM = ("-m", "jaxrobust.main")
_LONGEST = 100
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# In a process of its own: this one must not take the devices' memory.
_COUNT = """import jax
found = jax.local_devices()
print(found[0].platform, len({str(getattr(d, "coords", d.id)) for d in found}))"""


@dataclasses.dataclass(frozen=True)
class Job:
    """One run: the name of its folder, its arguments, and the config they make."""

    name: str
    arguments: tuple[str, ...]
    config: Mapping[str, Any]

    @property
    def identity(self) -> str:
        """The same for lines that ask for the same, in whatever words."""
        flags, _ = overrides.split(self.arguments)
        return json.dumps([flags, self.config], sort_keys=True)

    @property
    def finished(self) -> dict[str, Any]:
        """What stands in its folder once it is done."""
        plain = json.loads(json.dumps(self.config))
        return {"arguments": list(self.arguments), "config": plain}


def read(path: epath.PathLike, config: str, common: Sequence[str] = ()) -> list[Job]:
    """Reads the file of a sweep; `common` are arguments of all its runs.

    Raises:
      ValueError: naming the line that is wrong: its fields are looked at before any
        run starts.
    """
    jobs: dict[str, Job] = {}
    seen: dict[str, int] = {}
    for number, line in enumerate(files.expand(path).read_text().splitlines(), 1):
        try:
            words = shlex.split(line, comments=True)
            if not words:
                continue
            job = _job(words, config, common)
            if job.identity in seen:
                raise ValueError(f"line {seen[job.identity]} is the same run.")
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        jobs[job.name], seen[job.identity] = job, number
    if not jobs:
        raise ValueError(f"{path} has no run: give it a line of overrides for each.")
    return list(jobs.values())


def _job(words: Sequence[str], config: str, common: Sequence[str]) -> Job:
    others, _ = overrides.split([*common, *words])
    for word in others:
        if word.split("=")[0].lstrip("-") in ("config", "workdir"):
            raise ValueError(f"{word} is for the command line of the sweep.")
    own, _ = overrides.split(words)
    if own and not own[0].startswith("-"):
        raise ValueError(f"{own[0]} is no flag; fields are --config.NAME=VALUE.")
    _, given = overrides.split([*common, *words])
    settings = config_file.load(config)
    overrides.apply(settings, given)
    if found := fields.problems(settings.to_dict()):
        raise ValueError(" ".join(found))
    arguments = (f"--config={config}", *common, *words)
    return Job(name_of(words), arguments, settings.to_dict())


def name_of(words: Sequence[str]) -> str:
    """Names the folder of a run after its overrides: `model.width=8,seed=1`.

    The name depends on the line alone. What cannot stand in a name is replaced, and a
    digest then tells apart what would look the same.
    """
    others, given = overrides.split(words)
    parts = [f.field if f.text is None else f"{f.field}={f.text}" for f in given]
    parts = [*sorted(parts), *(word.lstrip("-") for word in others)]
    told = ",".join(parts)
    name = "".join(c if c.isalnum() or c in "=.,+-_" else "_" for c in told)[:_LONGEST]
    if name != told:
        name += f"-{hashlib.sha256(told.encode()).hexdigest()[:8]}"
    return name


def slots(platform: str, devices: Sequence[str], jobs: int) -> list[dict[str, str]]:
    """Returns the variables of each of the jobs that run at a time.

    On accelerators a job sees one device; where jobs share one, each its part of the
    memory. One job alone, and jobs on CPUs, see what this process sees.
    """
    if jobs == 1 or platform == "cpu":
        return [{} for _ in range(jobs)]
    given = list(itertools.islice(itertools.cycle(devices), jobs))
    if platform == "tpu":
        if jobs > len(devices):
            raise ValueError(
                f"`jobs` must be at most {len(devices)}, the TPU chips here, got "
                f"{jobs}: two processes cannot share one."
            )
        bounds = ("TPU_CHIPS_PER_PROCESS_BOUNDS", "TPU_PROCESS_BOUNDS")
        alone = dict.fromkeys(bounds, "1,1,1")
        return [{"TPU_VISIBLE_CHIPS": device, **alone} for device in given]
    most = -(-jobs // len(devices))
    part = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / most:.2f}"} if most > 1 else {}
    return [{"CUDA_VISIBLE_DEVICES": device, **part} for device in given]


def find_devices() -> tuple[str, list[str]]:
    """Returns the platform of this machine's devices, and what to call each."""
    command = [sys.executable, "-c", _COUNT]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    if told.returncode:
        raise OSError(f"the devices cannot be counted: {told.stderr.strip()[-500:]}")
    platform, count = told.stdout.split()[-2:]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "") if platform != "tpu" else ""
    named = [name.strip() for name in visible.split(",") if name.strip()]
    return platform, named or [str(i) for i in range(int(count))]


class SweepQueue:
    """Runs jobs under a folder, as many at a time as there are slots."""

    def __init__(self, root: epath.Path, slots: Sequence[Mapping[str, str]]) -> None:
        """Nothing runs yet."""
        self._root = root
        self._slots: queue.SimpleQueue[Mapping[str, str]] = queue.SimpleQueue()
        for slot in slots:
            self._slots.put(slot)
        self._count = len(slots)
        self._children: set[subprocess.Popen[bytes]] = set()
        self.stopped_by = 0

    def run(self, jobs: Sequence[Job]) -> dict[str, str]:
        """Runs them; returns what became of each, by name (see `_one`)."""
        outcomes: dict[str, str] = {}
        with concurrent.futures.ThreadPoolExecutor(self._count) as pool, self._ending():
            waiting = {pool.submit(self._one, job): job.name for job in jobs}
            for done in concurrent.futures.as_completed(waiting):
                name = waiting[done]
                try:
                    outcomes[name] = done.result()
                except (OSError, ValueError) as error:
                    outcomes[name] = f"failed: {error}"
                print(f"{name}: {outcomes[name]}", flush=True)
        return outcomes

    def _one(self, job: Job) -> str:
        """Returns what became of a run: `done`, `failed: ...` and others."""
        slot = self._slots.get()
        try:
            mine = files.own_folder(self._root / ".sweep" / job.name)
            with lock.held(mine):  # the run's own lock is for the process of the run
                return self._locked(job, slot)
        except BlockingIOError:
            return "elsewhere"
        finally:
            self._slots.put(slot)

    def _locked(self, job: Job, slot: Mapping[str, str]) -> str:
        folder = self._root / job.name
        if is_finished(folder, job):
            return "finished before"
        if self.stopped_by:
            return "stopped"
        files.own_folder(folder)
        print(f"{job.name}: started{_told(slot)}", flush=True)
        with files.append_to(folder / LOG) as log:
            status = self._wait([*job.arguments, f"--workdir={folder}"], slot, log)
        if self.stopped_by and status:
            return "stopped"
        if status:
            return f"failed: status {status}, {folder / LOG}: {_last(folder / LOG)}"
        files.write_json(folder / FINISHED, job.finished)
        return "done"

    def _wait(self, arguments: Sequence[str], slot: Mapping[str, str], log: Any) -> int:
        command = [sys.executable, *PROGRAM, *arguments]
        # In a session of its own Ctrl-C reaches it as SIGTERM, which saves.
        child = subprocess.Popen(
            command,
            env={**os.environ, **slot},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        self._children.add(child)
        if self.stopped_by:
            child.terminate()
        try:
            return child.wait()
        finally:
            self._children.discard(child)

    @contextlib.contextmanager
    def _ending(self) -> Iterator[None]:
        """Passes signals on: runs save, and no other starts."""

        def end(number: int, frame: object) -> None:
            self.stopped_by = number
            for child in list(self._children):
                child.terminate()

        before = {number: signal.signal(number, end) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def is_finished(folder: epath.Path, job: Job) -> bool:
    """Says whether a sweep has seen the end of this run, with this config."""
    try:
        found = reading.read_json(folder / FINISHED, kind=dict)
        there = {**found, "config": completed(found["config"])}
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return json.loads(json.dumps(there)) == job.finished


def _last(path: epath.Path) -> str:
    """Returns the last line of a log."""
    lines = pathlib.Path(path).read_text(errors="replace").strip().splitlines()
    return lines[-1][-300:] if lines else "(empty)"


def _told(slot: Mapping[str, str]) -> str:
    return "".join(f", {name}={value}" for name, value in list(slot.items())[:1])


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="jaxrobust sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("file", help="a line of overrides for each run")
    add("--config", required=True, help="config file, or the name of one of ours")
    add("--workdir", required=True, help="the folder of the runs' folders")
    add("--jobs", type=int, default=1, help="runs at a time; 0 = one per accelerator")
    args, common = parser.parse_known_args(argv)
    try:
        jobs = read(args.file, args.config, common)
        root = files.expand(args.workdir)
        if files.is_remote(root):
            raise ValueError(f"--workdir must be a folder of this machine, got {root}.")
        if args.jobs < 0:
            raise ValueError(f"--jobs must be at least 0, got {args.jobs}.")
        platform, devices = ("cpu", [""]) if args.jobs == 1 else find_devices()
        free = slots(platform, devices, args.jobs or len(devices))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    sweep = SweepQueue(root, free)
    return _conclude(sweep.run(jobs), sweep.stopped_by)


def _conclude(outcomes: Mapping[str, str], stopped_by: int) -> int:
    """Tells what became of the runs; returns the exit status."""
    kinds = collections.Counter(text.partition(":")[0] for text in outcomes.values())
    print(", ".join(f"{count} {kind}" for kind, count in kinds.items()))
    for name, text in outcomes.items():
        if text.startswith("failed"):
            print(f"{name}: {text}", file=sys.stderr)
    if stopped_by:
        print("the same command goes on.", file=sys.stderr)
        return 128 + stopped_by
    return 1 if kinds["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
