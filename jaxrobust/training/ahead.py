"""On a CPU: the step of the next training, compiled in a thread while one runs."""

import contextlib
from collections.abc import Iterator, Mapping
from concurrent import futures
from typing import Any

import jax
from jax.sharding import Mesh

from jaxrobust.training.setup import build


@contextlib.contextmanager
def compiling(config: Mapping[str, Any] | None, mesh: Mesh) -> Iterator[None]:
    """Fills JAX's cache on the disk with the step of a config, None for none.

    It decides nothing: a training compiles as ever, and tells what is wrong. For
    accelerators two states at a time are too much, and several processes must compile
    in one order; there nothing is done.
    """
    settings: Any = jax.config
    on_cpu = jax.local_devices()[0].platform == "cpu"
    kept = settings.jax_compilation_cache_dir and jax.process_count() == 1
    pool = futures.ThreadPoolExecutor(1)
    # A start from another network says things that are to be said once.
    if config is not None and on_cpu and kept and not config["train"]["init_from"]:
        pool.submit(_compile_step, config, mesh)
    try:
        yield
    finally:
        pool.shutdown(cancel_futures=True)


def _compile_step(config: Mapping[str, Any], mesh: Mesh) -> None:
    run = build(config, mesh)
    try:
        step: Any = run.step
        for batch in run.feed.batches(0, 1):
            step.lower(run.state, batch, run.key).compile()
    finally:
        run.feed.close()
