"""On CPUs: the steps of coming passes, compiled in a thread while a pass runs."""

from collections.abc import Callable, Mapping
from concurrent import futures

import jax


class CompiledAhead:
    """Compiles, and decides nothing: a pass compiles as if there were no thread.

    `jax.jit` finds what was compiled under equal settings of JAX, which are those of a
    thread: under others it compiles again.
    """

    def __init__(self, work: Mapping[str, Callable[[], None]]) -> None:
        """Takes what compiles each pass, by label, in their order."""
        self._pool = futures.ThreadPoolExecutor(1)
        # Accelerators try out kernels on the memory that a pass needs, and several
        # processes must compile in one order.
        on_cpu = jax.local_devices()[0].platform == "cpu"
        useful = on_cpu and jax.process_count() == 1
        self._begun = {k: self._pool.submit(f) for k, f in work.items() if useful}

    def __enter__(self) -> "CompiledAhead":
        """Starts."""
        return self

    def __exit__(self, *error: object) -> None:
        """Waits for what is being compiled, if anything."""
        self._pool.shutdown(cancel_futures=True)

    def wait(self, label: str) -> None:
        """Waits for a pass that is being compiled; takes back one that is not.

        An error is told by the pass's own compilation.
        """
        task = self._begun.get(label)
        if task is not None and not task.cancel():
            futures.wait([task])
