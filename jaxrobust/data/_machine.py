"""What this process may have of a machine: memory, and threads for long loads."""

import concurrent.futures
import contextlib
import os
import pathlib
import resource
from collections.abc import Callable, Iterable
from typing import TypeVar

import tqdm

_CGROUP = pathlib.Path("/sys/fs/cgroup/memory.max")
T = TypeVar("T")


def memory() -> int:
    """Bytes of memory that this process may have; 16 GiB where nothing says it."""
    known = []
    with contextlib.suppress(OSError, ValueError):
        known.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with contextlib.suppress(OSError, ValueError):  # "max" where there is no limit
        known.append(int(_CGROUP.read_text()))
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        known.append(limit)
    return min((n for n in known if n > 0), default=16 << 30)


def in_threads(
    work: Callable[[slice], Iterable[T]], count: int, chunk: int, title: str
) -> list[T]:
    """What `work` finds at all positions from 0 to `count`, `chunk` of them at a time.

    The first error ends it and is raised; what has not begun by then never runs.
    """
    parts = [slice(i, min(i + chunk, count)) for i in range(0, count, chunk)]
    # A bar only for loads long enough to wonder about, and never in a log file.
    bar = tqdm.tqdm(total=count, desc=title, leave=False, disable=None, delay=2)
    found: list[T] = []
    with bar, concurrent.futures.ThreadPoolExecutor() as pool:
        for part, of_part in zip(parts, pool.map(work, parts), strict=True):
            found += of_part
            bar.update(part.stop - part.start)
    return found
