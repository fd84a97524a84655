"""Long loads in threads, with a bar."""

import concurrent.futures
from collections.abc import Callable

import tqdm


def in_threads(
    work: Callable[[range], None], count: int, chunk: int, title: str
) -> None:
    """Calls `work` on all positions from 0 to `count`, `chunk` of them at a time.

    The first error ends it and is raised; what has not begun by then never runs.
    """
    chunks = [range(i, min(i + chunk, count)) for i in range(0, count, chunk)]
    # A bar only for loads long enough to wonder about, and never in a log file.
    bar = tqdm.tqdm(total=count, desc=title, leave=False, disable=None, delay=2)
    with bar, concurrent.futures.ThreadPoolExecutor() as pool:
        for positions, _ in zip(chunks, pool.map(work, chunks), strict=True):
            bar.update(len(positions))
