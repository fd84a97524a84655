"""What this process may have of a machine."""

import contextlib
import os
import pathlib
import resource

_CGROUP = pathlib.Path("/sys/fs/cgroup/memory.max")


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
