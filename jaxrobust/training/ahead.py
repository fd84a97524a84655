"""On a CPU: the step of the next training, compiled in a thread while one runs."""

from collections.abc import Mapping
from concurrent import futures
from typing import Any

import jax
from jax.sharding import Mesh

from jaxrobust.training.setup import build


class Ahead:
    """Fills JAX's cache on the disk, and decides nothing: a training compiles as ever.

    For accelerators two states at a time are too much, and several processes must
    compile in one order; there it does nothing.
    """

    def __init__(self, config: Mapping[str, Any] | None, mesh: Mesh) -> None:
        """Starts with the config of the next training, if there is one."""
        self._pool = futures.ThreadPoolExecutor(1)
        on_cpu = jax.local_devices()[0].platform == "cpu"
        config_: Any = jax.config
        kept = config_.jax_compilation_cache_dir and jax.process_count() == 1
        self._task = None
        # A start from another network says things that are to be said once.
        if config is not None and on_cpu and kept and not config["train"]["init_from"]:
            self._task = self._pool.submit(_compile_step, config, mesh)

    def __enter__(self) -> "Ahead":
        """Starts."""
        return self

    def __exit__(self, *error: object) -> None:
        """Waits for what is being compiled; its errors are told by the training."""
        self._pool.shutdown(cancel_futures=True)


def _compile_step(config: Mapping[str, Any], mesh: Mesh) -> None:
    run = build(config, mesh)
    try:
        step: Any = run.step
        for batch in run.feed.batches(0, 1):
            step.lower(run.state, batch, run.key).compile()
    finally:
        run.feed.close()
